"""Compare detectors for `omniad fit` on real products: methods, encoders and image sizes, as Markdown tables.

    python benchmarks/presets.py --data MVTEC_AD_FOLDER [--also CLASS_FOLDER ...] [--only TITLE ...]
        [--together] [--out FILE]

Measures each class of the folder alone, all of them in one detector, and additional classes separately. Each detector
is fitted and evaluated in a separate process. Takes minutes per row on two cores, hours for all.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import mean

from detectors import SEVEN, Kind, Result, machine, measure

LITE = "efficientnet_lite"
KINDS = [
    Kind("fast: patch memory, Lite0, 256 px"),
    *(Kind(f"patch memory, Lite{n}, 256 px", settings={"model": {"encoder": LITE + str(n)}}) for n in (1, 2)),
    *(Kind(f"patch memory, Lite0, {size} px", settings={"data": {"image_size": size}}) for size in (128, 192)),
    *(Kind(f"patch memory of {k:,}, Lite0, 256 px", settings={"model": {"memory": k}}) for k in (5000, 10_000)),
    Kind("PatchCore, Lite0, 256 px", method="patchcore"),
    Kind("PaDiM, Lite0, 256 px", method="padim"),
    Kind("Omni-AD, Lite0, 128 px", method="omni-ad", settings={"data": {"image_size": 128}}),
    Kind("Omni-AD, Lite0, 256 px", method="omni-ad"),
]
HEAD = ["detector", "fit", "image", "size", "memory", *SEVEN]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of classes in MVTec-AD's layout")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="folders of other classes, shown separately")
    parser.add_argument("--only", nargs="*", default=[], help="only rows whose title contains one of these")
    parser.add_argument(
        "--together", action="store_true", help="skip the detectors of single classes (most of the time)"
    )
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    classes = sorted(path for path in options.data.iterdir() if (path / "train").is_dir())
    parts = [] if options.together else [(f"Each of {len(classes)} classes alone, mean", classes)]
    parts.append(("All in one detector, mean", [options.data]))
    parts += [(folder.name, [folder]) for folder in options.also]
    kinds = [kind for kind in KINDS if not options.only or any(part in kind.title for part in options.only)]
    lines = [machine()]
    print(lines[0], flush=True)
    for title, folders in parts:
        lines += ["", f"**{title}**", "", f"| {' | '.join(HEAD)} |", f"|---{'|---:' * (len(HEAD) - 1)}|"]
        print("\n".join(lines[-5:]), flush=True)
        for kind in kinds:
            with tempfile.TemporaryDirectory() as work:
                results = [measure(kind, folder, Path(work, str(n))) for n, folder in enumerate(folders)]
            lines.append(row(kind, results))
            print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def row(kind: Kind, results: list[Result]) -> str:
    """Means of what was measured; of the peak memory the largest."""
    classes = [of for result in results for of in result.metrics.values()]
    cells = [
        kind.title,
        f"{mean(result.fit_s for result in results):.0f} s",
        f"{mean(result.image_ms for result in results):.0f} ms",
        f"{mean(result.model_mb for result in results):.0f} MB",
        f"{max(result.peak_mb for result in results) / 1000:.1f} GB",
        *(f"{mean(of[metric] for of in classes):.1f}" for metric in SEVEN),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
