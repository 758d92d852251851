"""Evaluate a run folder: from test images to anomaly maps, metrics and the files that a report reads."""
