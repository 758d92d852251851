"""Claims of the text: `forms.py` reads them, `sources.py` finds their numbers, `checks.py` says whether they hold."""
