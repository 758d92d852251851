"""The run folder: its files (files.py), what is read from and written to them, and which runs a target needs."""
