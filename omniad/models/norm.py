"""InstanceNorm and SiLU, which follow each other everywhere in an Omni-block, in one step."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniad.models.kernels import use_kernels

EPS = 1e-5  # PyTorch's, as released


class NormSiLU(nn.Module):
    """Zero mean and unit variance over the positions, per image and channel, then SiLU; no weights.

    In training with a backward pass of its own, which reads memory half as often as autograd's would; on a GPU in
    Triton kernels, where Triton is (norm_triton.py).
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        if use_kernels(x):
            from omniad.models.norm_triton import KernelNormSiLU

            return KernelNormSiLU.apply(x, EPS)  # type: ignore[return-value]
        if self.training:
            return _NormSiLU.apply(x)  # type: ignore[return-value]
        return F.silu(F.instance_norm(x.transpose(1, 2), eps=EPS)).transpose(1, 2)


class _NormSiLU(torch.autograd.Function):
    """y = silu(z), z = (x - mean x) / s, s = sqrt(var x + eps), over the N positions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.float() if x.dtype == torch.bfloat16 else x  # as autocast does with norms
        z = x - x.mean(1, keepdim=True)  # (B, N, D)
        scale = ((z * z).mean(1, keepdim=True) + EPS).rsqrt_()  # 1 / s (B, 1, D)
        z.mul_(scale)
        ctx.save_for_backward(z, scale)
        return F.silu(z)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """dx = (dz - mean(dz) - z mean(dz z)) / s."""
        z, scale = ctx.saved_tensors
        dz = torch.ops.aten.silu_backward(gradients[0], z)
        mean, projection = dz.mean(1, keepdim=True), (dz * z).mean(1, keepdim=True)  # (B, 1, D)
        return torch.addcmul(-mean * scale, z, -projection * scale).addcmul_(dz, scale)
