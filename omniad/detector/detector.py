"""A detector: a run folder that scores any images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from omniad.data.folders import LeftOut
from omniad.data.images import decode_image, resize
from omniad.data.packs import normalise
from omniad.detector.inputs import find_images
from omniad.detector.threshold import Threshold, of_other_weights, read_threshold
from omniad.detector.tiles import Grid, scaled
from omniad.devices import pick_device
from omniad.errors import UserError
from omniad.files import in_one_line
from omniad.models import load_model
from omniad.models.anomaly_map import smooth
from omniad.models.method import LeavesOut
from omniad.models.precision import arithmetic
from omniad.parallel import in_order, usable_cores
from omniad.runs.files import THRESHOLD
from omniad.runs.provenance import load_run_settings

VIEW = 1024  # pixels of the longest side of the image that is kept to look at


@dataclass(frozen=True)
class Prediction:
    """A detector's result for one image."""

    path: Path
    score: float  # higher is more anomalous
    verdict: str  # "good" or "anomalous" (score above the threshold); "" without a threshold
    map: np.ndarray  # (S, S) float32, at the run's resolution; of a run on tiles (H, W), at its scale
    size: tuple[int, int]  # height and width of the image when it stands upright, pixels
    view: np.ndarray  # (h, w, 3) uint8: the image, made smaller where it is larger than VIEW

    def full_size_map(self) -> np.ndarray:
        """The map at the image's own size, (H, W) float32, resized bilinearly."""
        return self.map if self.map.shape == self.size else resize_map(self.map, self.size)


class Detector:
    """A run folder, loaded: of `omniad fit`, `train` or `import-released`.

    Args:
        run_dir: `config.yaml` and `model.safetensors`, and `threshold.json` where `fit` wrote one.
        device: by default a free GPU when there is one, else the CPU.
        threshold: of the verdict, instead of the run's own.

    Raises:
        UserError: a file is missing or damaged, or the threshold is not finite.
    """

    def __init__(
        self, run_dir: str | Path, device: str | torch.device | None = None, threshold: float | None = None
    ) -> None:
        self.run_dir = Path(run_dir)
        self.settings = load_run_settings(run_dir)
        self.size, self.tiles = self.settings.data.image_size, self.settings.tiles
        if threshold is not None and not math.isfinite(threshold):
            raise UserError(f"the threshold must be a finite number, not {threshold}")
        kept = read_threshold(self.run_dir)
        self.device = pick_device() if device is None else torch.device(device)
        self.model = load_model(run_dir, self.device)
        # What a map of a good image shows. It is subtracted from tiles' maps before these are blended.
        self._of_tile = self.model.expected_map(self.size).cpu().numpy()  # (S, S)
        self.expected = np.zeros((1, 1), np.float32) if self.tiles else self._of_tile
        if kept and of_other_weights(kept, self.run_dir):
            if threshold is None:
                raise UserError(
                    f"{self.run_dir / THRESHOLD}: belongs to other weights; run `omniad fit` again, or give --threshold"
                )
            kept = None
        self.use(kept)
        self.threshold = self.threshold if threshold is None else threshold

    def use(self, kept: Threshold | None) -> None:
        """Use this threshold from now on, or none."""
        self.threshold = kept.threshold if kept else None
        self.typical = kept.typical if kept else None  # by how much a good image's map usually exceeds `expected`

    def score(
        self, images: str | Path | Iterable[str | Path], skipped: dict[Path, str] | None = None
    ) -> Iterator[Prediction]:
        """Score images of any size and mode, in order; each is read when its turn comes.

        Args:
            images: files and folders; folders are searched at any depth.
            skipped: filled with the images that can't be read and the reasons.

        Raises:
            UserError: a file or folder does not exist; without `skipped` also when an image can't be read.
        """
        left_out = LeftOut()
        files = find_images(images, left_out=left_out)
        for path, reason in left_out.odd.items():
            if skipped is None:
                raise UserError(f"{path}: can't be read: {reason}")
            skipped[path] = reason
        return self._score(files, skipped)

    def _score(self, files: list[Path], skipped: dict[Path, str] | None) -> Iterator[Prediction]:
        # Images are read ahead while earlier ones are computed: a batch, or with tiles a single one; on a CPU,
        # which takes far longer to compute than to read a large image, memory then holds one at a time.
        batch_size = self.settings.evaluation.batch_size
        threads, ahead = usable_cores(), 2 * batch_size
        if self.tiles:
            threads, ahead = 1, 1 if self.device.type == "cpu" else 2
        with ThreadPoolExecutor(max_workers=threads) as pool:  # PIL releases the interpreter's lock
            read = in_order(pool, lambda file: _read(file, self.pixels), files, ahead)
            if self.tiles:
                yield from self._score_whole(read, skipped)
                return
            readable = (image for image in read if not _skip(image, skipped))
            while batch := list(islice(readable, batch_size)):
                maps, scores = self.compute(np.stack([image.pixels for image in batch]))
                for image, anomaly_map, score in zip(batch, maps, scores.tolist(), strict=True):
                    yield self._prediction(image, anomaly_map, score)

    def _score_whole(self, read: Iterator[_Image], skipped: dict[Path, str] | None) -> Iterator[Prediction]:
        """Score images in tiles; nothing of an image is kept while the next one is read."""
        while image := next(read, None):
            if not _skip(image, skipped):
                prediction = self._prediction(image, *self.compute_whole(image.pixels))
                image = None
                yield prediction
                del prediction

    def pixels(self, image: Image.Image) -> np.ndarray:
        """What is scored of an RGB image, uint8: (S, S, 3), or with tiles the whole at the run's scale, (H, W, 3).

        Raises:
            ValueError: it is smaller than a tile.
        """
        return scaled(image, self.size, self.tiles.scale) if self.tiles else resize(image, self.size)

    def compute_whole(self, pixels: np.ndarray, own: int | None = None) -> tuple[np.ndarray, float]:
        """Map (H, W), float32, and score of one image that is cut into tiles, (H, W, 3), uint8 RGB at the run's scale.

        The map is blended from what the tiles' smoothed maps show beyond what is expected at each place of a tile. The
        score is the highest that the method's rule gives to a part of it where a tile was. `own`: see `compute`.

        Raises:
            UserError: the run is not one on tiles.
        """
        if self.tiles is None:
            raise UserError(f"{self.run_dir}: not a run on tiles; `omniad fit --tile` makes one")
        of_tile, batch_size = self._of_tile, self.settings.evaluation.batch_size
        grid = Grid((pixels.shape[0], pixels.shape[1]), self.size, self.tiles.overlap)

        def maps_of(tiles: np.ndarray) -> np.ndarray:
            return self.compute(tiles, None if own is None else np.full(len(tiles), own))[0] - of_tile

        blended = grid.blend(pixels, batch_size, maps_of)
        with torch.inference_mode():
            parts = (torch.from_numpy(grid.cut(blended, places) + of_tile) for places in grid.batches(batch_size))
            return blended, max(float(self.model.image_scores(part.to(self.device)).max()) for part in parts)

    @torch.inference_mode()
    def compute(self, pixels: np.ndarray, own: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Smoothed maps (B, S, S) and scores (B,), float32, of images (B, S, S, 3), uint8 RGB.

        `own` (B,) says which training images they are, for a method that then leaves these out (`LeavesOut`).
        """
        self.model.seed_draws(0)  # before every batch, so that an image's score does not depend on the images around it
        with arithmetic("fp32", self.device):
            features = self.model.encode(normalise(pixels).to(self.device))
            if own is None:
                maps = self.model.anomaly_maps(features, self.size)
            else:
                numbers = torch.tensor(own, device=self.device)
                maps = cast(LeavesOut, self.model).anomaly_maps(features, self.size, numbers)
            maps = smooth(maps, self.settings.evaluation.sigma)  # (B, S, S)
            scores = self.model.image_scores(maps).cpu().numpy()
        if not np.isfinite(scores).all():
            raise UserError(f"{self.run_dir}: its model gives scores that are not finite; train it again")
        return maps.cpu().numpy(), scores

    def _prediction(self, image: _Image, anomaly_map: np.ndarray, score: float) -> Prediction:
        verdict = ""
        if self.threshold is not None:
            verdict = "anomalous" if score > self.threshold else "good"
        return Prediction(image.file, score, verdict, anomaly_map, image.size, image.view)


class _Image(NamedTuple):
    """An image that was read, or the reason why it can't be."""

    file: Path
    pixels: np.ndarray  # see `Detector.pixels`
    view: np.ndarray
    size: tuple[int, int]
    problem: str = ""


def _read(file: Path, to_pixels: Callable[[Image.Image], np.ndarray]) -> _Image:
    """In a thread: decode, turn upright, resize."""
    try:
        image = decode_image(file)
        pixels = to_pixels(image)
    except Exception as error:  # broken files make PIL's decoders raise anything
        nothing = np.empty(0, np.uint8)
        return _Image(file, nothing, nothing, (0, 0), in_one_line(error))
    native = (image.height, image.width)
    image.thumbnail((VIEW, VIEW))
    return _Image(file, pixels, np.asarray(image), native)


def _skip(image: _Image, skipped: dict[Path, str] | None) -> bool:
    """Whether an image can't be read; noted in `skipped`, or raised where there is no such place."""
    if not image.problem:
        return False
    if skipped is None:
        raise UserError(f"{image.file}: can't be read: {image.problem}")
    skipped[image.file] = image.problem
    return True


def resize_map(anomaly_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map (S, S) at another height and width, bilinearly; float32."""
    return F.interpolate(torch.from_numpy(anomaly_map)[None, None], size=size, mode="bilinear")[0, 0].numpy()
