"""The models: `build_model` from settings, `load_model` from a run folder."""

from omniad.models.omniad import OmniAD, build_model, load_model, save_model

__all__ = ["OmniAD", "build_model", "load_model", "save_model"]
