"""Readers of the data sets' on-disk layouts: one file a layout, each with `read(source) -> list[Record]`."""

from omniad.config import SourceSettings
from omniad.data.counts import chosen_classes
from omniad.data.layouts import mvtec, own, realiad, visa
from omniad.data.layouts.record import Record

READERS = {"mvtec": mvtec.read, "visa": visa.read, "realiad": realiad.read, "own": own.read}

__all__ = ["READERS", "Record", "read_records"]


def read_records(source: SourceSettings) -> list[Record]:
    """Every image of the chosen classes.

    Raises:
        UserError: the layout is not as described, or there is no class of a chosen name.
    """
    records = READERS[source.layout](source)
    chosen = chosen_classes(source, (record.class_ for record in records))
    return [record for record in records if record.class_ in chosen]
