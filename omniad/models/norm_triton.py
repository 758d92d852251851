"""InstanceNorm and SiLU in Triton kernels: two passes over memory forwards and two backwards.

PyTorch's own operations take some twenty passes, which is most of what a training step reads and writes. Each pass
here is split over chunks of the positions, so that few images fill a GPU too; what chunks find out is combined in the
next kernel (Chan's formula for means and variances). All arithmetic is in single precision. With TRITON_INTERPRET=1
the kernels run on a CPU, for tests.
"""
# Triton compiles a dialect of Python with its own types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, CHANNELS = 128, 32  # positions and channels that one program works on


class KernelNormSiLU(torch.autograd.Function):
    """silu(z), z = (x - mean x) / sqrt(var x + eps) over the N positions of x (B, N, D); in the type of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        b, n, d = x.shape
        grid = _grid(x)
        means, squares = (x.new_empty(b, grid[0], d, dtype=torch.float32) for _ in range(2))  # of each chunk
        mean, scale = (x.new_empty(b, d, dtype=torch.float32) for _ in range(2))
        out = torch.empty_like(x)
        _chunk_moments[grid](x, means, squares, n, d, ROWS, CHANNELS)
        chunks = triton.next_power_of_2(grid[0])
        _norm_silu[grid](x, means, squares, out, mean, scale, n, d, grid[0], eps, chunks, ROWS, CHANNELS)
        ctx.save_for_backward(x, mean, scale)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        x, mean, scale = ctx.saved_tensors
        upstream = gradients[0].contiguous()
        b, n, d = x.shape
        grid = _grid(x)
        sums, projections = (x.new_empty(b, grid[0], d, dtype=torch.float32) for _ in range(2))
        out = torch.empty_like(x)
        _chunk_sums[grid](x, upstream, mean, scale, sums, projections, n, d, ROWS, CHANNELS)
        chunks = triton.next_power_of_2(grid[0])
        _gradient[grid](
            x, upstream, mean, scale, sums, projections, out, n, d, grid[0], chunks, ROWS, CHANNELS
        )  # fmt: skip
        return out, None


def _grid(x: Tensor) -> tuple[int, int, int]:
    return triton.cdiv(x.shape[1], ROWS), x.shape[0], triton.cdiv(x.shape[2], CHANNELS)


@triton.jit
def _tile(n, d, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Places of this program's positions and channels in (B, N, D), and which of them exist."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channels = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    places = (tl.program_id(1) * n + rows)[:, None] * d + channels[None, :]
    return places, (rows < n)[:, None] & (channels < d)[None, :]


@triton.jit
def _chunk_place(d, CHANNELS: tl.constexpr):
    """Places of this program's chunk in (B, chunks, D)."""
    channels = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    return (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)) * d + channels, channels < d


@triton.jit
def _all_chunks(d, count, CHUNKS: tl.constexpr, CHANNELS: tl.constexpr):
    """Places of all chunks of this program's image and channels in (B, chunks, D)."""
    chunks, channels = tl.arange(0, CHUNKS), tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    places = (tl.program_id(1) * count + chunks)[:, None] * d + channels[None, :]
    return places, (chunks < count)[:, None] & (channels < d)[None, :]


@triton.jit
def _chunk_moments(x, means, squares, n, d, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    places, inside = _tile(n, d, ROWS, CHANNELS)
    tile = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(tile, 0) / tl.minimum(ROWS, n - tl.program_id(0) * ROWS)
    deviation = tl.where(inside, tile - mean[None, :], 0.0)
    place, exists = _chunk_place(d, CHANNELS)
    tl.store(means + place, mean, mask=exists)
    tl.store(squares + place, tl.sum(deviation * deviation, 0), mask=exists)


@triton.jit
def _norm_silu(
    x, means, squares, out, mean_out, scale_out, n, d, count, eps,
    CHUNKS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    places, inside = _all_chunks(d, count, CHUNKS, CHANNELS)
    of_chunks = tl.load(means + places, mask=inside, other=0.0)
    size = tl.minimum(ROWS, n - tl.arange(0, CHUNKS) * ROWS).to(tl.float32)[:, None]
    mean = tl.sum(tl.where(inside, size * of_chunks, 0.0), 0) / n
    between = of_chunks - mean[None, :]
    within = tl.load(squares + places, mask=inside, other=0.0)
    variance = tl.sum(tl.where(inside, within + size * between * between, 0.0), 0) / n
    scale = 1 / tl.sqrt(variance + eps)

    places, inside = _tile(n, d, ROWS, CHANNELS)
    z = (tl.load(x + places, mask=inside, other=0.0).to(tl.float32) - mean[None, :]) * scale[None, :]
    tl.store(out + places, (z * tl.sigmoid(z)).to(out.dtype.element_ty), mask=inside)
    if tl.program_id(0) == 0:
        channels = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
        tl.store(mean_out + tl.program_id(1) * d + channels, mean, mask=channels < d)
        tl.store(scale_out + tl.program_id(1) * d + channels, scale, mask=channels < d)


@triton.jit
def _z_and_gradient(x, upstream, mean, scale, n, d, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """z, dz = dy silu'(z) (0 outside) and the scale, of this program's tile."""
    channels = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    place, exists = tl.program_id(1) * d + channels, channels < d
    scale_here = tl.load(scale + place, mask=exists, other=0.0)
    mean_here = tl.load(mean + place, mask=exists, other=0.0)
    places, inside = _tile(n, d, ROWS, CHANNELS)
    z = (tl.load(x + places, mask=inside, other=0.0).to(tl.float32) - mean_here[None, :]) * scale_here[None, :]
    dy = tl.load(upstream + places, mask=inside, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(z)
    return z, dy * sigmoid * (1 + z * (1 - sigmoid)), scale_here


@triton.jit
def _chunk_sums(
    x, upstream, mean, scale, sums, projections, n, d, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):  # fmt: skip
    z, dz, _ = _z_and_gradient(x, upstream, mean, scale, n, d, ROWS, CHANNELS)
    place, exists = _chunk_place(d, CHANNELS)
    tl.store(sums + place, tl.sum(dz, 0), mask=exists)
    tl.store(projections + place, tl.sum(dz * z, 0), mask=exists)


@triton.jit
def _gradient(
    x, upstream, mean, scale, sums, projections, out, n, d, count,
    CHUNKS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """dx = (dz - mean(dz) - z mean(dz z)) / s."""
    places, inside = _all_chunks(d, count, CHUNKS, CHANNELS)
    average = tl.sum(tl.load(sums + places, mask=inside, other=0.0), 0) / n
    projection = tl.sum(tl.load(projections + places, mask=inside, other=0.0), 0) / n
    z, dz, scale_here = _z_and_gradient(x, upstream, mean, scale, n, d, ROWS, CHANNELS)
    dx = (dz - average[None, :] - z * projection[None, :]) * scale_here[None, :]
    places, inside = _tile(n, d, ROWS, CHANNELS)
    tl.store(out + places, dx.to(out.dtype.element_ty), mask=inside)
