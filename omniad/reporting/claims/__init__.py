"""Claims of the text: `forms.py` reads them, `parts.py` (with `exact.py`) makes them comparisons of the numbers that
`sources.py` finds, `comparisons.py` weighs each against chance, `checks.py` says whether a claim holds."""
