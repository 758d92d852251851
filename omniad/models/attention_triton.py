"""Attention with learnable tokens in Triton kernels: one of its sides is short, so that a program holds all of it.

PyTorch's fused attention splits its backward pass by keys or queries and has little to split here; on an H200 it took
44 % of a training step. A program of these kernels has one head's T tokens in registers and passes over a chunk of the
N positions. What several programs add for the same tokens is written apart and summed afterwards, so results repeat bit
for bit. All arithmetic is in single precision. With TRITON_INTERPRET=1 the kernels run on a CPU, for tests.

Shapes: B images, H heads, N positions, T tokens, D_h channels of a head; tensors are (B, H, N or T, D_h) views.
"""
# Triton compiles a dialect of Python with its own types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Positions that a program works on at once, and its warps. Exact products keep all they add up in registers, which 64
# positions and 4 warps overflow by tens of kilobytes (a compiler's report); tensor cores take less.
EXACT, TF32 = ("ieee", 32, 8), ("tf32", 64, 4)
CHUNKS = 8  # that N positions are split into, at most
MOST_TOKENS, MOST_CHANNELS = 128, 64  # of a head, that registers hold


def fits(query: Tensor, key: Tensor) -> bool:
    """Whether one side is short enough for the kernels."""
    return min(query.shape[2], key.shape[2]) <= MOST_TOKENS and query.shape[3] <= MOST_CHANNELS


class KernelAttention(torch.autograd.Function):
    """softmax(Q K^T / sqrt(D_h)) V."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (_in_rows(x) for x in (query, key, value))
        ctx.short_keys = key.shape[2] <= query.shape[2]
        if ctx.short_keys:
            out = _empty(query)
            _launch(_answer, query.shape[2], key.shape[2], query, key, value, out)
            ctx.save_for_backward(query, key, value)
            return out
        parts, sums = _parts(query, key.shape[2]), _parts(query, key.shape[2])[..., 0].contiguous()
        _launch(_gather, key.shape[2], query.shape[2], query, key, value, parts, sums)
        total = sums.logsumexp(0)  # (B, H, T)
        out = ((sums - total).exp()[..., None] * parts).sum(0).to(query.dtype)
        ctx.save_for_backward(query, key, value, out, total)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, *kept = ctx.saved_tensors
        upstream = _in_rows(gradients[0])
        if ctx.short_keys:
            d_query, n = _empty(query), query.shape[2]
            d_key, d_value = _parts(key, n), _parts(key, n)
            _launch(_answer_back, n, key.shape[2], query, key, value, upstream, d_query, d_key, d_value)
            return d_query, d_key.sum(0).to(key.dtype), d_value.sum(0).to(key.dtype)
        out, total = kept
        delta = (upstream.float() * out.float()).sum(-1)  # (B, H, T)
        d_query, d_key, d_value = _parts(query, key.shape[2]), _empty(key), _empty(value)
        _launch(
            *(_gather_back, key.shape[2], query.shape[2], query, key, value, upstream),
            *(total, delta, d_query, d_key, d_value),
        )
        return d_query.sum(0).to(query.dtype), d_key, d_value


def _in_rows(x: Tensor) -> Tensor:
    return x if x.stride(3) == 1 else x.contiguous()


def _empty(like: Tensor) -> Tensor:
    """(B, H, N, D_h), with a position's heads side by side, as linear layers want them."""
    b, h, n, d = like.shape
    return like.new_empty(b, n, h, d).transpose(1, 2)


def _parts(like: Tensor, n: int) -> Tensor:
    """(chunks, B, H, T, D_h) in single precision: what each chunk of the N positions has to add."""
    return like.new_empty(_blocks(n, like)[0], *like.shape, dtype=torch.float32)


def _shape(like: Tensor) -> tuple[str, int, int]:
    """Precision, rows and warps of a program."""
    return TF32 if torch.backends.cuda.matmul.allow_tf32 or like.dtype == torch.bfloat16 else EXACT


def _blocks(n: int, like: Tensor) -> tuple[int, int]:
    """Chunks of n positions, and blocks of rows in each."""
    blocks = triton.cdiv(n, _shape(like)[1])
    each = triton.cdiv(blocks, CHUNKS)
    return triton.cdiv(blocks, each), each


def _launch(kernel: Any, n: int, t: int, query: Tensor, key: Tensor, value: Tensor, *others: Tensor) -> None:
    b, h, _, d = query.shape
    chunks, each = _blocks(n, query)
    precision, rows, warps = _shape(query)
    strides = [stride for x in (query, key, value) for stride in x.stride()[:3]]
    strides += [stride for x in others if x.dim() == 4 for stride in x.stride()[:3]]
    kernel[(chunks, b * h)](
        *(query, key, value, *others, *strides, h, n, t, d, d**-0.5, each, max(16, triton.next_power_of_2(t))),
        *(max(16, triton.next_power_of_2(d)), rows, precision),
        num_warps=warps,
    )


@triton.jit
def _read(x, heads, rows, count, stride_b, stride_h, stride_n, d, D: tl.constexpr):
    """Rows of this program's head, (rows, D), in single precision; zeros beyond the last row and channel."""
    head, channels = tl.program_id(1), tl.arange(0, D)
    places = (head // heads) * stride_b + (head % heads) * stride_h + rows[:, None] * stride_n + channels[None, :]
    return tl.load(x + places, (rows < count)[:, None] & (channels < d)[None, :], 0.0).to(tl.float32)


@triton.jit
def _write(x, values, heads, rows, count, stride_b, stride_h, stride_n, d, D: tl.constexpr):
    head, channels = tl.program_id(1), tl.arange(0, D)
    places = (head // heads) * stride_b + (head % heads) * stride_h + rows[:, None] * stride_n + channels[None, :]
    tl.store(x + places, values.to(x.dtype.element_ty), (rows < count)[:, None] & (channels < d)[None, :])


@triton.jit
def _part(rows, t, d, D: tl.constexpr):
    """Places of this program's part in (chunks, B, H, T, D_h), and which of them exist."""
    channels = tl.arange(0, D)
    first = (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * t
    return (first + rows)[:, None] * d + channels[None, :], (rows < t)[:, None] & (channels < d)[None, :]


@triton.jit
def _weights(queries, keys, tokens, t, scale, PRECISION: tl.constexpr):
    """softmax(Q K^T scale) over the tokens, (rows, T)."""
    products = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale
    products = tl.where((tokens < t)[None, :], products, -float("inf"))
    weights = tl.exp(products - tl.max(products, 1)[:, None])
    return weights / tl.sum(weights, 1)[:, None]


@triton.jit
def _answer(
    q, k, v, out, qb, qh, qn, kb, kh, kn, vb, vh, vn, ob, oh, on, heads, n, t, d, scale, each,
    T: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Many queries, T keys."""
    tokens = tl.arange(0, T)
    keys, values = _read(k, heads, tokens, t, kb, kh, kn, d, D), _read(v, heads, tokens, t, vb, vh, vn, d, D)
    for block in range(each):
        rows = (tl.program_id(0) * each + block) * ROWS + tl.arange(0, ROWS)
        queries = _read(q, heads, rows, n, qb, qh, qn, d, D)
        weights = _weights(queries, keys, tokens, t, scale, PRECISION)
        answers = tl.dot(weights, values, input_precision=PRECISION)
        _write(out, answers, heads, rows, n, ob, oh, on, d, D)


@triton.jit
def _answer_back(
    q, k, v, up, dq, dk, dv, qb, qh, qn, kb, kh, kn, vb, vh, vn, ub, uh, un, gb, gh, gn, heads, n, t, d, scale, each,
    T: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tokens = tl.arange(0, T)
    keys, values = _read(k, heads, tokens, t, kb, kh, kn, d, D), _read(v, heads, tokens, t, vb, vh, vn, d, D)
    sum_k, sum_v = tl.zeros((T, D), tl.float32), tl.zeros((T, D), tl.float32)
    for block in range(each):
        rows = (tl.program_id(0) * each + block) * ROWS + tl.arange(0, ROWS)
        queries = _read(q, heads, rows, n, qb, qh, qn, d, D)
        upstream = _read(up, heads, rows, n, ub, uh, un, d, D)
        weights = _weights(queries, keys, tokens, t, scale, PRECISION)
        sum_v += tl.dot(tl.trans(weights), upstream, input_precision=PRECISION)
        slopes = tl.dot(upstream, tl.trans(values), input_precision=PRECISION)
        slopes = weights * (slopes - tl.sum(weights * slopes, 1)[:, None]) * scale
        sum_k += tl.dot(tl.trans(slopes), queries, input_precision=PRECISION)
        _write(dq, tl.dot(slopes, keys, input_precision=PRECISION), heads, rows, n, gb, gh, gn, d, D)
    places, exist = _part(tokens, t, d, D)
    tl.store(dk + places, sum_k, exist)
    tl.store(dv + places, sum_v, exist)


@triton.jit
def _gather(
    q, k, v, parts, sums, qb, qh, qn, kb, kh, kn, vb, vh, vn, sb, sh, sn, heads, n, t, d, scale, each,
    T: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """T queries, many keys: each chunk's softmax by itself, and the logarithm of what it was divided by."""
    tokens = tl.arange(0, T)
    queries = _read(q, heads, tokens, t, qb, qh, qn, d, D)
    highest = tl.full((T,), -float("inf"), tl.float32)
    divisor, total = tl.zeros((T,), tl.float32), tl.zeros((T, D), tl.float32)
    for block in range(each):
        rows = (tl.program_id(0) * each + block) * ROWS + tl.arange(0, ROWS)
        keys, values = _read(k, heads, rows, n, kb, kh, kn, d, D), _read(v, heads, rows, n, vb, vh, vn, d, D)
        products = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale  # (T, ROWS)
        products = tl.where((rows < n)[None, :], products, -float("inf"))
        higher = tl.maximum(highest, tl.max(products, 1))
        weights, shrink = tl.exp(products - higher[:, None]), tl.exp(highest - higher)
        divisor = divisor * shrink + tl.sum(weights, 1)
        total = total * shrink[:, None] + tl.dot(weights, values, input_precision=PRECISION)
        highest = higher
    places, exist = _part(tokens, t, d, D)
    tl.store(parts + places, total / divisor[:, None], exist)
    first = (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * t
    tl.store(sums + first + tokens, highest + tl.log(divisor), tokens < t)


@triton.jit
def _gather_back(
    q, k, v, up, sums, delta, dq, dk, dv, qb, qh, qn, kb, kh, kn, vb, vh, vn, ub, uh, un, gb, gh, gn, wb, wh, wn,
    heads, n, t, d, scale, each,
    T: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tokens = tl.arange(0, T)
    queries, upstream = _read(q, heads, tokens, t, qb, qh, qn, d, D), _read(up, heads, tokens, t, ub, uh, un, d, D)
    total = tl.load(sums + tl.program_id(1) * t + tokens, tokens < t, float("inf"))  # so that no weight is left there
    means = tl.load(delta + tl.program_id(1) * t + tokens, tokens < t, 0.0)
    sum_q = tl.zeros((T, D), tl.float32)
    for block in range(each):
        rows = (tl.program_id(0) * each + block) * ROWS + tl.arange(0, ROWS)
        keys, values = _read(k, heads, rows, n, kb, kh, kn, d, D), _read(v, heads, rows, n, vb, vh, vn, d, D)
        products = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale
        weights = tl.exp(
            products - total[:, None]
        )  # (T, ROWS); rows that do not exist have no keys and are not written
        slopes = weights * (tl.dot(upstream, tl.trans(values), input_precision=PRECISION) - means[:, None]) * scale
        _write(dv, tl.dot(tl.trans(weights), upstream, input_precision=PRECISION), heads, rows, n, wb, wh, wn, d, D)
        _write(dk, tl.dot(tl.trans(slopes), queries, input_precision=PRECISION), heads, rows, n, gb, gh, gn, d, D)
        sum_q += tl.dot(slopes, keys, input_precision=PRECISION)
    places, exist = _part(tokens, t, d, D)
    tl.store(dq + places, sum_q, exist)
