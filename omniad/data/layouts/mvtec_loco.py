"""MVTec LOCO AD: MVTec-AD's layout with `validation/good/`, and several masks an image.

`<class>/test/logical_anomalies/000.png` has its masks in `ground_truth/logical_anomalies/000/000.png`, `001.png`, ...,
a file for each anomalous region, whose grey level tells the kind of defect; `structural_anomalies` likewise. An image's
mask is the folder, read as the union of its files (`decode_mask`). Source: the data set's paper (IJCV 130, 2022) and
anomalib's data set `mvtec_loco`.
"""

from pathlib import Path

from omniad.config import SourceSettings
from omniad.data.folders import LeftOut, entries, holds_images
from omniad.data.layouts.class_folders import Form, read_classes
from omniad.data.layouts.record import Record

FORM = Form("mvtec_loco", mask_folders=True)


def read(source: SourceSettings, left_out: LeftOut) -> list[Record]:
    """Every image of the training, validation and test sets. Raises UserError as `read_classes` does."""
    folder = Path(source.folder)
    return read_classes(folder, folder, FORM, left_out)


def fits(class_folder: Path) -> bool:
    """Whether the folder of a class is laid out so: a kind of defect has folders of masks, and no mask beside them."""
    masks = class_folder / FORM.masks
    kinds = entries(masks, LeftOut())[1] if masks.is_dir() else []
    return any(not images and any(map(holds_images, folders)) for images, folders in map(_entries, kinds))


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    return entries(folder, LeftOut())
