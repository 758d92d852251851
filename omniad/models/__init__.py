"""The models: `build_model` from settings, `load_model` from a run folder."""

from omniad.models.checkpoint import build_model, load_model, save_model
from omniad.models.method import Method
from omniad.models.omniad import OmniAD

__all__ = ["Method", "OmniAD", "build_model", "load_model", "save_model"]
