"""Batches of images that fit in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from omniad.devices import is_out_of_memory
from omniad.errors import UserError

log = logging.getLogger(__name__)


class Batches:
    """Runs work batch by batch; when memory runs out, the batch is halved for this and all later calls."""

    def __init__(self, size: int, device: torch.device):
        self.size, self.device = size, device

    def run(self, count: int, work: Callable[[slice], None]) -> None:
        """Call `work` for consecutive slices of range(count); a slice that did not fit is repeated in smaller ones.

        Raises:
            UserError: a single image does not fit.
        """
        start = 0
        while start < count:
            rows = slice(start, min(start + self.size, count))
            if self._fits(work, rows):
                start = rows.stop
            else:
                self._halve(rows.stop - rows.start)

    def _fits(self, work: Callable[[slice], None], rows: slice) -> bool:
        try:
            work(rows)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return False  # outside this block, where the error no longer keeps tensors in memory
        return True

    def _halve(self, tried: int) -> None:
        device = self.device
        if tried == 1:
            raise UserError(f"out of memory on {device}, even with one image: use a device with more memory")
        if device.type == "cuda":
            torch.cuda.empty_cache()
        self.size = tried // 2
        log.warning("batches of %d images do not fit in the memory of %s; using %d", tried, device, self.size)
