"""Settings that trade numbers or preparation for speed: `training.precision` and `training.compile`."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shutil
from collections.abc import Iterator
from typing import Any

import torch

from omniad.models import Method

log = logging.getLogger(__name__)


@contextlib.contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """The precision of what is computed in this block: fp32, tf32 (a GPU's products only) or bf16 (autocast).

    fp32 is what it says: PyTorch by itself lets a GPU's convolutions use TF32.
    """
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def compile_blocks(model: Method, device: torch.device) -> None:
    """Let torch.compile fuse a model's repeated blocks, one compilation for all that are alike.

    Without a compiler, or where one fails, the blocks stay as they are.
    """
    if device.type == "cpu":
        found = bool(shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++"))
    else:
        found = importlib.util.find_spec("triton") is not None
    if not found:
        log.warning(
            "training.compile: no compiler (%s) found; not compiled", "g++" if device.type == "cpu" else "triton"
        )
        return
    torch._dynamo.config.suppress_errors = True  # type: ignore[attr-defined]
    for block in model.blocks():
        block.compile(dynamic=False)
