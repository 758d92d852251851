"""`training.compile`: longer preparation for faster steps."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil

import torch

from omniad.models import Method

log = logging.getLogger(__name__)


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
            "training.compile: no compiler (%s) found, so nothing is compiled",
            "g++" if device.type == "cpu" else "triton",
        )
        return
    torch._dynamo.config.suppress_errors = True  # type: ignore[attr-defined]
    for block in model.blocks():
        block.compile(dynamic=False)
