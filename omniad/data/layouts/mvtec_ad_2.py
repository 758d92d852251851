"""MVTec AD 2: `<class>/train/good/000_regular.png`, `validation/good/`, `test_public/good|bad/000_overexposed.png`.

The masks are in `test_public/ground_truth/bad/000_overexposed_mask.png`. The images of `test_private/` and
`test_private_mixed/` have no labels (its authors' server scores them), so they are in no index: `omniad predict` takes
these folders. Source: the data set's paper (arXiv 2503.21622) and anomalib's data module `mvtecad2`.
"""

from pathlib import Path

from omniad.config import SourceSettings
from omniad.data.folders import LeftOut, entries
from omniad.data.layouts.class_folders import Form, read_classes
from omniad.data.layouts.record import Record

FORM = Form("mvtec_ad_2", "test_public", "test_public/ground_truth", unlabelled=("test_private", "test_private_mixed"))
WRAPPER = "mvtec_ad_2"  # the archive has all classes in a folder of this name


def read(source: SourceSettings, left_out: LeftOut) -> list[Record]:
    """Every image that has a label. Raises UserError as `read_classes` does."""
    folder = Path(source.folder)
    return read_classes(folder, classes_in(folder), FORM, left_out)


def classes_in(folder: Path) -> Path:
    """The folder of the classes' folders: this one, or the archive's own in it where that is the only one."""
    names = [path.name for path in entries(folder, LeftOut())[1]]
    return folder / WRAPPER if names == [WRAPPER] else folder


def fits(class_folder: Path) -> bool:
    """Whether the folder of a class is laid out so."""
    return (class_folder / FORM.test).is_dir() and not (class_folder / "test").is_dir()
