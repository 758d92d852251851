"""VisA: `<class>/Data/Images/Normal|Anomaly/0000.JPG`, masks in `Masks/Anomaly/`, the split in `split_csv/1cls.csv`."""

import csv
from pathlib import Path

from omniad.config import SourceSettings
from omniad.data.folders import LeftOut
from omniad.data.layouts.record import ANOMALOUS, NORMAL, Record
from omniad.errors import UserError
from omniad.wording import shown

SPLIT_FILE = "split_csv/1cls.csv"
COLUMNS = ["object", "split", "label", "image", "mask"]
LABELS = {"normal": NORMAL, "anomaly": ANOMALOUS}


def read(source: SourceSettings, left_out: LeftOut) -> list[Record]:
    """Every image that the one-class split names.

    File names repeat between Normal and Anomaly, so the split's paths are taken as they are. VisA names no kinds of
    defect per image here: `defect` is "anomaly".

    Raises:
        UserError: the split file is missing, has other columns or an unknown split or label.
    """
    file = Path(source.folder, SPLIT_FILE)
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            if reader.fieldnames != COLUMNS:
                raise UserError(f"{file}: the header must be {','.join(COLUMNS)}, not {reader.fieldnames}")
            return [_record(file, number, row) for number, row in enumerate(reader, start=2)]
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{file}: no such file; it comes with VisA's archive, beside the classes' folders") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: can't be read as CSV: {error}; extract it again") from None


def _record(file: Path, number: int, row: dict[str, str]) -> Record:
    if None in row or None in row.values():
        raise UserError(f"{file}, line {number}: must have the {len(COLUMNS)} columns {','.join(COLUMNS)}")
    if row["split"] not in ("train", "test") or row["label"] not in LABELS:
        raise UserError(
            f"{file}, line {number}: split must be train or test and label normal or anomaly, not {shown(row)}"
        )
    label = LABELS[row["label"]]
    if label == ANOMALOUS and (row["split"] == "train" or not row["mask"]):
        raise UserError(f"{file}, line {number}: an anomaly needs a mask and belongs in the test set, not {shown(row)}")
    defect, mask = ("anomaly", row["mask"]) if label == ANOMALOUS else ("good", "")
    return Record(row["object"], row["split"], label, defect, row["image"], mask)
