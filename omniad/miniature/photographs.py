"""Real photographs that ship inside scikit-image's wheel, cut into a training and a test area that share no pixel.

Training images come from training areas only; every test image, and the foreign matter in its defects, from test areas.
"""

from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import skimage
from PIL import Image

from omniad.errors import UserError

Split = Literal["train", "test"]
FOLDER = Path(skimage.__file__).parent / "data"
# Left and right are separated by a column that both leave out; coins.png is split between its second and third row.
FILES = {
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "camera": "camera.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "coins": "coins.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "ihc": "ihc.png",
    "moon": "moon.png",
    "motorcycle": "motorcycle_left.png",
    "page": "page.png",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
    "text": "text.png",
}
TRAIN_SHARE = 0.58
COINS_ROW = 150  # between the second and the third row of coins
# Centre x, y and radius of the coins in coins.png, pixels, read off the photograph.
COINS = (
    *((45, 54, 22), (100, 56, 19), (156, 51, 23), (216, 51, 24), (276, 53, 21), (335, 43, 29)),
    *((46, 124, 21), (103, 126, 19), (154, 127, 20), (206, 125, 20), (271, 119, 25), (337, 125, 19)),
    *((44, 197, 19), (102, 196, 22), (155, 198, 19), (213, 193, 24), (274, 195, 23), (347, 187, 32)),
    *((46, 260, 28), (114, 266, 21), (173, 261, 29), (244, 263, 24), (301, 263, 25), (358, 268, 23)),
)


def area_box(name: str, split: Split) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of an area in its photograph, pixels; right and bottom are exclusive."""
    width, height = _photograph(name).shape[1::-1]
    if name == "coins":
        return (0, 0, width, COINS_ROW) if split == "train" else (0, COINS_ROW + 1, width, height)
    border = round(TRAIN_SHARE * width)
    return (0, 0, border, height) if split == "train" else (border + 1, 0, width, height)


@cache
def area(name: str, split: Split) -> np.ndarray:
    """One area of a photograph, (H, W, 3) uint8, read-only; grey photographs have three equal channels."""
    left, top, right, bottom = area_box(name, split)
    return _photograph(name)[top:bottom, left:right]


def coins(split: Split) -> list[np.ndarray]:
    """The coins of one area, cut out as squares (2r, 2r, 3) uint8 that their rims touch."""
    _, top, _, bottom = area_box("coins", split)
    photograph = _photograph("coins")
    return [photograph[y - r : y + r, x - r : x + r] for x, y, r in COINS if top <= y - r and y + r <= bottom]


@cache
def _photograph(name: str) -> np.ndarray:
    file = FOLDER / FILES[name]
    try:
        with Image.open(file) as image:
            pixels = np.array(image.convert("RGB"))
    except OSError:
        raise UserError(f"{file}: the photograph is missing; reinstall scikit-image (it is in its wheel)") from None
    pixels.flags.writeable = False
    return pixels
