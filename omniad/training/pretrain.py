"""Pretraining of an encoder for the miniatures, where no published weights are at hand. Not part of the paper's method.

The task: in a collage of materials, tell at every position of every feature map which material is there. It teaches
local features in a few hundred small steps, because every position is a training example.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from tqdm import tqdm

from omniad.config import PretrainSettings
from omniad.data.packs import normalise
from omniad.files import atomic_write
from omniad.miniature.collages import collages, materials
from omniad.models.any_encoder import make_encoder
from omniad.models.encoder import FrozenEncoder

LEARNING_RATE = 5e-3
WEIGHT_DECAY = 1e-2

log = logging.getLogger(__name__)


def pretrain(encoder_name: str, width: int, settings: PretrainSettings, seed: int, out_file: Path) -> list[float]:
    """Train an encoder on collages of training areas, on the CPU, and write its weights under torchvision's names.

    Args:
        encoder_name: of `model.encoder`; `width` is its `encoder_width`.
        settings: steps, collages a step, their side in pixels.
        seed: of the weights and the collages; the same seed and thread count give the same file.
        out_file: .safetensors, as `omniad.models.load_weights` reads it.

    Returns:
        The loss of every step: cross-entropy, summed over the feature maps.

    Raises:
        UserError: the file can't be written.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    sources = list(materials(seed).values())
    encoder = make_encoder(encoder_name, width)
    losses = _fit(encoder, sources, settings, rng, f"pretrain {encoder_name}, width {width}")
    with atomic_write(out_file, "wb") as file:
        file.write(safetensors.torch.save(encoder.state_dict()))
    return losses


def _fit(
    encoder: FrozenEncoder,
    sources: list[list[np.ndarray]],
    settings: PretrainSettings,
    rng: np.random.Generator,
    title: str,
) -> list[float]:
    heads = nn.ModuleList(nn.Conv2d(channels, len(sources), 1) for channels in encoder.channels)
    encoder.requires_grad_(True)
    for module in encoder.modules():  # `encoder.train()` keeps the encoder frozen; here BatchNorm has to learn
        module.training = True
    optimizer = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=settings.steps, pct_start=0.2)
    losses = []
    for step in tqdm(range(settings.steps), desc=title, unit="step", disable=not sys.stderr.isatty()):
        images, labels = collages(sources, settings.batch_size, settings.crop_size, rng)
        loss = _loss(encoder.maps(normalise(images)), heads, torch.from_numpy(labels))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step == 0 or step + 1 == settings.steps:
            log.info("%s: step %d of %d, loss %.3f", title, step + 1, settings.steps, losses[-1])
    return losses


def _loss(maps: list[Tensor], heads: nn.ModuleList, labels: Tensor) -> Tensor:
    """Cross-entropy at every position, summed over the maps; `labels` (B, S, S) are read at positions' centres."""
    total = maps[0].new_zeros(())
    for feature_map, head in zip(maps, heads, strict=True):
        stride = labels.shape[1] // feature_map.shape[2]
        centres = labels[:, stride // 2 :: stride, stride // 2 :: stride]  # (B, h, w)
        total = total + nn.functional.cross_entropy(head(feature_map), centres)
    return total
