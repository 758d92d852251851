"""Readers of the data sets' on-disk layouts: one file a layout, each with `read(source) -> list[Record]`."""

from omniad.data.layouts import mvtec, own, realiad, visa
from omniad.data.layouts.record import Record

READERS = {"mvtec": mvtec.read, "visa": visa.read, "realiad": realiad.read, "own": own.read}

__all__ = ["READERS", "Record"]
