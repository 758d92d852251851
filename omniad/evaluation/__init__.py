"""From a checkpoint to its numbers: anomaly maps, the seven metrics in both definitions, the run folder's files."""

from omniad.evaluation.definitions import DEFINITIONS, METRICS, ClassResult, Measured
from omniad.evaluation.metrics import class_metrics, evaluate_class, metrics_of_files

__all__ = ["DEFINITIONS", "METRICS", "ClassResult", "Measured", "class_metrics", "evaluate_class", "metrics_of_files"]
