"""Real numbers on a CPU: one detector for all classes of MVTec-AD, per class beside what others print; docs/results.md.

    python benchmarks/real.py --data MVTEC_AD_FOLDER [--seeds 0 1 2] [--note TEXT ...] [--out docs/results.md]

Works with all or part of MVTec-AD, at any resolution; for fewer classes, make a folder of links to them. Differences
from the official data set are listed above the tables: image counts from config/counts/mvtec.csv, all else from --note.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from statistics import mean, stdev

from detectors import SEVEN, Kind, Result, machine, measure

from omniad.config import PAPER_FOLDER, SourceSettings
from omniad.data.counts import read_counts
from omniad.data.folders import LeftOut
from omniad.data.layouts import mvtec
from omniad.reporting.paper import CLASS_CELL, PER_CLASS_FILE, Printed, read_paper
from omniad.wording import count

KINDS = [Kind("fast: patch memory, Lite0"), Kind("PatchCore, Lite0", method="patchcore")]
OTHERS = ("MambaAD", "RD4AD", "UniAD", "SimpleNet")  # methods whose printed values are shown
OFFICIAL = 15  # classes

HEAD = """# Results on real images

Made by `python benchmarks/real.py --data FOLDER` ({machine}).

**Not the paper's protocol.** One detector was fitted to {classes} of MVTec-AD's {official} classes; the printed numbers
are from models for all {official}. Our metrics are the exact ones; the printed ones use another definition (see the
README). Ours are means over {seeds}{spread}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of classes in MVTec-AD's layout")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--note", nargs="*", default=[], help="further differences, one sentence each")
    parser.add_argument("--out", type=Path, help="file to write; default: print it")
    options = parser.parse_args()
    where = machine()
    results: dict[str, list[Result]] = defaultdict(list)
    for kind in KINDS:
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as work:
                results[kind.title].append(measure(kind, options.data, Path(work), seed))
            print(f"{kind.title}, seed {seed}: {results[kind.title][-1].fit_s:.0f} s", flush=True)
    text = "\n".join([head(options, where, results), costs(results), *tables(results)])
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    else:
        print(text)


def head(options: argparse.Namespace, where: str, results: dict[str, list[Result]]) -> str:
    """What was measured, and how it differs from the official protocol."""
    classes = next(iter(results.values()))[0].metrics
    seeds = count(len(options.seeds), "seed")
    spread = ", with their standard deviation" if len(options.seeds) > 1 else ""
    text = HEAD.format(machine=where, classes=len(classes), official=OFFICIAL, seeds=seeds, spread=spread)
    differences = [*unofficial_counts(options.data), *options.note]
    return text + ("\nWhat differs from the official classes:\n" + "".join(f"- {each}\n" for each in differences))


def unofficial_counts(folder: Path) -> list[str]:
    """A sentence for each class with other numbers of images than the official ones."""
    official: Counter[tuple[str, str]] = Counter()
    for (class_, split, defect), images in (read_counts("mvtec", []) or {}).items():
        official[class_, _kind(split, defect)] += images
    here = Counter(
        (record.class_, _kind(record.split, record.defect))
        for record in mvtec.read(SourceSettings(title="MVTec-AD", layout="mvtec", folder=str(folder)), LeftOut())
    )
    sentences = []
    for name in sorted({name for name, _ in here}):
        kinds = ("good training", "good test", "anomalous test")
        wrong = [
            f"{here[name, kind]} {kind} images, not {official[name, kind]}"
            for kind in kinds
            if here[name, kind] != official[name, kind]
        ]
        sentences += [f"{name}: {'; '.join(wrong)}."] if wrong else []
    return sentences


def _kind(split: str, defect: str) -> str:
    return f"{'good' if defect == 'good' else 'anomalous'} {'training' if split == 'train' else split}"


def costs(results: dict[str, list[Result]]) -> str:
    lines = ["## Costs", "", "| detector | fit | per image | size | peak memory |", "|---|---:|---:|---:|---:|"]
    for title, of in results.items():
        fit_s, image_ms = mean(each.fit_s for each in of), mean(each.image_ms for each in of)
        peak = max(each.peak_mb for each in of) / 1000
        lines.append(f"| {title} | {fit_s:.0f} s | {image_ms:.0f} ms | {of[0].model_mb:.0f} MB | {peak:.1f} GB |")
    return "\n".join([*lines, ""])


def tables(results: dict[str, list[Result]]) -> list[str]:
    """A table for each metric, a line for each class: our numbers and those that others print."""
    printed = published()
    classes = list(next(iter(results.values()))[0].metrics)
    parts = ["## Per class"]
    for metric in SEVEN:
        parts += ["", f"### {metric}", "", f"| class | {' | '.join([*results, *OTHERS])} |"]
        parts.append(f"|---{'|---:' * (len(results) + len(OTHERS))}|")
        for name in classes:
            ours = [spread([each.metrics[name][metric] for each in of]) for of in results.values()]
            theirs = [printed.get((name, other, metric), "-") for other in OTHERS]
            parts.append(f"| {name} | {' | '.join([*ours, *theirs])} |")
        ours = [
            spread([mean(each.metrics[name][metric] for name in classes) for each in of]) for of in results.values()
        ]
        theirs = [_mean_of([printed.get((name, other, metric), "") for name in classes]) for other in OTHERS]
        parts.append(f"| **mean** | {' | '.join([*ours, *theirs])} |")
        parts += remarks(metric, classes)
    return [*parts, ""]


def remarks(metric: str, classes: list[str]) -> list[str]:
    """The notes on this table's printed values."""
    found = {
        f"{method}: {number.note}."
        for (class_, method, of), number in _printed().items()
        if number.note and method in OTHERS and of == metric and class_ in classes
    }
    return ["", " ".join(sorted(found))] if found else []


def spread(values: list[float]) -> str:
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def published() -> dict[tuple[str, str, str], str]:
    """(class, method, metric) -> the number as it is printed."""
    return {key: number.text for key, number in _printed().items()}


def _printed() -> dict[tuple[str, str, str], Printed]:
    """(class, method, metric) -> what is printed of MVTec-AD."""
    numbers = read_paper(PAPER_FOLDER / PER_CLASS_FILE, CLASS_CELL)
    return {(class_, row, metric): found for (of, row, class_, metric), found in numbers.items() if of == "mvtec"}


def _mean_of(values: list[str]) -> str:
    return f"{mean(map(float, values)):.1f}" if all(values) else "-"


if __name__ == "__main__":
    main()
