"""Make the committed example report: `make demo`, then `python docs/make_example.py results/demo`.

Copies report.md with its tables and figures to docs/example-report/: pictures with fewer colours, without files too
large for a repository (report.html, PDFs, run folders); links to that become plain text.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from PIL import Image

EXAMPLE = Path(__file__).parent / "example-report"
COLOURS = 64  # of a picture
KEPT = (
    "tables/table*.tex",
    "tables/table*.csv",
    "tables/classes/*-default.*",
    "resolution.csv",
    "complexity.csv",
    "runs.csv",
)
ABOUT = (
    "> An example, committed so that you can see a report without running anything: the miniature that `make demo` "
    "produces in four minutes on two cores. Not included: its `report.html` ([screenshot](report-html.png)), PDFs "
    "and the run folders.\n\n"
)


def main(results: Path) -> None:
    for old in ("tables", "figures"):
        shutil.rmtree(EXAMPLE / old, ignore_errors=True)
    for file in [file for pattern in KEPT for file in results.glob(pattern)]:
        target = EXAMPLE / file.relative_to(results)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    for file in results.glob("figures/*.png"):
        save_small(Image.open(file), EXAMPLE / "figures" / file.name)
    for name in ("report.md", *(f"tables/classes/{path.name}" for path in EXAMPLE.glob("tables/classes/*.md"))):
        head, _, rest = relink((results / name).read_text(encoding="utf-8"), results / name, EXAMPLE / name)
        (EXAMPLE / name).write_text(f"{head}\n\n{ABOUT if name == 'report.md' else ''}{rest}", encoding="utf-8")


def relink(text: str, source: Path, copy: Path) -> tuple[str, str, str]:
    """The copy's first paragraph, the gap and the rest; links to what it lacks are their text alone."""

    def changed(link: re.Match[str]) -> str:
        mark, words, target = link.groups()
        if target.startswith("#") or (copy.parent / target).exists():
            return link.group(0)
        file = (source.parent / target).resolve()
        inside = "docs" in file.parts and file.exists()
        return f"{mark}[{words}]({Path(os.path.relpath(file, copy.parent)).as_posix()})" if inside else words

    return re.sub(r"(!?)\[([^\]]*)\]\(([^)]+)\)", changed, text).partition("\n\n")


def save_small(picture: Image.Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    few = picture.convert("RGB").quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(file, "png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
