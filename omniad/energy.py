"""Energy that a GPU uses, from its driver's own counter (NVML). It counts the whole card: one run has one card."""

from __future__ import annotations

import torch


class EnergyMeter:
    """Joules from one look at the counter to the next."""

    def __init__(self, device: torch.device):
        self._device = device
        self._last = counter_joules(device)

    @property
    def counts(self) -> bool:
        """Whether there is a counter: not on a CPU, nor on cards before Volta."""
        return self._last is not None

    def joules(self) -> float:
        """Since the last call, or since the meter was made; 0 without a counter."""
        before, self._last = self._last, counter_joules(self._device)
        return 0.0 if before is None or self._last is None else self._last - before


def counter_joules(device: torch.device) -> float | None:
    """What the card's counter shows, joules since its driver was loaded; None where it has none."""
    if device.type != "cuda":
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        card = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(card) / 1000  # of millijoules
    except (ImportError, OSError, AttributeError):
        return None
    except pynvml.NVMLError:  # no driver here, or a card without the counter
        return None
