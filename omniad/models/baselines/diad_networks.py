"""DiAD's networks, from the library diffusers: a latent diffusion model and the network that guides its decoder.

Own is the SFF block (spatial-aware feature fusion) and the choice of what of the guiding network reaches the decoder.
The library is imported where it is used: that takes seconds, and only DiAD needs it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniad.errors import NotInstalled

PROMPT = (77, 768)  # tokens of the text encoder's context, and their width
HINT = (16, 32, 96, 256)  # channels of the hint's branch at full width
SOURCES, FUSED = (6, 7, 8), (9, 10, 11)  # skips at 1/32 of the image, and those at 1/64 that they are fused into


def diffusers() -> Any:
    """The library. Raises NotInstalled, which says what to install, where it is missing."""
    try:
        import diffusers as library
    except ImportError:
        raise NotInstalled("DiAD needs the library diffusers: python -m pip install 'omniad[diad]'") from None
    return library


def make_autoencoder(width: int) -> Any:
    """KL-f8: images (B, 3, 8h, 8w) <-> latents (B, 4, h, w); at width 64 Stable Diffusion's, 83,653,863 parameters."""
    first = 2 * width
    return diffusers().AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(first, 2 * first, 4 * first, 4 * first),
        layers_per_block=2,
        norm_num_groups=math.gcd(32, first),
    )


def make_unet(width: int) -> Any:
    """Predicts the noise in latents; at width 64 Stable Diffusion v1's, 859,520,964 parameters."""
    first = 5 * width
    return diffusers().UNet2DConditionModel(
        block_out_channels=(first, 2 * first, 4 * first, 4 * first),
        cross_attention_dim=PROMPT[1],
        norm_num_groups=math.gcd(32, first),
    )


class SemanticGuide(nn.Module):
    """The SG network: a ControlNet whose coarsest skips are fused with the ones before them by the SFF block."""

    def __init__(self, unet: Any, width: int):
        """Starts as a copy of `unet`'s encoder and middle."""
        super().__init__()
        hint = tuple(channels * width // 64 for channels in HINT)
        self.control: Any = diffusers().ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=hint)
        # What the first six skips give reaches nothing: their layers never have a gradient.
        self.control.controlnet_down_blocks[: SOURCES[0]].requires_grad_(False)
        channels = unet.config.block_out_channels
        self.fusion = SpatialFusion(channels[1], channels[2])

    def forward(self, latents: Tensor, times: Tensor, prompt: Tensor, hint: Tensor) -> tuple[list[Tensor], Tensor]:
        """Latents (B, 4, h, w), hint = the images (B, 3, 8h, 8w) -> what is added to the skips, and to the middle.

        The authors let only the middle and the three skips at 1/64 through; zeros stand for the others.
        """
        skips, middle = self.control(
            latents, times, encoder_hidden_states=prompt, controlnet_cond=hint, return_dict=False
        )
        fused = self.fusion([skips[j] for j in SOURCES], [skips[j] for j in FUSED])
        return [latents.new_zeros(())] * FUSED[0] + fused, middle


class SpatialFusion(nn.Module):
    """The SFF block: SiLU(skip_j + A_j(skip_6) + B_j(skip_7) + C_j(skip_8)) for j = 9, 10, 11."""

    def __init__(self, fine: int, coarse: int):
        """`fine`: channels of skip 6; `coarse`: of all others."""
        super().__init__()
        self.branches = nn.ModuleList(
            nn.ModuleList(_zero_branch(channels, coarse) for channels in (fine, coarse, coarse)) for _ in FUSED
        )

    def forward(self, sources: list[Tensor], skips: list[Tensor]) -> list[Tensor]:
        """Three sources (B, C, 2h, 2w) and three skips (B, D, h, w) -> the fused skips."""
        fused = []
        for skip, branches in zip(skips, self.branches, strict=True):
            for source, branch in zip(sources, branches, strict=True):  # type: ignore[arg-type]
                skip = skip + branch(source)
            fused.append(F.silu(skip))
        return fused


def _zero_branch(channels: int, out: int) -> nn.Sequential:
    """(B, C, 2h, 2w) -> (B, D, h, w); zero before it is trained."""
    conv = nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False)
    nn.init.zeros_(conv.weight)
    return nn.Sequential(conv, nn.InstanceNorm2d(out), nn.SiLU())


def make_scheduler() -> Any:
    """The noise's schedule, and DDIM's steps along it: as the authors', which are Stable Diffusion's.

    A new one each time: it carries its tables to the device of what it is given.
    """
    with torch.device("cpu"):
        return diffusers().DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        )
