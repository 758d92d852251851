"""Results folders made by hand for the tests of the report: no training, only the files that it leaves behind."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from omniad.config import Settings, check_settings, load_settings, run_settings, to_yaml

SEVEN = ("I-AUROC", "I-AP", "I-F1max", "P-AUROC", "P-AP", "P-F1max", "AU-PRO")
HARDWARE = {"cpu": "Test CPU", "cores": 4, "threads": 2, "device": "cpu"}


def paper_settings(results: Path, **changes: Any) -> Settings:
    """The project's configuration, with its results elsewhere."""
    return check_settings({**load_settings().model_dump(), "results": str(results), **changes}, "test")


def miniature_settings(results: Path, **changes: Any) -> Settings:
    values = load_settings().model_dump()
    for source in values["sources"].values():
        source["miniature"] = True
    return check_settings({**values, "results": str(results), **changes}, "test")


def write_run(
    settings: Settings,
    dataset: str,
    run: str,
    seed: int,
    values: Mapping[str, float | None],
    exact: Mapping[str, float | None] | None = None,
    reason: str = "",
) -> Path:
    """A run folder with these metrics (class "mean"; None: undefined for `reason`), and a class that must not count."""
    folder = Path(settings.results) / "runs" / dataset / run / f"seed{seed}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(run_settings(settings, dataset, run)))
    training = {"started": f"2026-03-0{seed + 1}T10:00:00+00:00", "wall_s": 90.0}
    provenance = {"commit": "abc123", "hardware": HARDWARE, "training": training}
    (folder / "provenance.json").write_text(json.dumps(provenance))
    (folder / "scores.csv").write_text("image,class,label,score\nscrew/0.png,screw,0,0.25\nscrew/1.png,screw,1,0.75\n")
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "metric", "definition", "value", "reason"])
        for definition, metrics in (("exact", exact or values), ("published", values)):
            for metric, value in metrics.items():
                writer.writerow(["screw", metric, definition, 0.123, ""])
                text = "" if value is None else value
                writer.writerow(["mean", metric, definition, text, reason if value is None else ""])
    return folder


def write_examples(run_folder: Path, class_: str, defective: bool = True) -> Path:
    """Three examples of a class as evaluation leaves them: a miss, the one for the figure, a false alarm."""
    side = 32
    rng = np.random.default_rng(len(class_))
    images = rng.integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    masks = np.zeros((3, side, side), dtype=np.uint8)
    if defective:
        masks[:2, 8:16, 8:24] = 1
    maps = (rng.random((3, side, side)) + masks).astype(np.float16)
    file = run_folder / "examples" / f"{class_}.npz"
    file.parent.mkdir(exist_ok=True)
    kinds = np.array(["miss", "figure", "false_alarm"])
    names = np.array([f"{class_}/test/{kind}.png" for kind in kinds])
    facts = {"kind": kinds, "image": names, "label": np.array([1, 1, 0]), "score": np.array([0.25, 0.5, 0.75])}
    np.savez(file, allow_pickle=False, images=images, masks=masks, maps=maps, **facts)
    return file


def tables_of(markdown: str) -> list[list[list[str]]]:
    """The tables of a Markdown text: lines of cells without bold and italics, the head first, no rule below."""
    tables: list[list[list[str]]] = [[]]
    for line in markdown.splitlines():
        if line.startswith("|"):
            cells = [cell.strip(" *") for cell in line.replace("\\|", "\0").strip("|").split("|")]
            if not all(set(cell) <= set(":-") for cell in cells):
                tables[-1].append(cells)
        elif tables[-1]:
            tables.append([])
    return [table for table in tables if table]


def paper_tables(report: str) -> list[list[list[str]]]:
    """The tables of a report's sections "Table I" ... "Table VII", one each."""
    return [tables_of(section)[0] for section in report.split("\n## ") if section.startswith("Table ")]


def compile_latex(source: Path, folder: Path) -> str:
    """What pdflatex says of a document that it compiles in `folder`."""
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", source]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout[-2000:]
    return answer.stdout
