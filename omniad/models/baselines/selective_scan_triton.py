"""The selective scan as Triton kernels, forward and backward, without ever writing the states of all steps to memory.

A program scans D_BLOCK channels of one image in one order; their states (D, N) stay in its registers. Only one state in
STEPS is kept. The backward kernel walks from the last STEPS steps to the first, computes the states between two kept
ones again and has them in registers, as Gu and Dao's "Mamba" (2023, section 3.3.2) does.

Inputs are read, and outputs written, at the positions that the order names, so that nothing is copied into scan order.
What several programs add to the same place is written apart and summed afterwards: results repeat bit for bit.
All arithmetic is in single precision. With TRITON_INTERPRET=1 the kernels run on a CPU, for tests.
"""

# Triton compiles a dialect of Python: without unpacking (ruff), and with its own types (pyright).
# ruff: noqa: RUF005
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

STEPS = 8
D_BLOCK = 16
WARPS = 1


def kernel_scan(x: Tensor, delta: Tensor, bias: Tensor, a: Tensor, bc: Tensor, orders: Tensor) -> Tensor:
    """As `selective_scan.scan_in_orders`, N a power of two; other types of tensors become single precision."""
    return _Scan.apply(x.float(), delta.float(), bias.float(), a.float(), bc.float(), orders.int())  # type: ignore


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, delta: Tensor, bias: Tensor, a: Tensor, bc: Tensor, orders: Tensor) -> Tensor:
        x, delta, bias, a, orders = (t.contiguous() for t in (x, delta, bias, a, orders))
        bc = bc if bc.stride(3) == 1 else bc.contiguous()  # often a part of a larger tensor
        k, batch, p, d = delta.shape
        states = delta.new_empty(k, batch, triton.cdiv(p, STEPS), d, a.shape[2])
        y = torch.empty_like(delta)
        _launch(_forward, x, delta, bias, a, bc, orders, states, y)
        ctx.save_for_backward(x, delta, bias, a, bc, orders, states)
        return y.sum(0)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        _, delta, _, a, bc, *_ = ctx.saved_tensors
        k, batch, _, d = delta.shape
        dx, d_delta = torch.empty_like(delta), torch.empty_like(delta)
        d_bias, d_a = delta.new_empty(k, batch, d), delta.new_empty(k, batch, *a.shape[1:])
        d_bc = delta.new_empty(triton.cdiv(d, D_BLOCK), *bc.shape)
        _launch(_backward, *ctx.saved_tensors, dy.contiguous(), dx, d_delta, d_bias, d_a, d_bc)
        return dx.sum(0), d_delta, d_bias.sum(1), d_a.sum(1), d_bc.sum(0), None


def _launch(kernel: Any, x: Tensor, delta: Tensor, bias: Tensor, a: Tensor, bc: Tensor, *others: Tensor) -> None:
    k, batch, p, d = delta.shape
    grid = (triton.cdiv(d, D_BLOCK) * batch * k,)
    blocks: Any = {"N": a.shape[2], "STEPS": STEPS, "D_BLOCK": D_BLOCK, "num_warps": WARPS}
    kernel[grid](x, delta, bias, a, bc, *others, k, batch, p, d, *bc.stride()[:3], **blocks)


@triton.jit
def _forward(
    x, delta, bias, a, bc, orders, states, y, k_size, b_size, p_size, d_size, bc_b, bc_p, bc_k,
    N: tl.constexpr, STEPS: tl.constexpr, D_BLOCK: tl.constexpr,
):  # fmt: skip
    d_blocks = tl.cdiv(d_size, D_BLOCK)
    kb = (tl.program_id(0) // d_blocks).to(tl.int64)  # which order and image: k b_size + b
    k, b = kb // b_size, kb % b_size
    d = (tl.program_id(0) % d_blocks) * D_BLOCK + tl.arange(0, D_BLOCK)
    n = tl.arange(0, N)
    in_d = d < d_size
    dn, in_dn = d[:, None] * N + n[None, :], in_d[:, None] & (n[None, :] < N)
    a_dn = tl.load(a + k * d_size * N + dn, mask=in_dn, other=0.0)
    bias_d = tl.load(bias + k * d_size + d, mask=in_d, other=0.0)
    x, bc, orders = x + b * p_size * d_size, bc + b * bc_b + k * bc_k, orders + k * p_size
    delta, y = delta + kb * p_size * d_size, y + kb * p_size * d_size
    h = tl.zeros([D_BLOCK, N], dtype=tl.float32)
    borders = tl.cdiv(p_size, STEPS)
    for border in range(borders):
        tl.store(states + (kb * borders + border) * d_size * N + dn, h, mask=in_dn)
        rows, outputs = (), ()
        for i in tl.static_range(STEPS):
            time = border * STEPS + i
            valid = in_d & (time < p_size)
            place = tl.load(orders + time, mask=time < p_size, other=0)
            row = place * d_size + d
            u = tl.load(x + row, mask=valid, other=0.0)
            raw = tl.load(delta + row, mask=valid, other=0.0) + bias_d
            step = tl.where(valid, _softplus(raw), 0.0)  # without a step the state stays
            bc_row = bc + place * bc_p + n
            h = _exp(step[:, None] * a_dn) * h + (step * u)[:, None] * tl.load(bc_row)[None, :]
            outputs = outputs + (tl.sum(h * tl.load(bc_row + N)[None, :], 1),)
            rows = rows + (row,)
        for i in tl.static_range(STEPS):
            tl.store(y + rows[i], outputs[i], mask=in_d & (border * STEPS + i < p_size))


@triton.jit
def _backward(
    x, delta, bias, a, bc, orders, states, dy, dx, d_delta, d_bias, d_a, d_bc,
    k_size, b_size, p_size, d_size, bc_b, bc_p, bc_k,
    N: tl.constexpr, STEPS: tl.constexpr, D_BLOCK: tl.constexpr,
):  # fmt: skip
    d_blocks = tl.cdiv(d_size, D_BLOCK)
    kb = (tl.program_id(0) // d_blocks).to(tl.int64)
    k, b = kb // b_size, kb % b_size
    d_block = tl.program_id(0) % d_blocks
    d = d_block * D_BLOCK + tl.arange(0, D_BLOCK)
    n = tl.arange(0, N)
    in_d = d < d_size
    dn, in_dn = d[:, None] * N + n[None, :], in_d[:, None] & (n[None, :] < N)
    a_dn = tl.load(a + k * d_size * N + dn, mask=in_dn, other=0.0)
    bias_d = tl.load(bias + k * d_size + d, mask=in_d, other=0.0)
    x, dy, orders = x + b * p_size * d_size, dy + b * p_size * d_size, orders + k * p_size
    delta, dx, d_delta = delta + kb * p_size * d_size, dx + kb * p_size * d_size, d_delta + kb * p_size * d_size
    bc, d_bc = bc + b * bc_b + k * bc_k, d_bc + ((d_block * b_size + b) * p_size * k_size + k) * (2 * N)
    sum_a = tl.zeros([D_BLOCK, N], dtype=tl.float32)
    sum_bias = tl.zeros([D_BLOCK], dtype=tl.float32)
    handed_back = tl.zeros([D_BLOCK, N], dtype=tl.float32)  # from a step to the state before it
    borders = tl.cdiv(p_size, STEPS)
    for turn in range(borders):
        border = borders - 1 - turn
        h = tl.load(states + (kb * borders + border) * d_size * N + dn, mask=in_dn, other=0.0)
        hs, places, us, raws, dys = (h,), (), (), (), ()
        for i in tl.static_range(STEPS):
            time = border * STEPS + i
            valid = in_d & (time < p_size)
            place = tl.load(orders + time, mask=time < p_size, other=0)
            row = place * d_size + d
            u = tl.load(x + row, mask=valid, other=0.0)
            raw = tl.load(delta + row, mask=valid, other=0.0) + bias_d
            step = tl.where(valid, _softplus(raw), 0.0)
            b_n = tl.load(bc + place * bc_p + n)
            h = _exp(step[:, None] * a_dn) * h + (step * u)[:, None] * b_n[None, :]
            hs = hs + (h,)
            places, us, raws = places + (place,), us + (u,), raws + (raw,)
            dys = dys + (tl.load(dy + row, mask=valid, other=0.0),)
        for i in tl.static_range(STEPS - 1, -1, -1):
            in_time = border * STEPS + i < p_size
            valid = in_d & in_time
            u, raw, dy_d, place = us[i], raws[i], dys[i], places[i]
            step = tl.where(valid, _softplus(raw), 0.0)
            bc_row = bc + place * bc_p + n
            b_n, c_n = tl.load(bc_row), tl.load(bc_row + N)
            g = handed_back + dy_d[:, None] * c_n[None, :]  # the gradient of this step's state
            handed_back = _exp(step[:, None] * a_dn) * g
            through_decay = handed_back * hs[i]
            sum_a += through_decay * step[:, None]
            d_added = tl.sum(g * b_n[None, :], 1)
            d_raw = (tl.sum(through_decay * a_dn, 1) + d_added * u) * tl.sigmoid(raw)
            sum_bias += tl.where(valid, d_raw, 0.0)
            row = place * d_size + d
            tl.store(d_delta + row, d_raw, mask=valid)
            tl.store(dx + row, d_added * step, mask=valid)
            d_bc_row = d_bc + place * k_size * (2 * N) + n
            tl.store(d_bc_row, tl.sum(g * (step * u)[:, None], 0), mask=(n < N) & in_time)
            tl.store(d_bc_row + N, tl.sum(hs[i + 1] * dy_d[:, None], 0), mask=(n < N) & in_time)
    tl.store(d_a + kb * d_size * N + dn, sum_a, mask=in_dn)
    tl.store(d_bias + kb * d_size + d, sum_bias, mask=in_d)


@triton.jit
def _exp(x):
    return tl.exp2(x * 1.4426950408889634)


@triton.jit
def _softplus(x):
    """log(1 + e^x) = max(x, 0) + 2 artanh(z), z = e / (2 + e) <= 1/3 with e = e^-|x|: exact to single precision for
    small e too, where a GPU's logarithm is not.
    """
    e = _exp(-tl.abs(x))
    z = e / (2.0 + e)
    z2 = z * z
    series = 1 + z2 * (1 / 3 + z2 * (1 / 5 + z2 * (1 / 7 + z2 * (1 / 9 + z2 * (1 / 11 + z2 * (1 / 13))))))
    return tl.maximum(x, 0.0) + 2.0 * z * series
