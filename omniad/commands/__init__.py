"""The commands, grouped by what they work on. Heavy imports stay inside the functions, so that `--help` is quick."""
