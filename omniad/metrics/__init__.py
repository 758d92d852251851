"""From arrays to numbers: the seven metrics of a class in both definitions. Needs no torch.

>>> import numpy as np
>>> maps = np.zeros((2, 4, 4), np.float32)
>>> maps[1, 1:3, 1:3] = 1.0
>>> class_metrics(maps, maps > 0)["AU-PRO"]
1.0
"""

from omniad.metrics.definitions import DEFINITIONS, METRICS, ClassResult, Measured
from omniad.metrics.from_maps import class_metrics, evaluate_class, metrics_of_files

__all__ = ["DEFINITIONS", "METRICS", "ClassResult", "Measured", "class_metrics", "evaluate_class", "metrics_of_files"]
