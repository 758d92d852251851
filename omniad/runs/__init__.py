"""The run folder: its files (files.py), reading and writing them, and which runs a target needs."""
