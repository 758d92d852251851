"""The selective scan of state space models (Mamba), in plain PyTorch, chunk by chunk.

Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023: with step sizes d,
    h_t = exp(d_t A) h_{t-1} + d_t B_t u_t,    y_t = C_t h_t + D u_t.

The recurrence is associative, so a chunk of T steps takes log2 T doublings instead of T steps; chunks follow each
other. A chunk's states are computed again for the gradient instead of kept, so memory is that of one chunk.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 64  # steps


def selective_scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Scan G groups of sequences, each with its own B and C.

    The kernel of the library mamba-ssm does it where that is installed and the tensors are on a GPU (not tried).

    Args:
        u: inputs (B, G, D, L).
        delta: step sizes before the softplus, (B, G, D, L).
        a: state matrix's diagonal, negative, (G, D, N).
        b, c: input and output projections of every step, (B, G, N, L).
        d: weight of the input in the output, (G, D).

    Returns:
        y (B, G, D, L).
    """
    if u.is_cuda:
        try:
            from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # pyright: ignore
        except ImportError:
            pass
        else:
            flat = (u.flatten(1, 2), delta.flatten(1, 2), a.flatten(0, 1), b, c, d.flatten())
            return selective_scan_fn(*flat, delta_softplus=True).view_as(u)
    return chunked_scan(u, delta, a, b, c, d)


def chunked_scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, chunk: int = CHUNK) -> Tensor:
    """As `selective_scan`, in plain PyTorch; `chunk` changes memory and speed, not the result."""
    state = u.new_zeros(*u.shape[:3], a.shape[-1])  # (B, G, D, N)
    outputs = []
    for start in range(0, u.shape[-1], chunk):
        part = [x[..., start : start + chunk] for x in (u, delta, b, c)]
        y, state = checkpoint(_scan_chunk, state, a, *part, use_reentrant=False, preserve_rng_state=False)
        outputs.append(y)
    return torch.cat(outputs, dim=-1) + d[..., None] * u


def _scan_chunk(state: Tensor, a: Tensor, u: Tensor, delta: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """State before the chunk -> (outputs without D u, state after it)."""
    step = F.softplus(delta)[..., None]  # (B, G, D, T, 1)
    decay = torch.exp(step * a[:, :, None])  # (B, G, D, T, N): of the state, from one step to the next
    added = step * u[..., None] * b.transpose(2, 3)[:, :, None]
    shift, length = 1, u.shape[-1]
    while shift < length:  # afterwards both hold what 2 shift steps do together
        before, rest = added[..., :-shift, :], added[..., shift:, :]
        added = torch.cat([added[..., :shift, :], rest + decay[..., shift:, :] * before], dim=-2)
        decay = torch.cat([decay[..., :shift, :], decay[..., shift:, :] * decay[..., :-shift, :]], dim=-2)
        shift *= 2
    states = added + decay * state[..., None, :]
    return (states * c.transpose(2, 3)[:, :, None]).sum(-1), states[..., -1, :]
