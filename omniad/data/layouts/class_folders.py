"""MVTec-AD: `<class>/train/good/000.png`, `test/<defect>/000.png`, `ground_truth/<defect>/000_mask.png`.

Other data sets and a user's own parts come in this layout too, with small freedoms: `ok` for `good`, other image
formats, masks named as their image, classes without a test set, and classes without masks (no `ground_truth`).
"""

from pathlib import Path

from omniad.config import SourceSettings
from omniad.data.folders import LeftOut, entries, note_deeper
from omniad.data.layouts.record import ANOMALOUS, NORMAL, Record
from omniad.errors import UserError

GOOD = ("good", "ok")
MASK_STEMS = ("{}_mask", "{}")
FOLDERS = ("train", "test", "ground_truth")  # of a class


def read(source: SourceSettings, left_out: LeftOut) -> list[Record]:
    """Every image of the training and the test set; image and mask are paired by stem, never by sorted position.

    Raises:
        UserError: no class is there, or the training set of a class holds something else than good images.
    """
    folder = Path(source.folder)
    records = []
    loose, folders = entries(folder, left_out)
    for class_folder in folders:
        if (class_folder / "train").is_dir():
            records += read_class(folder, class_folder, left_out)
        else:
            note_deeper([class_folder], left_out, "in a folder without train/")
    _note(loose, left_out, "outside a class's folder")
    if not any(record.split == "train" for record in records):
        raise UserError(
            f"{folder}: no <class>/train/good/*.png in it; is this the folder that holds the classes' folders?"
        )
    return records


def read_class(folder: Path, class_folder: Path, left_out: LeftOut) -> list[Record]:
    """The images of one class; paths are relative to `folder`."""
    loose, folders = entries(class_folder, left_out)
    _note(loose, left_out, "outside train/ and test/")
    note_deeper([path for path in folders if path.name not in FOLDERS], left_out, "of an unknown split")
    records = []
    for split in ("train", "test"):
        if class_folder / split in folders:
            loose, kinds = entries(class_folder / split, left_out)
            _note(loose, left_out, "outside a kind's folder")
            for kind_folder in kinds:
                records += _read_kind(folder, class_folder, split, kind_folder, left_out)
    return records


def _read_kind(folder: Path, class_folder: Path, split: str, kind_folder: Path, left_out: LeftOut) -> list[Record]:
    """The images of one folder: all good, or all of one kind of defect."""
    name, kind = class_folder.name or class_folder.resolve().name, kind_folder.name
    images = {stem: path.relative_to(folder).as_posix() for stem, path in _by_stem(kind_folder, left_out).items()}
    if kind in GOOD:
        return [Record(name, split, NORMAL, "good", image, "") for image in images.values()]
    if split == "train":
        raise UserError(f"{kind_folder}: the training set may hold nothing but train/good/; move its images away")
    if not (class_folder / "ground_truth").is_dir():
        return [Record(name, split, ANOMALOUS, kind, image, "") for image in images.values()]
    mask_folder = class_folder / "ground_truth" / kind
    masks = _by_stem(mask_folder, left_out) if mask_folder.is_dir() else {}
    records = []
    for stem, image in images.items():
        found = (masks.pop(form.format(stem)) for form in MASK_STEMS if form.format(stem) in masks)
        mask = next(found, mask_folder / f"{stem}_mask.png")  # what is missing is told with the other missing files
        records.append(Record(name, split, ANOMALOUS, kind, image, mask.relative_to(folder).as_posix()))
    _note(list(masks.values()), left_out, "without an image to this mask")
    return records


def _by_stem(folder: Path, left_out: LeftOut) -> dict[str, Path]:
    """A folder's images, sorted, by their names' stems; two of one stem would share a mask, so that is refused."""
    images, deeper = entries(folder, left_out)
    note_deeper(deeper, left_out)
    stems = [path.stem for path in images]
    if len(set(stems)) < len(stems):
        twice = sorted({stem for stem in stems if stems.count(stem) > 1})
        raise UserError(
            f"{folder}: more than one image is named {', '.join(twice[:5])}; names must differ before the dot"
        )
    return dict(zip(stems, images, strict=True))


def _note(images: list[Path], left_out: LeftOut, reason: str) -> None:
    for image in images:
        left_out.note(image, reason)
