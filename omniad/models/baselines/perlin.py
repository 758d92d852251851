"""Synthetic defects: a region where Perlin noise is high shows another texture."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from omniad.data.folders import LeftOut, images_in
from omniad.data.images import decode_image
from omniad.data.packs import normalise
from omniad.errors import UserError

THRESHOLD = 0.5
LARGEST_FREQUENCY = 5  # cells along a side: 2^0 ... 2^5, drawn for rows and columns
LARGEST_ROTATION = math.pi / 2  # of the noise, to either side
LARGEST_OPACITY = 0.8  # of the original image inside a defect


Draws = torch.Generator | None  # what draws come from; None is torch's global generator


def plant_defects(images: Tensor, textures: str, generator: Draws = None) -> tuple[Tensor, Tensor]:
    """Images with a synthetic defect each, and masks of the defects (B, 1, H, W) of 0 and 1; drawn on the CPU.

    Args:
        images: (B, 3, H, W), normalised.
        textures: folder of texture images (DTD's); "" takes other images of the batch, mirrored and shifted.
    """
    count, size = len(images), (images.shape[2], images.shape[3])
    masks = torch.stack([perlin_noise(size, generator) > THRESHOLD for _ in range(count)])[:, None].to(images)
    if textures:
        sources = textures_of_folder(textures, count, size, generator).to(images)
    else:
        sources = textures_of_batch(images, generator)
    opacity = (torch.rand(count, 1, 1, 1, generator=generator) * LARGEST_OPACITY).to(images)
    return torch.where(masks > 0, opacity * images + (1 - opacity) * sources, images), masks


def textures_of_batch(images: Tensor, generator: Draws = None) -> Tensor:
    """For every image another one of the batch, mirrored and shifted at random: (B, 3, H, W)."""
    partners = images.roll(1 + int(torch.randint(max(1, len(images) - 1), (), generator=generator)), dims=0)
    textures = []
    for image in partners:
        flips = [axis for axis in (1, 2) if torch.rand((), generator=generator) < 0.5]
        shifts = [int(torch.randint(side, (), generator=generator)) for side in image.shape[1:]]
        textures.append(image.flip(flips).roll(shifts, dims=(1, 2)))
    return torch.stack(textures)


def textures_of_folder(folder: str, count: int, size: tuple[int, int], generator: Draws = None) -> Tensor:
    """Images drawn from a folder, resized and normalised: (count, 3, H, W).

    Raises:
        UserError: there are none.
    """
    files = _image_files(folder)
    picked = [files[int(torch.randint(len(files), (), generator=generator))] for _ in range(count)]
    shape = (size[1], size[0])
    images = [decode_image(file, upright=False).resize(shape, Image.Resampling.BILINEAR) for file in picked]
    arrays = [np.asarray(image) for image in images]
    return normalise(np.stack(arrays))


@lru_cache(maxsize=2)
def _image_files(folder: str) -> list[Path]:
    files = images_in(Path(folder), LeftOut()) if Path(folder).is_dir() else []
    if not files:
        raise UserError(
            f"training.textures: no images in {folder}; `omniad fetch dtd` and `omniad extract dtd` bring them, or set "
            "it to '' for textures of other images, which is another method"
        )
    return files


def perlin_noise(size: tuple[int, int], generator: Draws = None) -> Tensor:
    """Perlin noise in about [-1, 1] on the CPU, (H, W): random gradients, frequencies along both axes, and rotation."""
    cells = [2 ** int(torch.randint(LARGEST_FREQUENCY + 1, (), generator=generator)) for _ in size]
    angles = 2 * math.pi * torch.rand(cells[0] + 1, cells[1] + 1, generator=generator)
    noise = noise_of_gradients(torch.stack([angles.sin(), angles.cos()]), size)
    return rotated(noise, (2 * float(torch.rand((), generator=generator)) - 1) * LARGEST_ROTATION)


def rotated(noise: Tensor, angle: float) -> Tensor:
    """(H, W), H = W, turned by an angle, radians, about its centre; bilinear, with zeros from outside."""
    cosine, sine = math.cos(angle), math.sin(angle)
    matrix = torch.tensor([[[cosine, -sine, 0.0], [sine, cosine, 0.0]]])
    grid = F.affine_grid(matrix, [1, 1, *noise.shape], align_corners=False)
    return F.grid_sample(noise[None, None], grid, align_corners=False)[0, 0]


def noise_of_gradients(gradients: Tensor, size: tuple[int, int]) -> Tensor:
    """Gradients (2, r + 1, c + 1) of rows and columns at the corners of r x c cells -> noise (H, W)."""
    lower, inside = [], []
    for side, corners in zip(size, gradients.shape[1:], strict=True):
        place = torch.arange(side) * ((corners - 1) / side)
        lower.append(place.long())
        inside.append(place - place.floor())
    dy, dx = inside[0][:, None], inside[1][None]
    corners = []
    for down in (0, 1):
        for right in (0, 1):
            g = gradients[:, (lower[0] + down)[:, None], (lower[1] + right)[None]]  # (2, H, W)
            corners.append(g[0] * (dy - down) + g[1] * (dx - right))
    fade_y, fade_x = _fade(dy), _fade(dx)
    top, bottom = torch.lerp(corners[0], corners[1], fade_x), torch.lerp(corners[2], corners[3], fade_x)
    return math.sqrt(2) * torch.lerp(top, bottom, fade_y)


def _fade(t: Tensor) -> Tensor:
    return t**3 * (t * (6 * t - 15) + 10)
