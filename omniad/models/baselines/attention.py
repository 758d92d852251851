"""Parts of the two transformer methods (UniAD, RLR): attention between two sets of tokens, neighbourhoods, grids."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention: queries (B, N, D), keys and values (B, M, D) -> (B, N, D).

    Computes and starts as PyTorch's `nn.MultiheadAttention`, which both authors' code uses. That one is a single
    operation, whose products `omniad complexity` could not see.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        # Queries', keys' and values' projections as one matrix, which sets the bound of the Xavier draw: sqrt(6 / 4D).
        self.inputs = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * width, width)))
        self.input_bias = nn.Parameter(torch.zeros(3 * width))
        self.output = nn.Linear(width, width)
        nn.init.zeros_(self.output.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
        """`allowed` (N, M): whether a query may look at a key."""
        projections = zip((query, key, value), self.inputs.chunk(3), self.input_bias.chunk(3), strict=True)
        q, k, v = (self._split(F.linear(x, weight, bias)) for x, weight, bias in projections)
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout)  # (B, H, N, D_h)
        return self.output(out.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, N, D) -> (B, H, N, D_h)


def neighbourhood(size: tuple[int, int], window: int, device: torch.device) -> Tensor:
    """(N, N) for the N = h w positions of a grid: whether the second lies in the window around the first.

    On a grid that is not wider than the window it shrinks, so that every position keeps neighbours and strangers.

    Args:
        window: its side, odd.
    """
    reach = max(0, min(window // 2, (min(size) - 2) // 2))
    rows, columns = (torch.arange(side, device=device) for side in size)
    near_row = (rows[:, None] - rows[None]).abs() <= reach  # (h, h)
    near_column = (columns[:, None] - columns[None]).abs() <= reach  # (w, w)
    near = near_row[:, None, :, None] & near_column[None, :, None, :]  # (h, w, h, w)
    return near.flatten(2).flatten(0, 1)


def fit_grid(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Learned values (1, D, g, g) on another grid, resized bilinearly -> tokens (1, h w, D)."""
    if grid.shape[2:] != size:
        grid = F.interpolate(grid, size=size, mode="bilinear", align_corners=True)
    return grid.flatten(2).transpose(1, 2)
