"""Omni-AD: frozen encoder, neck, decoder (Fig. 1); building, saving and loading it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import yaml
from torch import Tensor, nn

from omniad.config import ModelSettings, RunSettings, load_run_settings, to_yaml, validate
from omniad.errors import UserError
from omniad.files import atomic_write
from omniad.models.decoder import Decoder
from omniad.models.encoder import Encoder, check_entries, read_entries
from omniad.models.neck import Neck, jitter

WEIGHTS_FILE = "model.safetensors"


class OmniAD(nn.Module):
    """Reconstructs the features that a frozen encoder sees; anomalies are where that fails.

    Args:
        settings: the model's; weights are drawn from torch's global generator.

    Raises:
        UserError: the heads do not divide the width of a stage.
    """

    def __init__(self, settings: ModelSettings):
        super().__init__()
        self.settings = settings
        self.projection_generator = torch.Generator("cpu")  # of the `released` reading's random projections
        self.seed_projection(0)
        self.encoder = Encoder(settings.encoder, settings.encoder_width)
        c1, c2, c3 = self.encoder.channels
        if c1 % settings.heads:
            raise UserError(f"model.heads: {settings.heads} heads do not divide the {c1} channels of the finest stage")
        expansion = c1 // settings.encoder_width
        # Inner width 128 for basic ResNets and 2048 for bottleneck ones (see Neck).
        self.neck = Neck(self.encoder.channels, inner=2 * c3 // 4 * expansion)
        self.decoder = Decoder([2 * c3, c3, c2, c1], settings, self.projection_generator)

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Normalised images (B, 3, H, W) -> features, reconstructions.

        Both are [(B, C, H/4, W/4), (B, 2C, H/8, W/8), (B, 4C, H/16, W/16)], finest first.
        """
        features = self.encoder(images)
        return features, self.reconstruct(features)

    def reconstruct(self, features: list[Tensor]) -> list[Tensor]:
        """Features, as the encoder gives them, -> reconstructions of the same shapes; jittered in training.

        Raises:
            UserError: the maps' sides can't be halved three times, or leave a single position, which has no variance.
        """
        height, width = features[0].shape[2:]
        if height % 8 or width % 8 or height * width <= 64:
            raise UserError(
                f"images of {4 * height}x{4 * width} pixels do not fit the model: "
                "sides must be multiples of 32, and more than 32"
            )
        fused = self.neck(features)  # (B, 8C, H/32, W/32)
        if self.training and self.settings.jitter:
            fused = jitter(fused, self.settings.jitter)
        return self.decoder(fused)

    def seed_projection(self, seed: int) -> None:
        """Start the `released` reading's random projections from a seed; the same seed repeats the same draws."""
        self.projection_generator.manual_seed(seed)


def build_model(config: ModelSettings | RunSettings | Mapping[str, Any]) -> OmniAD:
    """The model of some settings, with random weights from torch's generator; reads no file.

    Args:
        config: a run's settings, its model section, or that section as a mapping (missing keys are defaults).

    Raises:
        UserError: a key or value is not allowed, or the heads do not divide the width of a stage.
    """
    if isinstance(config, Mapping):
        config = validate(ModelSettings, dict(config), "model settings")
    settings = config.model if isinstance(config, RunSettings) else config
    return OmniAD(settings)


def save_model(model: OmniAD, settings: ModelSettings, path: str | Path) -> None:
    """Write all weights, the encoder's too, and the model's settings to one safetensors file without time or path."""
    entries = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with atomic_write(path, "wb") as file:
        file.write(safetensors.torch.save(entries, metadata={"model": to_yaml(settings)}))


def load_model(run_dir: str | Path, device: str | torch.device = "cpu") -> OmniAD:
    """The model of a run folder (`config.yaml`, `model.safetensors`), in eval mode.

    Raises:
        UserError: a file is missing or damaged, or the weights do not fit the settings (entries named).
    """
    settings = load_run_settings(run_dir).model
    file = Path(run_dir) / WEIGHTS_FILE
    entries = read_entries(file)
    _check_settings(settings, file)
    with torch.device("meta"):
        model = build_model(settings)  # names and shapes; drawing weights that are replaced at once would waste time
    check_entries(model.state_dict(), entries, str(file))
    model.load_state_dict(entries, assign=True)
    return model.to(device).eval()


def _check_settings(settings: ModelSettings, file: Path) -> None:
    """Refuse a config.yaml whose model is not the one in the file: Q or KV, or the heads, do not show in the shapes."""
    with safetensors.safe_open(file, framework="pt") as handle:
        trained = yaml.safe_load((handle.metadata() or {}).get("model", "{}"))
    free = ("jitter", "projection", "encoder_weights")  # do not change what the weights mean
    differ = [
        f"{key} is {value!r}, trained with {trained[key]!r}"
        for key, value in settings.model_dump(exclude=set(free)).items()
        if trained.get(key, value) != value
    ]
    if differ:
        raise UserError(f"{file.parent / 'config.yaml'}: not the model in {file.name}: model.{'; model.'.join(differ)}")
