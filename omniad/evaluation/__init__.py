"""A run folder is scored: test images to anomaly maps, metrics and the files that a report reads."""
