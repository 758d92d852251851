"""Whether our own Triton kernels run here."""

from __future__ import annotations

import importlib.util
import os
import shutil
from functools import cache

import torch
from torch import Tensor

enabled = True  # False computes the same in PyTorch's operations


def use_kernels(x: Tensor) -> bool:
    """Whether what follows on this tensor is left to them: on a GPU, but for what torch.compile fuses by itself."""
    return enabled and x.is_cuda and x.dtype != torch.double and not torch.compiler.is_compiling() and not lacking()


@cache
def lacking() -> str:
    """What is missing here for Triton's kernels, for a message; empty if nothing is."""
    if importlib.util.find_spec("triton") is None:
        return "Triton"
    if not any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang")):
        return "a C compiler, which Triton needs,"
    return ""
