"""Multi-head attention with learnable tokens in the place of Q, of K and V, or of neither (eq. 1).

Shapes: B images, N = h w positions, D channels, H heads, T learnable tokens.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniad.config import Learnable, ModelSettings
from omniad.models.kernels import use_kernels
from omniad.models.random_projection import RandomProjection, RandomProjections
from omniad.models.readings import READINGS


class Attention(nn.Module):
    """F = MHA(Q, K, V): learnable `q` tokens ask the input; or it asks learnable `kv` tokens, or itself (`none`)."""

    fused = True  # PyTorch's fused kernel; False computes the same step by step

    def __init__(self, width: int, learnable: Learnable, settings: ModelSettings, random: RandomProjections):
        super().__init__()
        reading = READINGS[settings.variant]
        heads, tokens = settings.heads, settings.tokens
        self.heads, self.learnable = heads, learnable
        self.query = nn.Linear(width, width)  # W^Q of all heads
        self.key_value = nn.Linear(width, 2 * width)  # W^K, then W^V
        self.tokens = self.bias = None
        if learnable != "none":
            self.tokens = nn.Parameter(torch.empty(1, tokens, width))
            nn.init.trunc_normal_(self.tokens, std=reading.token_std) if reading.token_std else nn.init.zeros_(
                self.tokens
            )
        if learnable != "none" and reading.attention_bias:
            self.bias = nn.Parameter(torch.zeros((1, heads, tokens, 1) if learnable == "q" else (1, heads, 1, tokens)))
        if reading.trained_output:
            self.output = nn.Linear(width, width)  # W^O
        else:
            self.output = RandomProjection(width, random) if settings.projection == "random" else nn.Identity()

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, D) -> (B, N, D); `size` is (h, w), to which the outputs of learnable queries are resized."""
        # What comes of learnable tokens is the same for every image: computed once, (1, T, *), and seen as (B, T, *).
        query = self.query(self.tokens if self.learnable == "q" else x).expand(x.shape[0], -1, -1)
        key_value = self.key_value(self.tokens if self.learnable == "kv" else x).expand(x.shape[0], -1, -1)
        key, value = key_value.chunk(2, dim=-1)
        attend = fused_attention if self.fused else eager_attention
        out = attend(self._heads(query), self._heads(key), self._heads(value), self.bias)  # (B, H, N or T, D_h)
        out = self.output(out.transpose(1, 2).flatten(2))  # Concat(head_1, ..., head_H) W^O
        return upsample(out, size) if self.learnable == "q" else out

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, N, D) -> (B, H, N, D_h)


def eager_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """(softmax(Q K^T / sqrt(D_h)) + bias) V, the heads of eq. 1, on (B, H, *, D_h); the bias is broadcast."""
    weights = (query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])).softmax(dim=-1)
    return (weights if bias is None else weights + bias) @ value


def fused_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same as `eager_attention` without storing the weights: softmax(.) V and bias V are added.

    The bias has one value per query (..., T, 1) or per key (..., 1, T), so its product with V is a sum over the keys.
    """
    out = attend(query, key, value)
    if bias is None:
        return out
    if bias.shape[-1] == 1:
        return out + bias * value.sum(dim=-2, keepdim=True)
    return out + (bias.transpose(-2, -1) * value).sum(dim=-2, keepdim=True)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(D_h)) V on (B, H, *, D_h); with few tokens on one side, on a GPU, in a kernel of our own."""
    if use_kernels(query):
        from omniad.models.attention_triton import KernelAttention, fits

        if fits(query, key):
            return KernelAttention.apply(query, key, value)  # type: ignore[return-value]
    return F.scaled_dot_product_attention(query, key, value)


def upsample(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Up(.): T tokens as a sqrt(T) x sqrt(T) grid, nearest-resized as released; (B, T, D) -> (B, N, D)."""
    side = math.isqrt(tokens.shape[1])
    grid = tokens.transpose(1, 2).unflatten(2, (side, side))  # (B, D, sqrt T, sqrt T)
    return F.interpolate(grid, size=size, mode="nearest").flatten(2).transpose(1, 2)
