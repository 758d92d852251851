"""The figures of the report: `all_figures.py` says which there are, `drawing.py` what all of them look like."""
