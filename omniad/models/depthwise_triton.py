"""Both depthwise convolutions of a local branch, 3x3 and 5x5, in one Triton kernel forwards and two backwards.

Maps are read where they lie, channels last, once for both. cuDNN's kernels for this layout take many times as long in
single precision. All arithmetic is in single precision. With TRITON_INTERPRET=1 the kernels run on a CPU, for tests.
"""
# Triton compiles a dialect of Python with its own types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

ROWS, CHANNELS = 32, 32  # positions and channels that one program works on
WEIGHT_ROWS = 128  # the same for the weights' gradients, of which each program writes a share
TAPS = 25 + 9 + 2  # of a channel: weights of 5x5 and of 3x3, two biases


def depthwise_pair(x: Tensor, size: tuple[int, int], conv3: nn.Conv2d, conv5: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """X (B, N, D), positions of an h x w map, through both convolutions: (B, N, D) each.

    Under autocast the results have its type, as a convolution's of PyTorch.
    """
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
    arguments = (conv3.weight, conv3.bias, conv5.weight, conv5.bias)
    return KernelDepthwisePair.apply(x, size, dtype, *arguments)  # type: ignore[return-value]


class KernelDepthwisePair(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, size: tuple[int, int], dtype: torch.dtype,
        weight3: Tensor, bias3: Tensor, weight5: Tensor, bias5: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        x, weight3, weight5 = x.contiguous(), weight3.contiguous(), weight5.contiguous()
        out3, out5 = (torch.empty_like(x, dtype=dtype) for _ in range(2))
        _forward[_grid(x)](x, weight3, bias3, weight5, bias5, out3, out5, *size, x.shape[2], ROWS, CHANNELS)
        ctx.save_for_backward(x, weight3, weight5)
        ctx.size = size
        return out3, out5

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight3, weight5 = ctx.saved_tensors
        up3, up5 = (gradient.contiguous() for gradient in gradients)
        d = x.shape[2]
        dx = torch.empty_like(x)
        _gradient_of_input[_grid(x)](up3, up5, weight3, weight5, dx, *ctx.size, d, ROWS, CHANNELS)
        grid = _grid(x, WEIGHT_ROWS)
        parts = x.new_empty(grid[1], grid[0], TAPS, d, dtype=torch.float32)  # one a program, added up below
        _gradient_of_weights[grid](x, up3, up5, parts, *ctx.size, d, TAPS, WEIGHT_ROWS, CHANNELS, num_warps=8)
        sums = parts.flatten(0, 1).sum(0)  # (TAPS, D)
        of5, of3 = sums[:25].T.reshape(weight5.shape), sums[25:34].T.reshape(weight3.shape)
        return dx, None, None, of3, sums[35], of5, sums[34]


def _grid(x: Tensor, rows: int = ROWS) -> tuple[int, int, int]:
    return triton.cdiv(x.shape[1], rows), x.shape[0], triton.cdiv(x.shape[2], CHANNELS)


@triton.jit
def _neighbours(rows, channels, down, right, h, w, d):
    """Places in (B, N, D) so far down and right of these positions, and which of them lie inside the map."""
    y, x = rows // w + down, rows % w + right
    inside = (rows < h * w) & (y >= 0) & (y < h) & (x >= 0) & (x < w)
    places = (tl.program_id(1) * h * w + y * w + x)[:, None] * d + channels[None, :]
    return places, inside[:, None] & (channels < d)[None, :]


@triton.jit
def _forward(
    x, weight3, bias3, weight5, bias5, out3, out5, h, w, d, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channels = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    there = channels < d
    sum3 = tl.zeros((ROWS, CHANNELS), tl.float32) + tl.load(bias3 + channels, mask=there, other=0.0)[None, :]
    sum5 = tl.zeros((ROWS, CHANNELS), tl.float32) + tl.load(bias5 + channels, mask=there, other=0.0)[None, :]
    for i in range(5):  # not unrolled: all its loads at once would fill the registers
        for j in tl.static_range(5):
            places, inside = _neighbours(rows, channels, i - 2, j - 2, h, w, d)
            value = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
            sum5 += value * tl.load(weight5 + channels * 25 + i * 5 + j, mask=there, other=0.0)[None, :]
            if j % 4 > 0:  # inside of 3x3, if i is too
                narrow = there & (i % 4 > 0)
                sum3 += value * tl.load(weight3 + channels * 9 + i * 3 + j - 4, mask=narrow, other=0.0)[None, :]
    places, inside = _neighbours(rows, channels, 0, 0, h, w, d)
    tl.store(out3 + places, sum3.to(out3.dtype.element_ty), mask=inside)
    tl.store(out5 + places, sum5.to(out5.dtype.element_ty), mask=inside)


@triton.jit
def _gradient_of_input(
    up3, up5, weight3, weight5, dx, h, w, d, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):  # fmt: skip
    """What each position gave to the positions around it, it gets back from them."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channels = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    there = channels < d
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    for i in range(5):
        for j in tl.static_range(5):
            places, inside = _neighbours(rows, channels, 2 - i, 2 - j, h, w, d)
            value = tl.load(up5 + places, mask=inside, other=0.0).to(tl.float32)
            total += value * tl.load(weight5 + channels * 25 + i * 5 + j, mask=there, other=0.0)[None, :]
            if j % 4 > 0:  # inside of 3x3, if i is too
                narrow = there & (i % 4 > 0)
                value = tl.load(up3 + places, mask=inside & narrow[None, :], other=0.0).to(tl.float32)
                total += value * tl.load(weight3 + channels * 9 + i * 3 + j - 4, mask=narrow, other=0.0)[None, :]
    places, inside = _neighbours(rows, channels, 0, 0, h, w, d)
    tl.store(dx + places, total.to(dx.dtype.element_ty), mask=inside)


@triton.jit
def _gradient_of_weights(
    x, up3, up5, parts, h, w, d, TAPS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):  # fmt: skip
    """This program's share of each weight's and each bias's gradient; parts is (B, chunks, TAPS, D)."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channels = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    there = channels < d
    part = parts + (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)) * TAPS * d + channels
    places, inside = _neighbours(rows, channels, 0, 0, h, w, d)
    given3 = tl.load(up3 + places, mask=inside, other=0.0).to(tl.float32)
    given5 = tl.load(up5 + places, mask=inside, other=0.0).to(tl.float32)
    for i in range(5):
        for j in tl.static_range(5):
            places, inside = _neighbours(rows, channels, i - 2, j - 2, h, w, d)
            value = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
            tl.store(part + (i * 5 + j) * d, tl.sum(value * given5, 0), mask=there)
            if j % 4 > 0:  # inside of 3x3, if i is too
                tl.store(part + (21 + i * 3 + j) * d, tl.sum(value * given3, 0), mask=there & (i % 4 > 0))
    tl.store(part + 34 * d, tl.sum(given5, 0), mask=there)
    tl.store(part + 35 * d, tl.sum(given3, 0), mask=there)
