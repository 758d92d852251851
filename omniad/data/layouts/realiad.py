"""Real-IAD: images in `realiad_<1024|512|256>/<class>/`, labels in `realiad_jsons/realiad_jsons/<class>.json`."""

import json
import re
from pathlib import Path
from typing import Any

from omniad.config import SourceSettings
from omniad.data.folders import LeftOut, is_ignored
from omniad.data.layouts.record import ANOMALOUS, NORMAL, Record
from omniad.errors import UserError

VIEW = re.compile(r"_(C[1-5])_")  # in a file's name
JSON_FOLDERS = ("realiad_jsons/realiad_jsons", "realiad_jsons")  # the published zip nests twice


def read(source: SourceSettings, left_out: LeftOut) -> list[Record]:
    """Every image that the classes' JSON files name, of the chosen views, at the chosen resolution.

    The label is the JSON's `anomaly_class`, never the folder: 26,881 normal test images lie in NG folders, because the
    defect can't be seen from their view.

    Raises:
        UserError: the images' or the labels' folder is missing, a JSON file is malformed, or a name tells no view.
    """
    folder = Path(source.folder)
    images = folder / f"realiad_{source.resolution}"
    if not images.is_dir():
        there = ", ".join(path.name for path in sorted(folder.glob("realiad_[0-9]*"))) or "none"
        raise UserError(
            f"{images}: no such folder (there is: {there}); set sources.<name>.resolution to what you have, or "
            "sources.<name>.folder to a new place, where the other one is then fetched"
        )
    labels = next(filter(None, (_label_files(folder / name) for name in JSON_FOLDERS)), [])
    if not labels:
        raise UserError(f"{folder / JSON_FOLDERS[0]}: no <class>.json in it; extract realiad_jsons.zip there")
    records = [record for file in labels for record in _read_class(file, images.name)]
    return [record for record in records if _view(record.image) in source.views] if source.views else records


def _label_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.json") if path.is_file() and not is_ignored(path.name))


def _view(image: str) -> str:
    found = VIEW.search(image.rpartition("/")[2])
    if not found:
        raise UserError(f"{image}: sources.<name>.views selects views, but the name does not contain one of C1 ... C5")
    return found[1]


def _read_class(file: Path, images: str) -> list[Record]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        prefix, normal = f"{images}/{content['meta']['prefix']}", content["meta"]["normal_class"]
        return [_record(prefix, normal, split, entry, file) for split in ("train", "test") for entry in content[split]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{file}: not a Real-IAD label file ({type(error).__name__}: {str(error)[:80]}); extract it again"
        ) from None


def _record(prefix: str, normal: str, split: str, entry: dict[str, Any], file: Path) -> Record:
    image = prefix + entry["image_path"]
    if entry["anomaly_class"] == normal:
        return Record(entry["category"], split, NORMAL, "good", image, "")
    if split == "train" or not entry["mask_path"]:
        raise UserError(f"{file}: {entry['image_path']}: an anomaly needs a mask and belongs in the test set")
    return Record(entry["category"], split, ANOMALOUS, entry["anomaly_class"], image, prefix + entry["mask_path"])
