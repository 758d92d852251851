"""MVTec-AD: `<class>/train/good/000.png`, `test/<defect>/000.png`, `ground_truth/<defect>/000_mask.png`.

Other data sets and a user's own parts come in this layout too, with small freedoms: `ok` for `good`, other image
formats, masks named as their image, classes without a test set, and classes without masks (no `ground_truth`).
"""

from collections.abc import Iterator
from pathlib import Path

from omniad.config import SourceSettings
from omniad.data.images import is_image
from omniad.data.layouts.record import ANOMALOUS, NORMAL, Record
from omniad.errors import UserError

GOOD = ("good", "ok")
MASK_STEMS = ("{}_mask", "{}")


def read(source: SourceSettings) -> list[Record]:
    """Every image of the training and the test set; image and mask are paired by stem, never by sorted position.

    Raises:
        UserError: no class is there, or the training set of a class holds something else than good images.
    """
    folder = Path(source.folder)
    records = []
    for class_folder in sorted(path for path in folder.iterdir() if (path / "train").is_dir()):
        records += read_class(folder, class_folder)
    if not any(record.split == "train" for record in records):
        raise UserError(
            f"{folder}: no <class>/train/good/*.png in it; is this the folder that holds the classes' folders?"
        )
    return records


def read_class(folder: Path, class_folder: Path) -> Iterator[Record]:
    """The images of one class; paths are relative to `folder`."""
    for split in ("train", "test"):
        for kind_folder in sorted(path for path in (class_folder / split).glob("*") if path.is_dir()):
            yield from _read_kind(folder, class_folder, split, kind_folder)


def _read_kind(folder: Path, class_folder: Path, split: str, kind_folder: Path) -> list[Record]:
    """The images of one folder: all good, or all of one kind of defect."""
    name, kind = class_folder.name or class_folder.resolve().name, kind_folder.name
    images = {path.stem: path.relative_to(folder).as_posix() for path in _images(kind_folder)}
    if kind in GOOD:
        return [Record(name, split, NORMAL, "good", image, "") for image in images.values()]
    if split == "train":
        raise UserError(f"{kind_folder}: the training set may hold nothing but train/good/; move its images away")
    if not (class_folder / "ground_truth").is_dir():
        return [Record(name, split, ANOMALOUS, kind, image, "") for image in images.values()]
    mask_folder = class_folder / "ground_truth" / kind
    masks = {path.stem: path for path in _images(mask_folder)} if mask_folder.is_dir() else {}
    records = []
    for stem, image in images.items():
        found = (masks[form.format(stem)] for form in MASK_STEMS if form.format(stem) in masks)
        mask = next(found, mask_folder / f"{stem}_mask.png")  # what is missing is told with the other missing files
        records.append(Record(name, split, ANOMALOUS, kind, image, mask.relative_to(folder).as_posix()))
    return records


def _images(folder: Path) -> list[Path]:
    """A folder's images, sorted; two of one stem would share a mask, so that is refused. Hidden files don't count."""
    images = sorted(path for path in folder.iterdir() if is_image(path))
    stems = [path.stem for path in images]
    if len(set(stems)) < len(stems):
        twice = sorted({stem for stem in stems if stems.count(stem) > 1})
        raise UserError(
            f"{folder}: more than one image is named {', '.join(twice[:5])}; names must differ before the dot"
        )
    return images
