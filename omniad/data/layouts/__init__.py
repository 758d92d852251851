"""Readers of the data sets' layouts on disk: one file each, with `read(source, left_out) -> list[Record]`."""

from omniad.config import SourceSettings
from omniad.data.counts import chosen_classes
from omniad.data.folders import LeftOut
from omniad.data.layouts import mvtec, mvtec_ad_2, mvtec_loco, own, realiad, visa
from omniad.data.layouts.record import Record

READERS = {
    "mvtec": mvtec.read,
    "mvtec_ad_2": mvtec_ad_2.read,
    "mvtec_loco": mvtec_loco.read,
    "visa": visa.read,
    "realiad": realiad.read,
    "own": own.read,
}

__all__ = ["READERS", "Record", "read_records"]


def read_records(source: SourceSettings, left_out: LeftOut) -> list[Record]:
    """Every image of the chosen classes; what is not read is counted in `left_out`.

    Raises:
        UserError: the layout is not as described, or there is no class of a chosen name.
    """
    records = READERS[source.layout](source, left_out)
    chosen = chosen_classes(source, (record.class_ for record in records))
    return [record for record in records if record.class_ in chosen]
