"""Classes in folders of their own, as MVTec-AD and the data sets after it have them; what differs is a `Form`.

Other data sets and a user's own parts come in these layouts too, with small freedoms: `ok` for `good`, other image
formats, masks named as their image, classes without a test set, and classes without masks.
"""

from pathlib import Path
from typing import NamedTuple

from omniad.data.folders import LeftOut, entries, note_deeper
from omniad.data.layouts.record import ANOMALOUS, NORMAL, Record
from omniad.errors import UserError

GOOD = ("good", "ok")


class Form(NamedTuple):
    """Where a class's images and masks lie in its folder: `train/good/`, `validation/good/` if there is one, and:"""

    layout: str  # its name in the configuration
    test: str = "test"
    masks: str = "ground_truth"
    mask_folders: bool = False  # a folder of masks for each image, named as the image, instead of one mask
    unlabelled: tuple[str, ...] = ()  # test sets without labels


def read_classes(folder: Path, top: Path, form: Form, left_out: LeftOut) -> list[Record]:
    """Every image of the classes in `top`; image and mask are paired by stem, never by sorted position.

    Args:
        folder: the data set's, which paths are relative to.
        top: the folder of the classes' folders: the same, or one below.
        form: of every class.
        left_out: takes what is not read.

    Raises:
        UserError: no class is there, or the training set of a class holds something else than good images.
    """
    records = []
    loose, folders = entries(top, left_out)
    for class_folder in folders:
        if (class_folder / "train").is_dir():
            records += read_class(folder, class_folder, form, left_out)
        else:
            note_deeper([class_folder], left_out, "in a folder without train/")
    _note(loose, left_out, "outside a class's folder")
    if not any(record.split == "train" for record in records):
        raise UserError(
            f"{top}: no <class>/train/good/*.png in it; is this the folder that contains the classes' folders?"
        )
    return records


def read_class(folder: Path, class_folder: Path, form: Form, left_out: LeftOut) -> list[Record]:
    """The images of one class; paths are relative to `folder`."""
    splits = {"train": "train", "validation": "validation", form.test: "test"}
    unread = form.masks.split("/")[0]
    loose, folders = entries(class_folder, left_out)
    _note(loose, left_out, f"outside train/ and {form.test}/")
    records = []
    for path in folders:
        if path.name in splits:
            records += _read_split(folder, class_folder, splits[path.name], path, form, left_out)
        elif path.name in form.unlabelled:
            note_deeper([path], left_out, "without labels, only for `omniad predict`")
        elif path.name != unread:
            note_deeper([path], left_out, "of an unknown split")
    return records


def _read_split(
    folder: Path, class_folder: Path, split: str, split_folder: Path, form: Form, left_out: LeftOut
) -> list[Record]:
    """The images of one split, kind by kind."""
    name, records = class_folder.name or class_folder.resolve().name, []
    loose, kinds = entries(split_folder, left_out)
    _note(loose, left_out, "outside a defect's folder")
    for kind in kinds:
        if kind == class_folder / form.masks:
            continue
        if kind.name in GOOD:
            images = _by_stem(kind, left_out).values()
            records += [Record(name, split, NORMAL, "good", _path(image, folder), "") for image in images]
        elif split == "train":
            raise UserError(f"{kind}: the training set may contain only train/good/; move its images elsewhere")
        elif split == "validation":
            note_deeper([kind], left_out, "in the validation set but not good")
        else:
            records += _read_defects(folder, class_folder / form.masks, name, kind, form, left_out)
    return records


def _read_defects(
    folder: Path, masks_folder: Path, name: str, kind: Path, form: Form, left_out: LeftOut
) -> list[Record]:
    """The test images of one kind of defect."""
    images = _by_stem(kind, left_out)
    if not masks_folder.is_dir():
        return [Record(name, "test", ANOMALOUS, kind.name, _path(image, folder), "") for image in images.values()]
    masks = _masks(masks_folder / kind.name, form, left_out)
    records = []
    for stem, image in images.items():
        stems = [stem] if form.mask_folders else [f"{stem}_mask", stem]
        absent = masks_folder / kind.name / (stem if form.mask_folders else f"{stem}_mask.png")
        mask = next((masks.pop(each) for each in stems if each in masks), absent)  # told with the other missing files
        records.append(Record(name, "test", ANOMALOUS, kind.name, _path(image, folder), _path(mask, folder)))
    _note(list(masks.values()), left_out, "masks without an image")
    return records


def _masks(folder: Path, form: Form, left_out: LeftOut) -> dict[str, Path]:
    """The masks of one kind of defect, or the folders of masks, by their names' stems."""
    if not folder.is_dir():
        return {}
    if not form.mask_folders:
        return _by_stem(folder, left_out)
    loose, folders = entries(folder, left_out)
    _note(loose, left_out, "masks outside an image's folder of masks")
    for masks in folders:
        _, deeper = entries(masks, left_out)
        note_deeper(deeper, left_out)
    return {path.name: path for path in folders}


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


def _path(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()


def _note(images: list[Path], left_out: LeftOut, reason: str) -> None:
    for image in images:
        left_out.note(image, reason)
