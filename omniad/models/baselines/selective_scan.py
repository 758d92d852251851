"""The selective scan of state space models (Mamba) along several orders through the same positions.

Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023: with step sizes d,
    h_t = exp(d_t A) h_{t-1} + d_t B_t u_t,    y_t = C_t h_t.
Mamba adds D u_t to y_t; the caller does, once for all orders.

On a GPU a Triton kernel runs it (selective_scan_triton.py); everywhere else plain PyTorch does, which at full size is
only for tests: it writes every state to memory.
"""

from __future__ import annotations

import logging
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from omniad.models.kernels import lacking

CHUNK = 64  # steps
log = logging.getLogger(__name__)


def scan_in_orders(x: Tensor, delta: Tensor, bias: Tensor, a: Tensor, bc: Tensor, orders: Tensor) -> Tensor:
    """Scan the same P inputs in K orders, each with its own parameters; the sum of the K outputs at every position.

    Args:
        x: inputs u by position, (B, P, D).
        delta: step sizes before bias and softplus, by position, (K, B, P, D).
        bias: of the step sizes, (K, D).
        a: the state matrix's diagonal, negative, (K, D, N).
        bc: B and C by position, one behind the other, (B, P, K, 2N).
        orders: the positions in the order of each scan, (K, P).

    Returns:
        (B, P, D).
    """
    if x.is_cuda and has_kernel():
        from omniad.models.baselines.selective_scan_triton import kernel_scan

        return kernel_scan(x, delta, bias, a, bc, orders)
    k, (batch, _, d), n = len(orders), x.shape, a.shape[-1]
    u = x[:, orders].transpose(2, 3)  # (B, K, D, P), in scan order
    to_order = orders[:, None, :, None]
    steps = (delta + bias[:, None, None]).gather(2, to_order.expand(k, batch, -1, d)).permute(1, 0, 3, 2)
    in_order = bc.transpose(1, 2).gather(2, orders[None, :, :, None].expand(batch, -1, -1, 2 * n))  # (B, K, P, 2N)
    b, c = in_order.transpose(2, 3).split(n, dim=2)  # (B, K, N, P) each
    y = chunked_scan(u, steps, a, b, c)  # (B, K, D, P)
    back = torch.argsort(orders, dim=1)[None, :, None].expand_as(y)
    return y.gather(3, back).sum(dim=1).transpose(1, 2)


@cache
def has_kernel() -> bool:
    """Whether Triton is there, and the C compiler that it needs."""
    if not (missing := lacking()):
        return True
    log.warning("MambaAD's scan runs in plain PyTorch, many times slower: %s is missing", missing)
    return False


def chunked_scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, chunk: int = CHUNK) -> Tensor:
    """Scan G groups of D sequences of length L in plain PyTorch, step by step; `chunk` changes memory, not the result.

    A chunk's states are computed again for the gradient instead of kept, so memory is that of one chunk. Doubling, by
    which a chunk of T takes log2 T operations, was ten times slower on a CPU: it moves all states each time.

    Args:
        u: inputs, (B, G, D, L).
        delta: step sizes before the softplus, (B, G, D, L).
        a: the state matrix's diagonal, (G, D, N).
        b, c: input and output projections of every step, (B, G, N, L).

    Returns:
        y (B, G, D, L).
    """
    if u.is_meta:  # for its shape, which complexity is counted with, thousands of steps need not be walked
        return torch.empty_like(u)
    state = u.new_zeros(*u.shape[:3], a.shape[-1])  # (B, G, D, N)
    outputs = []
    for start in range(0, u.shape[-1], chunk):
        part = [x[..., start : start + chunk] for x in (u, delta, b, c)]
        y, state = checkpoint(_scan_chunk, state, a, *part, use_reentrant=False, preserve_rng_state=False)
        outputs.append(y)
    return torch.cat(outputs, dim=-1)


def _scan_chunk(state: Tensor, a: Tensor, u: Tensor, delta: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """State before the chunk -> (outputs, state after it)."""
    size, outputs = F.softplus(delta), []
    for step, added, b_t, c_t in zip(*(x.unbind(-1) for x in (size, size * u, b, c)), strict=True):
        state = torch.exp(step[..., None] * a) * state + added[..., None] * b_t[:, :, None]  # (B, G, D, N)
        outputs.append((state * c_t[:, :, None]).sum(-1))
    return torch.stack(outputs, dim=-1), state
