"""The energy meter, with a counter that the test holds in its hand; on a CPU there is none."""

import pynvml
import pytest
import torch

from omniad.energy import EnergyMeter, counter_joules

CUDA = torch.device("cuda", 0)


@pytest.fixture
def counter(monkeypatch) -> list[int]:
    """Millijoules that the card's counter shows."""
    shown = [5_000]
    properties = type("Properties", (), {"uuid": "0123"})
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: properties)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: {"GPU-0123": "card"}[uuid])
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", lambda card: {"card": shown[0]}[card])
    return shown


def test_joules_are_the_counters_difference(counter):
    meter = EnergyMeter(CUDA)
    counter[0] += 2_500
    assert (meter.counts, meter.joules()) == (True, 2.5)
    assert meter.joules() == 0
    counter[0] += 1
    assert meter.joules() == pytest.approx(0.001)


def test_on_a_cpu_there_is_no_counter():
    meter = EnergyMeter(torch.device("cpu"))
    assert (meter.counts, meter.joules()) == (False, 0.0)


@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_NOT_SUPPORTED])
def test_without_a_driver_or_on_an_old_card_nothing_is_counted(counter, monkeypatch, error):
    def refuse(*_):
        raise pynvml.NVMLError(error)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", refuse)
    assert counter_joules(CUDA) is None
    assert EnergyMeter(CUDA).joules() == 0.0
