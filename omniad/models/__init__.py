"""The models: `build_model` from settings, `load_model` from a run folder."""

from omniad.models.checkpoint import WEIGHTS_FILE, build_model, load_model, save_model
from omniad.models.method import Method, TrainingFree
from omniad.models.omniad import OmniAD

__all__ = ["WEIGHTS_FILE", "Method", "OmniAD", "TrainingFree", "build_model", "load_model", "save_model"]
