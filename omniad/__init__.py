"""Omni-AD: the paper's reproduction, and a detector for your own images.

The names below are loaded when they are first used, so `import omniad` takes no time. docs/from-python.md has examples.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omniad.detector.detector import Detector
    from omniad.detector.export import export
    from omniad.detector.fit import fit
    from omniad.detector.predict import predict
    from omniad.metrics import class_metrics
    from omniad.models import build_model, load_model

__version__ = "0.2.0"
__all__ = ["Detector", "build_model", "class_metrics", "export", "fit", "load_model", "predict"]

_MODULES = {
    "Detector": "omniad.detector.detector",
    "build_model": "omniad.models",
    "class_metrics": "omniad.metrics",
    "export": "omniad.detector.export",
    "fit": "omniad.detector.fit",
    "load_model": "omniad.models",
    "predict": "omniad.detector.predict",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'omniad' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
