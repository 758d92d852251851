"""Time, memory and differences of the metrics: omniad beside scikit-learn, adeval and, where installed, anomalib.

    .venv/bin/pip install adeval opencv-python-headless      # the extra `bench`
    .venv/bin/python benchmarks/metrics.py                   # 115 and 3,800 images; some minutes, 8 GiB of memory
    .venv/bin/python benchmarks/metrics.py --images 115

One class of seeded maps of 256x256 pixels, about 2 % of them anomalous, P-AUROC near .98 and P-AP near .55. Each tool
runs in a separate process, which loads maps and masks, warms up on five images, and then repeats the whole class:
the fastest repetition counts, and the largest growth of the resident memory above what stood before. omniad computes
all seven metrics in both definitions each time. Prints a Markdown table. Compare only numbers of one run: other work
on the machine changes all of them.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

SIZE = 256
DISTINCT = 475  # maps drawn from scratch; more images are flipped and rescaled ones
NORMAL_IMAGES = 0.4
SKLEARN_LIMIT = 500  # images; scikit-learn and anomalib would take minutes and tens of GiB beyond


def realistic_class(images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Maps (N, S, S) float32, masks (N, S, S) bool: smooth log-normal noise, bumps on the defects, false alarms."""
    rng = np.random.default_rng(seed)
    maps, masks = np.empty((images, SIZE, SIZE), np.float32), np.zeros((images, SIZE, SIZE), bool)
    for image in range(images):
        if image < DISTINCT:
            maps[image], masks[image] = _draw(rng)
        else:
            source, flip = image % DISTINCT, rng.integers(1, 4)
            turn = (slice(None, None, -1 if flip & 1 else 1), slice(None, None, -1 if flip & 2 else 1))
            maps[image], masks[image] = maps[source][turn] * np.float32(rng.uniform(0.95, 1.05)), masks[source][turn]
    return maps, masks


def _draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    mask, signal = np.zeros((SIZE, SIZE), bool), np.zeros((SIZE, SIZE))
    for _ in range(rng.poisson(1.3)):  # false alarms
        signal += rng.uniform(3, 6) * np.exp(-_ellipse(rng, 8, 20))
    for _ in range(0 if rng.random() < NORMAL_IMAGES else rng.integers(1, 4)):  # defects
        distance = _ellipse(rng, 6, 29)
        mask |= distance < 1
        signal += rng.uniform(3.2, 6.5) * np.exp(-distance * rng.uniform(0.2, 0.5))
    noise = gaussian_filter(rng.standard_normal((SIZE, SIZE)), 6)
    return 0.08 * np.exp(0.35 * (noise / noise.std() + gaussian_filter(signal, 4))), mask


def _ellipse(rng: np.random.Generator, smallest: float, largest: float) -> np.ndarray:
    """Squared distance from a random centre in units of random half-axes."""
    y, x = rng.integers(20, SIZE - 20, 2)
    a, b = rng.uniform(smallest, largest, 2)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return ((rows - y) / a) ** 2 + ((columns - x) / b) ** 2


def with_omniad(maps: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    from omniad.metrics import evaluate_class

    return evaluate_class(maps, masks, curves=False).metrics["exact"].fractions


def with_sklearn(maps: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

    values = {}
    images = masks.any(axis=(1, 2)), maps.max(axis=(1, 2))
    for letter, (truth, scores) in (("I", images), ("P", (masks.ravel(), maps.ravel()))):
        values[f"{letter}-AUROC"] = roc_auc_score(truth, scores)
        values[f"{letter}-AP"] = average_precision_score(truth, scores)
        precision, recall, _ = precision_recall_curve(truth, scores)
        values[f"{letter}-F1max"] = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))
    return values


def with_adeval(maps: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """Five metrics over 1,000 bins between the lowest and the highest score."""
    if not hasattr(np, "trapz"):  # adeval 1.1 uses a name that NumPy dropped
        np.trapz = np.trapezoid  # noqa: NPY201  # pyright: ignore[reportAttributeAccessIssue]
    import adeval  # pyright: ignore[reportMissingImports]

    lowest, highest = float(maps.min()), float(maps.max())
    accumulator = adeval.EvalAccumulator(lowest, highest, lowest, highest, nstrips=1000)
    accumulator.add_anomap_batch(maps, masks.view(np.uint8))  # pyright: ignore[reportArgumentType]
    accumulator.add_image(maps.max(axis=(1, 2)), np.any(masks, axis=(1, 2)).astype(np.uint8))  # pyright: ignore
    with np.errstate(invalid="ignore"):  # its per-sample metrics are not used
        found = accumulator.summary()
    names = {"I-AUROC": "i_auroc", "I-AP": "i_aupr", "P-AUROC": "p_auroc", "P-AP": "p_aupr", "AU-PRO": "p_aupro"}
    return {name: float(found[key]) for name, key in names.items()}  # pyright: ignore[reportArgumentType]


def with_anomalib(maps: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    import torch
    from anomalib.metrics.aupro import _AUPRO  # pyright: ignore[reportMissingImports]
    from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision  # pyright: ignore[reportMissingImports]

    scores, truth = torch.from_numpy(maps), torch.from_numpy(masks).int()
    images = scores.amax(dim=(1, 2)), truth.amax(dim=(1, 2))
    values = {}
    for letter, (one, label) in (("I", images), ("P", (scores.ravel(), truth.ravel()))):
        values[f"{letter}-AUROC"] = float(BinaryAUROC()(one, label))
        values[f"{letter}-AP"] = float(BinaryAveragePrecision()(one, label))
    overlap = _AUPRO(fpr_limit=0.3)
    overlap.update(scores, truth)
    return values | {"AU-PRO": float(overlap.compute())}


TOOLS: dict[str, Callable[[np.ndarray, np.ndarray], dict[str, float]]] = {
    "omniad": with_omniad,
    "adeval": with_adeval,
    "sklearn": with_sklearn,
    "anomalib": with_anomalib,
}
PACKAGES = {"omniad": "omniad", "adeval": "adeval", "sklearn": "scikit-learn", "anomalib": "anomalib"}


def measure(tool: str, folder: Path, repetitions: int) -> None:
    """In a separate process: print time, extra memory and values as JSON."""
    maps, masks = np.load(folder / "maps.npy"), np.load(folder / "masks.npy")
    compute = TOOLS[tool]
    few = np.concatenate([np.flatnonzero(masks.any(axis=(1, 2)))[:3], np.flatnonzero(~masks.any(axis=(1, 2)))[:2]])
    compute(maps[few], masks[few])
    before, seconds, values = resident_mib("VmRSS"), [], {}
    Path("/proc/self/clear_refs").write_text("5")  # reset the high-water mark
    for _ in range(repetitions):
        start = time.perf_counter()
        values = compute(maps, masks)
        seconds.append(time.perf_counter() - start)
    report = {"seconds": seconds, "extra_mib": resident_mib("VmHWM") - before, "values": values}
    print(json.dumps(report, default=float))


def resident_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def why_skipped(tool: str, images: int) -> str:
    """Why a tool is left out; empty where it runs."""
    missing = [name for name in {"adeval": ("adeval", "cv2")}.get(tool, (tool,)) if not importlib.util.find_spec(name)]
    if missing:
        return f"{' and '.join(missing)} not installed"
    if tool in ("sklearn", "anomalib") and images > SKLEARN_LIMIT:
        return f"not run above {SKLEARN_LIMIT} images"
    return ""


def run(tool: str, folder: Path, repetitions: int) -> dict:
    command = [sys.executable, __file__, "--tool", tool, "--folder", str(folder), "--repetitions", str(repetitions)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(answer.stdout.splitlines()[-1])


def compare(images: int, repetitions: int) -> None:
    """Measure every tool on one class and print the table's rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        maps, masks = realistic_class(images)
        np.save(folder / "maps.npy", maps)
        np.save(folder / "masks.npy", masks)
        maps_mib, positive = maps.nbytes / 2**20, masks.mean()
        del maps, masks
        skipped = {tool: why_skipped(tool, images) for tool in TOOLS}
        rounds = {tool: 1 if tool in ("sklearn", "anomalib") else repetitions for tool in TOOLS}
        found = {tool: run(tool, folder, rounds[tool]) for tool in TOOLS if not skipped[tool]}
    ours = found["omniad"]
    values = ours["values"]
    print(
        f"\n{images} images, {maps_mib:.0f} MiB of maps, {positive:.1%} of the pixels anomalous, "
        f"P-AUROC {values['P-AUROC']:.3f}, P-AP {values['P-AP']:.3f}\n"
    )
    print("| tool | metrics | seconds | times omniad | extra memory, MiB | largest difference from omniad |")
    print("|---|---:|---:|---:|---:|---|")
    for tool, report in found.items():
        names = [name for name in report["values"] if name != "mAD"]
        difference = {name: abs(report["values"][name] - values[name]) for name in names}
        worst = max(difference, key=lambda name: difference[name])
        seconds = min(report["seconds"])
        print(
            f"| {tool} {importlib.metadata.version(PACKAGES[tool])} | {len(names)} | {seconds:.3f} |"
            f" {seconds / min(ours['seconds']):.1f} | {report['extra_mib']:.0f} |"
            f" {'-' if tool == 'omniad' else f'{difference[worst]:.1e} ({worst})'} |"
        )
    print("".join(f"\n{tool}: {reason}" for tool, reason in skipped.items() if reason))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[115, 3800])
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--tool", choices=TOOLS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tool:
        measure(options.tool, options.folder, options.repetitions)
        return
    packages = [f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "numba", "scipy")]
    print(
        f"{datetime.date.today()}, {len(os.sched_getaffinity(0))} cores, {platform.machine()}, "
        f"load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}, {', '.join(packages)}"
    )
    for images in options.images:
        compare(images, options.repetitions)


if __name__ == "__main__":
    main()
