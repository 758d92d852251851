"""Measure the speed and memory of indexing and packing data sets.

    python benchmarks/data.py rates              packing against plain PIL, on the miniatures and on large images
    python benchmarks/data.py full [--rows N]    a data set of Real-IAD's size in its layout, of small images

Prints Markdown. `full` writes about 200,000 links and a pack of 1.9 GB to a temporary folder (--folder chooses it).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from omniad.config import SourceSettings
from omniad.data.counts import read_counts
from omniad.data.images import read_image, read_masks
from omniad.data.index import read_index, write_index
from omniad.data.pack_writer import write_pack
from omniad.miniature import write_miniature

MINIATURE, LARGE = 96, 256  # pixels of the packs whose rate is measured, as config/ has them
SMALL = 56  # of the packs at full number
CORES = len(os.sched_getaffinity(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rates", "full", "step"])
    parser.add_argument("--rows", type=int, default=0, help="approximate number of images for `full`; 0: all 151,050")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "omniad-benchmark"))
    parser.add_argument("--step", choices=["index", "pack"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what == "step":
        _step(options.step, options.folder)
        return
    try:
        rates(options.folder) if options.what == "rates" else full(options.folder, options.rows)
    finally:
        shutil.rmtree(options.folder, ignore_errors=True)


def rates(folder: Path) -> None:
    """Images per second, and processor time per image: a plain PIL loop in a process a core, and write_pack."""
    print(f"{CORES} cores, load of the machine {os.getloadavg()[0]:.1f}\n")
    print("| images | resized to | PIL, images/s | pack, images/s | ratio | PIL, CPU ms | pack, CPU ms | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for name, source, size in _sources(folder):
        write_index(source, folder / "index.csv")
        lines = (folder / "index.csv").read_text().splitlines()
        rows = (lines[1:] * 6000)[: 120 if size == LARGE else 6000]  # a second or more of work
        (folder / "long.csv").write_text("\n".join([lines[0], *rows]) + "\n")
        index = read_index(folder / "long.csv")
        files = [
            (f"{source.folder}/{image}", f"{source.folder}/{mask}" if mask else "", size)
            for image, mask in zip(index["image"], index["mask"], strict=True)
        ]
        plain, packed = [], []
        for _ in range(3):  # in turn, so that a busy machine harms both alike
            plain.append(_measure(len(files), _plain_on_all, files))
            packed.append(_measure(len(files), _pack, source, folder, size))
        speed = [max(rate for rate, _ in measured) for measured in (plain, packed)]
        cpu = [min(ms for _, ms in measured) for measured in (plain, packed)]
        print(
            f"| {name} | {size} | {speed[0]:.0f} | {speed[1]:.0f} | {speed[1] / speed[0]:.0%} "
            f"| {cpu[0]:.2f} | {cpu[1]:.2f} | {cpu[0] / cpu[1]:.0%} |",
            flush=True,
        )


def _sources(folder: Path) -> Iterator[tuple[str, SourceSettings, int]]:
    for layout in ("mvtec", "visa", "realiad"):
        write_miniature(layout, folder / layout)
        yield f"miniature {layout}", SourceSettings(title=layout, layout=layout, folder=str(folder / layout)), MINIATURE
    rng = np.random.default_rng(0)
    for suffix in ("png", "jpg"):
        place = folder / suffix / "part/train/good"
        place.mkdir(parents=True)
        for number in range(30):
            coarse = Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).resize((1024, 1024))
            grain = rng.integers(0, 8, (1024, 1024, 3), np.uint8)
            Image.fromarray(np.asarray(coarse) // 2 + grain).save(place / f"{number}.{suffix}")
        yield f"1024 pixels, {suffix}", SourceSettings(title=suffix, layout="mvtec", folder=str(folder / suffix)), LARGE


def _measure(count: int, work: Callable[..., None], *arguments) -> tuple[float, float]:
    """Images per second, and milliseconds of processor time per image, child processes included."""
    started, cpu = time.perf_counter(), _processor_s()
    work(*arguments)
    return count / (time.perf_counter() - started), 1000 * (_processor_s() - cpu) / count


def _processor_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _plain_on_all(files: list[tuple[str, str, int]]) -> None:
    with get_context("fork").Pool(CORES) as pool:
        pool.map(_plain, [files[start : start + 16] for start in range(0, len(files), 16)], chunksize=1)
        pool.close()
        pool.join()


def _plain(files: list[tuple[str, str, int]]) -> None:
    for image, mask, size in files:
        read_image(image, size)
        if mask:
            read_masks(mask, size)


def _pack(source: SourceSettings, folder: Path, size: int) -> None:
    shutil.rmtree(folder / "pack", ignore_errors=True)
    write_pack(source, folder / "long.csv", folder / "pack", size)


def full(folder: Path, rows: int) -> None:
    """Time and peak memory of the index and the pack, at a tenth of Real-IAD's number of images and at all of it."""
    counts = read_counts("realiad", [])
    assert counts is not None
    total = sum(counts.values())
    print(f"{CORES} cores, Real-IAD's layout, images of 64 pixels, packs of {SMALL}\n")
    print("| rows | index, s | index, peak MB | pack, s | pack, peak MB |")
    print("|---|---|---|---|---|")
    for share in (0.1, 1.0):
        wanted = share * (rows or total) / total
        shutil.rmtree(folder, ignore_errors=True)
        made = _make_realiad(folder, {key: max(1, round(images * wanted)) for key, images in counts.items()})
        found = [_in_a_process(step, folder) for step in ("index", "pack")]
        index, pack = found
        print(f"| {made:,} | {index['s']:.1f} | {index['mb']} | {pack['s']:.1f} | {pack['mb']} |", flush=True)


def _make_realiad(folder: Path, counts: dict[tuple[str, str, str], int]) -> int:
    """Files in Real-IAD's layout, as links to a few images; returns the number of images."""
    rng, made = np.random.default_rng(0), 0
    entries: dict[str, dict[str, list]] = {}
    for number, ((class_, split, defect), images) in enumerate(sorted(counts.items())):
        root = folder / "raw/realiad_1024" / class_
        place = f"{'OK' if defect == 'good' else f'NG/{defect}'}/S{number:04}"
        (root / place).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
        originals = {".jpg": folder / f"{number}.jpg", ".png": folder / f"{number}.png"}
        Image.fromarray(pixels).save(originals[".jpg"])
        Image.fromarray((pixels[..., 0] > 200).astype(np.uint8)).save(originals[".png"])
        for image in range(images):
            stem = f"{place}/{class_}_{number:04}_C{1 + image % 5}_{image:06}"
            mask = f"{stem}.png" if defect != "good" else None
            for path in filter(None, (f"{stem}.jpg", mask)):
                (root / path).hardlink_to(originals[path[-4:]])
            entry = {"category": class_, "anomaly_class": defect if mask else "OK", "image_path": f"{stem}.jpg"}
            parts = entries.setdefault(class_, {"train": [], "test": []})
            parts[split].append({**entry, "mask_path": mask})
        made += images
    labels = folder / "raw/realiad_jsons/realiad_jsons"
    labels.mkdir(parents=True)
    for class_, parts in entries.items():
        meta = {"prefix": f"{class_}/", "normal_class": "OK", "pre_transform": False}
        (labels / f"{class_}.json").write_text(json.dumps({"meta": meta, **parts}))
    return made


def _in_a_process(step: str, folder: Path) -> dict[str, float]:
    """One step in a separate process, so that the peak memory is that of the step."""
    command = [sys.executable, __file__, "step", "--step", step, "--folder", str(folder)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def _step(step: str, folder: Path) -> None:
    source = SourceSettings(title="Real-IAD", layout="realiad", folder=str(folder / "raw"))
    started = time.perf_counter()
    if step == "index":
        write_index(source, folder / "index.csv")
    else:
        write_pack(source, folder / "index.csv", folder / "pack", SMALL)
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)  # children: the largest worker
    peak = max(resource.getrusage(who).ru_maxrss for who in whose) // 1024
    print(json.dumps({"s": time.perf_counter() - started, "mb": peak}))


if __name__ == "__main__":
    main()
