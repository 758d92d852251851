"""The models: `build_model` from settings, `load_model` from a run folder."""

from omniad.models.checkpoint import build_model, load_model, save_model
from omniad.models.method import Method, TrainingFree
from omniad.models.omniad import OmniAD

__all__ = ["Method", "OmniAD", "TrainingFree", "build_model", "load_model", "save_model"]
