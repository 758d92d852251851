"""Write the miniatures in the exact layouts of the real data sets, with what is awkward about each."""

import csv
import json
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from omniad.errors import UserError
from omniad.files import atomic_write, cannot_write
from omniad.miniature.photographs import Split
from omniad.miniature.scenes import CLASSES, FRONT, VIEWS, ClassSpec, Example, View, make_example

MVTEC_COUNTS = {"train": 40, "good": 10, "defective": 15}  # images a class
AD_2_COUNTS = {"train": 30, "validation": 6, "good": 4, "defective": 8, "private": 4}  # the last three are scenes
LOCO_COUNTS = {"train": 30, "validation": 6, "good": 10, "defective": 15}
VISA_COUNTS = {"train": 40, "good": 10, "defective": 15}
REALIAD_COUNTS = {"train": 14, "good": 2, "defective": 4}  # specimens a class, of five images each
JPEG_QUALITY = 95
LIGHTS = {"regular": 1.0, "overexposed": 1.3, "underexposed": 0.7}  # of MVTec AD 2, and how bright each is
PRIVATE = 1000  # where the numbers of its private scenes begin
LOGICAL = "missing"  # the kind of defect that breaks a rule of MVTec LOCO AD; all others are structural
REALIAD_CODES = {"scratch": "HS", "missing": "QS", "hole": "AK", "contamination": "ZW", "stain": "YX"}  # its codes


def write_miniature(layout: str, folder: Path, seed: int = 0) -> None:
    """Make one miniature; the same seed gives the same bytes.

    Args:
        layout: one of WRITERS.
        folder: becomes the data set's folder.
        seed: of every random choice.

    Raises:
        UserError: unknown layout, or the folder can't be written.
    """
    if layout not in WRITERS:
        raise UserError(f"miniature: unknown layout '{layout}'; choose from: {', '.join(WRITERS)}")
    try:
        WRITERS[layout](folder, seed)
    except OSError as error:
        raise cannot_write(folder, error) from None


def _write_mvtec(folder: Path, seed: int) -> None:
    """Single-channel PNGs for some classes; each split numbers its files from 000."""
    for name, spec in CLASSES["mvtec"].items():

        def save(path: str, example: Example, grey: bool = spec.grey, name: str = name) -> None:
            _save(folder / name / path, example.image[..., 0] if grey else example.image)

        for number in range(MVTEC_COUNTS["train"]):
            save(f"train/good/{number:03}.png", _example(spec, seed, "mvtec", name, "train", "good", number))
        for number in range(MVTEC_COUNTS["good"]):
            save(f"test/good/{number:03}.png", _example(spec, seed, "mvtec", name, "test", "good", number))
        for number in range(MVTEC_COUNTS["defective"]):
            defect, count = spec.defects[number % len(spec.defects)], number // len(spec.defects)
            example = _example(spec, seed, "mvtec", name, "test", defect, number)
            save(f"test/{defect}/{count:03}.png", example)
            _save(folder / name / f"ground_truth/{defect}/{count:03}_mask.png", example.mask.astype(np.uint8) * 255)


def _write_mvtec_ad_2(folder: Path, seed: int) -> None:
    """A test scene in several lights, the light in the file's name; masks inside test_public; images without labels."""
    for name, spec in CLASSES["mvtec_ad_2"].items():
        make, place = partial(_example, spec, seed, "mvtec_ad_2", name), folder / name
        _save_good(make, place, AD_2_COUNTS, "{:03}_regular.png")
        for number in range(AD_2_COUNTS["good"] + AD_2_COUNTS["defective"]):
            kind = "good" if number < AD_2_COUNTS["good"] else "bad"
            scene = make("test", "good" if kind == "good" else spec.defects[number % len(spec.defects)], number)
            for light, brightness in LIGHTS.items():
                _save(place / f"test_public/{kind}/{number:03}_{light}.png", _lit(scene.image, brightness))
                if kind == "bad":
                    mask = place / f"test_public/ground_truth/bad/{number:03}_{light}_mask.png"
                    _save(mask, scene.mask.astype(np.uint8) * 255)
        for number in range(AD_2_COUNTS["private"]):
            scene = make("test", spec.defects[0] if number % 2 else "good", PRIVATE + number)
            _save(place / f"test_private/{number:03}_regular.png", scene.image)
            _save(place / f"test_private_mixed/{number:03}_mixed.png", _lit(scene.image, LIGHTS["underexposed"]))


def _write_mvtec_loco(folder: Path, seed: int) -> None:
    """A folder of masks an image, whose level tells the kind of defect; every second defect is in two masks."""
    for name, spec in CLASSES["mvtec_loco"].items():
        make, place = partial(_example, spec, seed, "mvtec_loco", name), folder / name
        _save_good(make, place, LOCO_COUNTS, "{:03}.png")
        for number in range(LOCO_COUNTS["good"]):
            _save(place / f"test/good/{number:03}.png", make("test", "good", number).image)
        for number in range(LOCO_COUNTS["defective"]):
            defect = number % len(spec.defects)
            example = make("test", spec.defects[defect], number)
            path = f"{'logical' if spec.defects[defect] == LOGICAL else 'structural'}_anomalies/{number:03}"
            _save(place / f"test/{path}.png", example.image)
            columns = np.flatnonzero(example.mask.any(axis=0))
            left = np.arange(example.mask.shape[1]) <= (columns.mean() if number % 2 else columns.max())
            for part, mask in enumerate((example.mask & left, example.mask & ~left)):
                if mask.any():
                    _save(place / f"ground_truth/{path}/{part:03}.png", mask.astype(np.uint8) * (255 - defect))


def _save_good(make: Callable[..., Example], place: Path, counts: dict[str, int], file: str) -> None:
    """The training and the validation images of a class."""
    for number in range(counts["train"]):
        _save(place / "train/good" / file.format(number), make("train", "good", number).image)
    for number in range(counts["validation"]):
        image = make("train", "good", counts["train"] + number).image
        _save(place / "validation/good" / file.format(number), image)


def _lit(image: np.ndarray, brightness: float) -> np.ndarray:
    return np.clip(image * brightness, 0, 255).astype(np.uint8)


def _write_visa(folder: Path, seed: int) -> None:
    """`.JPG` images whose names repeat between Normal and Anomaly; masks that hold class ids; the split in a CSV."""
    rows = []
    for name, spec in CLASSES["visa"].items():
        images = f"{name}/Data/Images"
        for number in range(VISA_COUNTS["train"] + VISA_COUNTS["good"]):
            split: Split = "train" if number < VISA_COUNTS["train"] else "test"
            path = f"{images}/Normal/{number:04}.JPG"
            _save(folder / path, _example(spec, seed, "visa", name, split, "good", number).image)
            rows.append((name, split, "normal", path, ""))
        for number in range(VISA_COUNTS["defective"]):
            kind = number % len(spec.defects)
            example = _example(spec, seed, "visa", name, "test", spec.defects[kind], number)
            path, mask = f"{images}/Anomaly/{number:04}.JPG", f"{name}/Data/Masks/Anomaly/{number:03}.png"
            _save(folder / path, example.image)
            _save(folder / mask, example.mask.astype(np.uint8) * (kind + 1))
            rows.append((name, "test", "anomaly", path, mask))
    with atomic_write(folder / "split_csv/1cls.csv") as file:
        csv.writer(file, lineterminator="\n").writerows([("object", "split", "label", "image", "mask"), *rows])


def _write_realiad(folder: Path, seed: int) -> None:
    """Five views a specimen; NG folders also hold normal images, where the defect can't be seen; nested labels."""
    for name, spec in CLASSES["realiad"].items():
        entries: dict[str, list] = {"train": [], "test": []}
        specimen = 0
        for _ in range(REALIAD_COUNTS["train"] + REALIAD_COUNTS["good"]):
            specimen += 1
            split: Split = "train" if specimen <= REALIAD_COUNTS["train"] else "test"
            entries[split] += _write_specimen(folder, seed, name, spec, split, "good", specimen)
        for number in range(REALIAD_COUNTS["defective"]):
            specimen += 1
            defect = spec.defects[number % len(spec.defects)]
            entries["test"] += _write_specimen(folder, seed, name, spec, "test", defect, specimen)
        meta = {"prefix": f"{name}/", "normal_class": "OK", "pre_transform": False}
        with atomic_write(folder / f"realiad_jsons/realiad_jsons/{name}.json") as file:
            json.dump({"meta": meta, **entries}, file, indent=1)


def _write_specimen(
    folder: Path, seed: int, name: str, spec: ClassSpec, split: Split, defect: str, specimen: int
) -> list[dict[str, str | None]]:
    """One specimen's five images; a defective one shows no defect in one of them. Returns its label entries."""
    code = REALIAD_CODES.get(defect, "OK")
    status, place = ("OK", "OK") if code == "OK" else (f"NG_{code}", f"NG/{code}")
    entries = []
    for number, view in enumerate(VIEWS, start=1):
        hidden = number == 1 + specimen % len(VIEWS)
        seen = "good" if hidden else defect
        stem = f"{place}/S{specimen:04}/{name}_{specimen:04}_{status}_C{number}_20230101120000"
        example = _example(spec, seed, "realiad", name, split, seen, specimen * len(VIEWS) + number, view, specimen)
        _save(folder / f"realiad_1024/{name}/{stem}.jpg", example.image)
        if seen != "good":
            _save(folder / f"realiad_1024/{name}/{stem}.png", example.mask.astype(np.uint8) * 255)
        entries.append(
            {
                "category": name,
                "anomaly_class": "OK" if seen == "good" else code,
                "image_path": f"{stem}.jpg",
                "mask_path": None if seen == "good" else f"{stem}.png",
            }
        )
    return entries


def _example(
    spec: ClassSpec,
    seed: int,
    layout: str,
    name: str,
    split: Split,
    defect: str,
    number: int,
    view: View = FRONT,
    specimen: int | None = None,
) -> Example:
    """An image from its own generators, so that it does not depend on how many were made before it."""
    rng = _generator(seed, layout, name, split, defect, number)
    traits = None if specimen is None else _generator(seed, layout, name, split, "specimen", specimen)
    return make_example(spec, split, defect, rng, view, traits)


def _generator(seed: int, *key: str | int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32("/".join(map(str, key)).encode())])


def _save(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, quality=JPEG_QUALITY, compress_level=3)  # each format takes its own


WRITERS = {
    "mvtec": _write_mvtec,
    "mvtec_ad_2": _write_mvtec_ad_2,
    "mvtec_loco": _write_mvtec_loco,
    "visa": _write_visa,
    "realiad": _write_realiad,
}
