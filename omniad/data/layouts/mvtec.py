"""MVTec-AD: `<class>/train/good/000.png`, `test/<defect>/000.png`, `ground_truth/<defect>/000_mask.png`.

Also `validation/good/`, which MVTec-AD itself does not have: not trained on, not tested on.
"""

from pathlib import Path

from omniad.config import SourceSettings
from omniad.data.folders import LeftOut, entries
from omniad.data.layouts import mvtec_ad_2, mvtec_loco
from omniad.data.layouts.class_folders import Form, read_classes
from omniad.data.layouts.record import Record
from omniad.errors import UserError

FORM = Form("mvtec")


def read(source: SourceSettings, left_out: LeftOut) -> list[Record]:
    """Every image of the training, validation and test sets.

    Raises:
        UserError: as `read_classes`; or a class is laid out as those of MVTec AD 2 or MVTec LOCO AD are.
    """
    folder = Path(source.folder)
    for class_folder in entries(folder, LeftOut())[1]:
        if (form := form_of(class_folder)) is not FORM:
            raise UserError(f"{class_folder}: has another layout; set sources.<name>.layout to {form.layout}")
    return read_classes(folder, folder, FORM, left_out)


def form_of(class_folder: Path) -> Form:
    """The form that the folder of a class shows: MVTec AD 2's or MVTec LOCO AD's, else MVTec-AD's."""
    return next((layout.FORM for layout in (mvtec_ad_2, mvtec_loco) if layout.fits(class_folder)), FORM)
