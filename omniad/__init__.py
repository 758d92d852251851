"""Omni-AD: the paper's reproduction, and its detector for one's own images.

`omniad.fit`, `omniad.predict`, `omniad.export` and `omniad.Detector` are loaded when they are first used, so that
`import omniad` takes no time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omniad.detector.detector import Detector
    from omniad.detector.export import export
    from omniad.detector.fit import fit
    from omniad.detector.predict import predict

__version__ = "0.1.0"
__all__ = ["Detector", "export", "fit", "predict"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'omniad' has no attribute '{name}'")
    return getattr(importlib.import_module(f"omniad.detector.{name.lower()}"), name)
