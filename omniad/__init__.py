"""Omni-AD: the paper's reproduction, and its detector for one's own images.

`omniad.fit`, `omniad.predict`, `omniad.export` and `omniad.Detector` are loaded when they are first used, so that
`import omniad` takes no time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omniad.own_images.detector import Detector
    from omniad.own_images.export import export
    from omniad.own_images.fit import fit
    from omniad.own_images.predict import predict

__version__ = "0.1.0"
__all__ = ["Detector", "export", "fit", "predict"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'omniad' has no attribute '{name}'")
    return getattr(importlib.import_module(f"omniad.own_images.{name.lower()}"), name)
