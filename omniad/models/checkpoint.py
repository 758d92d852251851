"""Building a method's model from settings, saving it to one file, and loading it from a run folder."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import yaml

from omniad.config import MethodName, ModelSettings, RunSettings, to_yaml, validate
from omniad.errors import UserError
from omniad.files import atomic_write, reading
from omniad.models.baselines.destseg import DeSTSeg
from omniad.models.baselines.diad import DiAD
from omniad.models.baselines.dinomaly import Dinomaly
from omniad.models.baselines.mambaad import MambaAD
from omniad.models.baselines.padim import PaDiM
from omniad.models.baselines.patchcore import PatchCore
from omniad.models.baselines.rd4ad import RD4AD
from omniad.models.baselines.rlr import RLR
from omniad.models.baselines.simplenet import SimpleNet
from omniad.models.baselines.uniad import UniAD
from omniad.models.encoder import check_entries, read_entries
from omniad.models.method import Method
from omniad.models.omniad import OmniAD
from omniad.models.patch_memory import PatchMemory
from omniad.runs.files import CONFIG, MODEL
from omniad.runs.provenance import load_run_settings

MOST_METADATA, DEEPEST = 20_000, 4  # characters of the settings in a file of weights, and groups within groups
METHODS: dict[MethodName, type[Method]] = {
    "omni-ad": OmniAD,
    "rd4ad": RD4AD,
    "uniad": UniAD,
    "simplenet": SimpleNet,
    "mambaad": MambaAD,
    "rlr": RLR,
    "destseg": DeSTSeg,
    "diad": DiAD,
    "dinomaly": Dinomaly,
    "patchcore": PatchCore,
    "padim": PaDiM,
    "patch-memory": PatchMemory,
}


def epochs_of(run: RunSettings) -> int:
    """Epochs of a run's training; 0 for a method that has no steps, whatever its settings say."""
    return 0 if METHODS[run.model.method].training_free else run.training.epochs


def build_model(config: ModelSettings | RunSettings | Mapping[str, Any]) -> Method:
    """The model of some settings, `model.method`'s, with random weights from torch's generator; reads no file.

    Args:
        config: a run's settings, its model section, or that section as a mapping (missing keys are defaults).

    Raises:
        UserError: a key or value is not allowed, the method has no such encoder, or the heads do not divide a width.
    """
    if isinstance(config, Mapping):
        config = validate(ModelSettings, dict(config), "model settings")
    settings = config.model if isinstance(config, RunSettings) else config
    return METHODS[settings.method](settings)


def save_model(model: Method, settings: ModelSettings, path: str | Path) -> None:
    """Write all weights, the encoder's too, and the model's settings to one safetensors file without time or path."""
    entries = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with atomic_write(path, "wb") as file:
        file.write(safetensors.torch.save(entries, metadata={"model": to_yaml(settings)}))


def load_model(run_dir: str | Path, device: str | torch.device = "cpu") -> Method:
    """The model of a run folder (`config.yaml`, `model.safetensors`), in eval mode.

    Raises:
        UserError: a file is missing or damaged, or the weights do not fit the settings (entries named).
    """
    settings = load_run_settings(run_dir).model
    file = Path(run_dir) / MODEL
    entries = read_entries(file)
    _check_settings(settings, file)
    with torch.device("meta"):
        model = build_model(settings)  # names and shapes; drawing weights that are replaced at once would waste time
    expected = model.state_dict()
    check_entries(expected, entries, str(file))
    model.load_state_dict({name: value.to(expected[name].dtype) for name, value in entries.items()}, assign=True)
    return model.to(device).eval()


def _check_settings(settings: ModelSettings, file: Path) -> None:
    """Refuse a config.yaml whose model is not the one in the file: Q or KV, or the heads, do not show in the shapes."""
    with reading(file, "its metadata was not written by `omniad train`; remove it, or train again"):
        with safetensors.safe_open(file, framework="pt") as handle:
            text = (handle.metadata() or {}).get("model", "{}")
        trained = _plain_yaml(text)
        if not isinstance(trained, dict):
            raise ValueError("'model' contains no settings")
    free = ("jitter", "projection", "encoder_weights")  # do not change what the weights mean
    differ = [
        f"{key} is {reprlib.repr(value)}, trained with {reprlib.repr(trained[key])}"
        for key, value in settings.model_dump(exclude=set(free)).items()
        if trained.get(key, value) != value
    ]
    if differ:
        raise UserError(
            f"{file.parent / CONFIG}: does not match the model in {file.name}: model.{'; model.'.join(differ)}"
        )


def _plain_yaml(text: str) -> Any:
    """YAML as settings are written: short, a list within a group at most, no alias, which make gigabytes of a line."""
    if len(text) > MOST_METADATA:
        raise ValueError(f"'model' has more than {MOST_METADATA:,} characters")
    depth = 0
    for event in yaml.parse(text):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST or isinstance(event, yaml.AliasEvent):
            raise ValueError("'model' is not a plain group of settings")
    return yaml.safe_load(text)
