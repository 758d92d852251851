"""People's own images: one folder of good images of a product, or a folder of several such folders.

A product's folder holds its good images; or `good/` with them, beside a folder for each kind of defect; or `train/` and
`test/` as in MVTec-AD. A fifth of the good training images is held out for a threshold, as the split "validation".
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from omniad.config import SourceSettings
from omniad.data.images import images_in, is_image
from omniad.data.layouts import mvtec
from omniad.data.layouts.record import ANOMALOUS, NORMAL, Record
from omniad.errors import UserError

HELD_OUT = 0.2  # share of a product's good images
HELD_OUT_MOST = 100  # images of a product: more would tell little more about its scores


def read(source: SourceSettings) -> list[Record]:
    """Every image of the training, validation and test sets.

    Raises:
        UserError: there are no images, good ones and folders lie side by side, or a product has fewer than two good
            images.
    """
    folder = Path(source.folder)
    products = [folder] if _is_product(folder) else [path for path in _folders(folder) if images_in(path)]
    if not products:
        raise UserError(
            f"{folder}: no images in it; it must hold a product's good images, or a folder of them for each product"
        )
    return [record for product in products for record in _hold_out(product, _read_product(folder, product))]


def _is_product(folder: Path) -> bool:
    return any(path.is_file() and is_image(path) for path in folder.iterdir()) or any(
        path.name in ("train", *mvtec.GOOD) for path in _folders(folder)
    )


def _read_product(folder: Path, product: Path) -> list[Record]:
    """A product's images; paths are relative to `folder`."""
    if (product / "train").is_dir():
        return list(mvtec.read_class(folder, product))
    kinds = [path for path in _folders(product) if images_in(path)]
    good = [path for path in kinds if path.name in mvtec.GOOD]
    direct = [path for path in product.iterdir() if path.is_file() and is_image(path)]
    if direct and kinds:
        raise UserError(
            f"{product}: holds images and folders of images ({', '.join(path.name for path in kinds[:5])}); put the "
            "good images into a folder of their own, named good"
        )
    if not direct and not good:
        raise UserError(f"{product}: no good images; put them there, or into a folder named good in it")
    name, records = product.name or product.resolve().name, []
    for kind in [product] if direct else kinds:
        for image in images_in(kind):
            path = image.relative_to(folder).as_posix()
            if direct or kind in good:
                records.append(Record(name, "train", NORMAL, "good", path, ""))
            else:
                records.append(Record(name, "test", ANOMALOUS, kind.name, path, ""))
    return records


def _hold_out(product: Path, records: list[Record]) -> Iterator[Record]:
    """The records, with some of the training images, spread evenly over the sorted names, moved to "validation"."""
    train = sorted(record for record in records if record.split == "train")
    if len(train) < 2:
        raise UserError(f"{product}: has {len(train)} good image(s); at least 2 are needed, better 50")
    count = min(math.ceil(HELD_OUT * len(train)), HELD_OUT_MOST)
    chosen = {train[(2 * number + 1) * len(train) // (2 * count)] for number in range(count)}
    for record in records:
        yield record._replace(split="validation") if record in chosen else record


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
