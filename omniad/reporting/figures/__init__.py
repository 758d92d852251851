"""The figures of the report: `all_figures.py` lists them, `drawing.py` has their common style."""
