"""Your own images: one folder of good images of a product, or a folder of several such folders.

A product's folder holds its good images; or `good/` with them, beside a folder for each kind of defect; or it is laid
out as a class of MVTec-AD, MVTec AD 2 or MVTec LOCO AD is, with `train/`. A threshold is made of the split
"validation": `validation/good/` of such a class; without it, a share of the good training images is held out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from omniad.config import SourceSettings
from omniad.data.folders import LeftOut, entries, holds_images, images_in
from omniad.data.layouts import mvtec, mvtec_ad_2
from omniad.data.layouts.class_folders import GOOD, read_class
from omniad.data.layouts.record import ANOMALOUS, NORMAL, Record
from omniad.errors import UserError

HELD_OUT_MOST = 100  # images of a product: more would say little more about its scores


def read(source: SourceSettings, left_out: LeftOut) -> list[Record]:
    """Every image of the training, validation and test sets.

    Raises:
        UserError: there are no images, good ones and folders lie side by side, or a product has fewer than two good
            images.
    """
    folder = Path(source.folder)
    top, peeked = mvtec_ad_2.classes_in(folder), LeftOut()
    direct, folders = entries(top, peeked)
    products = [top]
    if not direct and not any(path.name in ("train", *GOOD) for path in folders):
        left_out.merge(peeked)
        products = [path for path in folders if holds_images(path)]
    if not products:
        raise UserError(
            f"{folder}: no images in it; put a product's good images there, or one folder of them per product"
        )
    return [
        record
        for product in products
        for record in _hold_out(product, _read_product(folder, product, left_out), source.held_out)
    ]


def _read_product(folder: Path, product: Path, left_out: LeftOut) -> list[Record]:
    """A product's images; paths are relative to `folder`."""
    if (product / "train").is_dir():
        return read_class(folder, product, mvtec.form_of(product), left_out)
    peeked = LeftOut()
    direct, folders = entries(product, peeked)
    kinds = [path for path in folders if holds_images(path)]
    good = [path for path in kinds if path.name in GOOD]
    if direct and kinds:
        raise UserError(
            f"{product}: contains both images and folders of images ({', '.join(path.name for path in kinds[:5])}); "
            "put the good images into a folder of their own, named good"
        )
    if not direct and not good:
        raise UserError(f"{product}: no good images; put them there, or into a folder named good in it")
    name, records = product.name or product.resolve().name, []
    if not direct:
        left_out.merge(peeked)
    for kind in [product] if direct else kinds:
        for image in images_in(kind, left_out):
            path = image.relative_to(folder).as_posix()
            if direct or kind in good:
                records.append(Record(name, "train", NORMAL, "good", path, ""))
            else:
                records.append(Record(name, "test", ANOMALOUS, kind.name, path, ""))
    return records


def _hold_out(product: Path, records: list[Record], share: float) -> Iterator[Record]:
    """The records, with some of the training images, spread evenly over the sorted names, moved to "validation".

    None are moved where the product has validation images of its own.
    """
    train = sorted(record for record in records if record.split == "train")
    if len(train) < 2:
        raise UserError(f"{product}: has {len(train)} good image(s); at least 2 are needed, 50 or more are better")
    has_its_own = any(record.split == "validation" for record in records)
    count = 0 if has_its_own else min(math.ceil(share * len(train)), HELD_OUT_MOST, len(train) - 1)
    chosen = {train[place] for place in spread(count, len(train))}
    for record in records:
        yield record._replace(split="validation") if record in chosen else record


def is_given(image: str) -> bool:
    """Whether a validation image is one of the data set's own, `<class>/validation/good/000.png`, not held out."""
    return Path(image).parent.parent.name == "validation"


def spread(count: int, total: int) -> list[int]:
    """`count` of the numbers below `total`, evenly spread."""
    return [(2 * number + 1) * total // (2 * count) for number in range(count)]
