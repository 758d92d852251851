"""The miniatures' classes: how one image of a class is made, clean or with a defect."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from omniad.miniature import objects
from omniad.miniature.defects import KINDS, Site, draw_shape
from omniad.miniature.photographs import Split
from omniad.miniature.textures import coin, piece

SIZE = 160  # pixels, native
FOREIGN = ("brick", "chelsea", "grass", "gravel", "ihc", "page")
SURFACE = ("scratch", "stain", "hole", "contamination", "smear")
FLAT = ("scratch", "stain", "hole", "contamination")  # where a smear would hardly show
PART = ("scratch", "missing", "hole", "contamination", "stain")


@dataclass(frozen=True)
class ClassSpec:
    """One class: its painter or photograph, the ground it lies on, its defects."""

    photograph: str = ""  # a texture cut from this photograph; else an object
    span: tuple[int, int] = (128, 160)
    painter: objects.Painter | None = None  # None and no photograph: coins
    scale: float = 1.0  # half the object's extent, as a share of half the image
    turn: float = np.pi  # largest rotation, radians
    grid: int = 1  # objects a row and column
    ground: tuple[int, int, int] = (200, 200, 200)
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    grey: bool = False  # stored as single-channel PNG
    defects: tuple[str, ...] = PART


class Example(NamedTuple):
    """One image with its truth: uint8 (S, S, 3), its clean twin, and where they differ, (S, S) bool."""

    image: np.ndarray
    clean: np.ndarray
    mask: np.ndarray


class View(NamedTuple):
    """How a camera sees the object: foreshortened by `squeeze` along direction `angle` (radians)."""

    angle: float = 0.0
    squeeze: float = 1.0


FRONT = View()
# Real-IAD's five cameras: one above, four from the sides.
VIEWS = (FRONT, *(View(angle, 0.88) for angle in (0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)))


def make_example(
    spec: ClassSpec,
    split: Split,
    defect: str,
    rng: np.random.Generator,
    view: View = FRONT,
    traits: np.random.Generator | None = None,
) -> Example:
    """One image of a class; the same state of the generators gives the same image.

    Args:
        spec: the class; `split` tells which areas of the photographs it is made of.
        defect: "good" or one of `spec.defects`.
        rng: of everything that differs between two images.
        view: of an object.
        traits: of what is the specimen's own (which coin it is, its shade), for several views of one; else `rng`.
    """
    ground, clean, inside = (
        _texture(spec, split, rng) if spec.photograph else _object(spec, split, rng, view, traits or rng)
    )
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    image = clean
    if defect != "good":
        mask = draw_shape(defect, inside, rng)
        source = str(rng.choice([name for name in FOREIGN if name != spec.photograph]))
        foreign = piece(source, split, SIZE, rng, (100, 150))
        changed = KINDS[defect](Site(clean, mask, ground, foreign, rng))
        image = np.where(mask[..., None], changed, clean)
    if spec.grey:
        image, clean = (np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2) for picture in (image, clean))
    image, clean = (np.clip(np.round(picture), 0, 255).astype(np.uint8) for picture in (image, clean))
    return Example(image, clean, mask)


def _texture(spec: ClassSpec, split: Split, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    clean = piece(spec.photograph, split, SIZE, rng, spec.span) * rng.uniform(0.92, 1.08) * spec.tint
    return clean, clean, np.ones((SIZE, SIZE), dtype=bool)


def _object(
    spec: ClassSpec, split: Split, rng: np.random.Generator, view: View, traits: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ground alone, the ground with the object, and where the object is."""
    painter = spec.painter or partial(coin, split=split)
    y, x = (np.mgrid[:SIZE, :SIZE] + 0.5) * 2 / SIZE - 1  # image coordinates, -1 to 1
    light = 1 + 0.06 * (x * rng.uniform(-1, 1) + y * rng.uniform(-1, 1)) + rng.uniform(-0.04, 0.04)
    grain = ndimage.gaussian_filter(rng.standard_normal((SIZE, SIZE)), 0.7) * 6
    ground = np.array(spec.ground) * np.ones((SIZE, SIZE, 1))
    picture, inside = ground, np.zeros((SIZE, SIZE))
    places = (np.arange(spec.grid) - (spec.grid - 1) / 2) * 2 / spec.grid
    for centre_y in places:
        for centre_x in places:
            u, v = _frame(x - centre_x, y - centre_y, spec, view, rng)
            colour, share = painter(u, v, 2 / (SIZE * spec.scale), traits)
            picture = picture * (1 - share[..., None]) + colour * spec.tint * share[..., None]
            inside = np.maximum(inside, share)
    ground, picture = (layer * light[..., None] + grain[..., None] for layer in (ground, picture))
    return ground, picture, inside > 0.5


def _frame(
    x: np.ndarray, y: np.ndarray, spec: ClassSpec, view: View, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Image coordinates -> the object's: a small shift, the camera's foreshortening, a rotation, a scale."""
    x, y = x - rng.uniform(-0.04, 0.04), y - rng.uniform(-0.04, 0.04)
    cosine, sine = np.cos(view.angle), np.sin(view.angle)
    along, across = (x * cosine + y * sine) / view.squeeze, -x * sine + y * cosine
    x, y = along * cosine - across * sine, along * sine + across * cosine
    turn, scale = rng.uniform(-spec.turn, spec.turn), spec.scale * rng.uniform(0.96, 1.04)
    return (x * np.cos(turn) + y * np.sin(turn)) / scale, (-x * np.sin(turn) + y * np.cos(turn)) / scale


MVTEC = {
    "brick": ClassSpec("brick", grey=True, defects=FLAT),
    "capsule": ClassSpec(painter=objects.capsule, scale=0.95, turn=0.15, ground=(232, 232, 228)),
    "coins": ClassSpec(scale=0.42, grid=2, ground=(58, 56, 54)),
    "gear": ClassSpec(painter=objects.gear, scale=0.98, ground=(40, 44, 52)),
    "grass": ClassSpec("grass", tint=(0.85, 1.05, 0.6), defects=SURFACE),
    "gravel": ClassSpec("gravel", grey=True, defects=SURFACE),
}
VISA = {
    "board": ClassSpec(painter=objects.board, turn=0.03, defects=FLAT),
    "tablets": ClassSpec(painter=objects.tablets, turn=0.05, ground=(60, 72, 96)),
    "weave": ClassSpec(painter=objects.weave, turn=0.06, defects=SURFACE),
}
REALIAD = {
    "button": ClassSpec(painter=objects.button, turn=0.5, ground=(214, 210, 202)),
    "coin": ClassSpec(scale=0.8, ground=(58, 56, 54)),
    "plug": ClassSpec(painter=objects.plug, scale=0.95, turn=0.2, ground=(222, 222, 218)),
}
MVTEC_AD_2 = {"pebbles": MVTEC["gravel"], "weave": VISA["weave"]}
MVTEC_LOCO = {"coins": MVTEC["coins"], "tablets": VISA["tablets"]}
CLASSES = {
    "mvtec": MVTEC,
    "mvtec_ad_2": MVTEC_AD_2,
    "mvtec_loco": MVTEC_LOCO,
    "visa": VISA,
    "realiad": REALIAD,
}
