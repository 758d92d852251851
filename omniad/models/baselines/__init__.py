"""Table I's other methods, one file each, written from their descriptions; each names its source and deviations."""
