"""The command line: every step of the workflow by hand, one subcommand each.

Heavy imports stay inside the commands, so that `--help` and mistakes answer at once.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

from omniad.config import known, load_settings, run_settings, to_yaml
from omniad.errors import UserError
from omniad.files import atomic_write


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a UserError becomes one line on standard error and exit status 1."""
    options = make_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        options.command(options)
    except UserError as error:
        if options.debug:
            raise
        print(f"omniad: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def settings_command(options: argparse.Namespace) -> None:
    print(to_yaml(load_settings(*options.config)), end="")


def check(options: argparse.Namespace) -> None:
    from omniad.data.preflight import preflight

    settings = load_settings(*options.config)
    runs = [run_settings(settings, dataset, options.run) for dataset in options.dataset or settings.datasets]
    preflight({run.dataset: run.source for run in runs}, runs, settings.data)
    print("Everything is there, or can be fetched.")


def fetch(options: argparse.Namespace) -> None:
    from omniad.data.fetch import fetch_named

    files = fetch_named(load_settings(*options.config), options.name)
    if options.stamp:
        _write_stamp(options.stamp, {"name": options.name, "files": files})


def extract(options: argparse.Namespace) -> None:
    from omniad.data.extract import extract_source

    settings = load_settings(*options.config)
    downloads = {**settings.downloads, **settings.sources}
    source = downloads[known(options.name, downloads, "omniad extract")]
    extract_source(source)
    if options.stamp:
        _write_stamp(options.stamp, {"name": options.name, "folder": source.folder})


def miniature(options: argparse.Namespace) -> None:
    from omniad.data.miniature import write_miniature

    write_miniature(options.layout, options.folder, options.seed)


def pretrain(options: argparse.Namespace) -> None:
    from omniad.training.pretrain import pretrain

    settings = load_settings(*options.config)
    pretrain(options.encoder, options.width, settings.pretrain, options.seed, options.out)


def index(options: argparse.Namespace) -> None:
    from omniad.data.index import write_index

    settings = load_settings(*options.config)
    write_index(run_settings(settings, options.dataset, "default").source, options.out)


def pack(options: argparse.Namespace) -> None:
    from omniad.data.pack_writer import write_pack

    settings = load_settings(*options.config)
    source = run_settings(settings, options.dataset, "default").source
    write_pack(source, options.index, options.out, settings.data.image_size)


def train(options: argparse.Namespace) -> None:
    settings = run_settings(load_settings(*options.config), options.dataset, options.run)
    from omniad.training.loop import train

    train(settings, options.seed, options.out)


def evaluate(options: argparse.Namespace) -> None:
    from omniad.evaluation.evaluate import evaluate

    evaluate(options.run_dir)


def complexity(options: argparse.Namespace) -> None:
    from omniad.models.complexity import complexity_rows

    # Of the full-size models: an overlay that shrinks them for a demo changes nothing here.
    rows = complexity_rows(load_settings())
    if options.json:
        print(json.dumps({"rows": rows}, indent=1))
    elif options.out:
        from omniad.reporting.complexity import write_complexity

        write_complexity(rows, options.out)
    else:
        _print_complexity(rows)


def metrics(options: argparse.Namespace) -> None:
    from omniad.evaluation import metrics_of_files

    values = metrics_of_files(options.maps, options.masks, options.labels, options.definition)
    if options.json:
        # NaN is not JSON: an undefined metric is null.
        print(json.dumps({name: None if value != value else value for name, value in values.items()}))
    else:
        print("\n".join(f"{name:8} {value:.6f}" for name, value in values.items()))


def import_released(options: argparse.Namespace) -> None:
    from omniad.models.import_released import import_released

    import_released(options.checkpoint, options.run_dir, options.projection)


def report(options: argparse.Namespace) -> None:
    from omniad.reporting import write_report

    print(f"Written: {write_report(load_settings(*options.config))}")


def _write_stamp(file: Path, content: dict[str, Any]) -> None:
    """Tell the workflow that a step was done. A repetition writes the same bytes, so nothing is made anew for it."""
    with atomic_write(file) as out:
        json.dump(content, out, indent=1)


def _print_complexity(rows: list[dict[str, Any]]) -> None:
    print(f"{'table':8} {'row':22} {'variant':10} {'parameters':>12} {'macs':>15} {'print M':>8} {'print G':>8}")
    for row in rows:
        printed = [row[key] if row[key] is not None else "-" for key in ("reported_parameters_m", "reported_flops_g")]
        print(
            f"{row['table']:8} {row['row']:22} {row['variant']:10} {row['parameters']:12,} {row['macs']:15,}"
            f" {printed[0]:>8} {printed[1]:>8}"
        )


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="omniad", description="Omni-AD, multi-class anomaly detection: every step of the reproduction by hand."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Any, text: str, example: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"Example: omniad {name} {example}".rstrip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(command=command)
        added.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return added

    def add_configured(name: str, command: Any, text: str, example: str) -> argparse.ArgumentParser:
        added = add(name, command, text, example)
        added.add_argument(
            "--config", action="append", default=[], metavar="FILE", help="overlay on config/*.yaml (may be repeated)"
        )
        return added

    add_configured("settings", settings_command, "print the resolved configuration", "--config config/demo.yaml")

    sub = add_configured("check", check, "say what is missing before a run can start, all of it", "--dataset mvtec")
    sub.add_argument("--dataset", action="append", metavar="NAME", help="may be repeated; without it, all")
    sub.add_argument("--run", default="default", metavar="NAME")

    for name, command, text in (
        ("fetch", fetch, "fetch and verify a data set's archives, or a file of encoder weights"),
        ("extract", extract, "extract a data set's archives into its folder"),
    ):
        sub = add_configured(name, command, text, "mvtec")
        sub.add_argument("name", metavar="NAME", help="a name from `sources` or `downloads` of the configuration")
        sub.add_argument("--stamp", type=Path, metavar="FILE", help="written at the end; the workflow waits for it")

    sub = add("miniature", miniature, "make a small data set in a real layout", "--layout mvtec --folder mini/mvtec")
    sub.add_argument("--layout", required=True, choices=["mvtec", "visa", "realiad"])
    sub.add_argument("--folder", required=True, type=Path)
    sub.add_argument("--seed", type=int, default=0)

    sub = add_configured(
        "pretrain", pretrain, "pretrain an encoder for the miniatures", "--encoder resnet18 --out resnet18.safetensors"
    )
    sub.add_argument("--encoder", required=True, choices=["resnet18", "resnet34", "resnet50", "wide_resnet50_2"])
    sub.add_argument("--width", type=int, default=64, help="channels of the stem (64: full size)")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--out", required=True, type=Path)

    sub = add_configured(
        "index", index, "list a data set's images, labels and masks", "--dataset mvtec --out index.csv"
    )
    sub.add_argument("--dataset", required=True, metavar="NAME")
    sub.add_argument("--out", required=True, type=Path)

    sub = add_configured(
        "pack",
        pack,
        "decode and resize a data set once",
        "--dataset mvtec --index index.csv --out data/prepared/mvtec/256",
    )
    sub.add_argument("--dataset", required=True, metavar="NAME")
    sub.add_argument("--index", required=True, type=Path, metavar="CSV")
    sub.add_argument("--out", required=True, type=Path, metavar="DIR")

    sub = add_configured("train", train, "train one run", "--dataset mvtec --run default --seed 0 --out my_run")
    sub.add_argument("--dataset", required=True, metavar="NAME")
    sub.add_argument("--run", required=True, metavar="NAME")
    sub.add_argument("--seed", required=True, type=int)
    sub.add_argument("--out", required=True, type=Path, metavar="DIR")

    sub = add(
        "evaluate", evaluate, "score a run's test images and write its metrics", "results/runs/mvtec/default/seed0"
    )
    sub.add_argument("run_dir", type=Path, metavar="RUN_DIR")

    sub = add("complexity", complexity, "count parameters and multiply-adds of every table row", "--json")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub.add_argument("--out", type=Path, metavar="CSV", help="write a CSV file instead")

    sub = add("metrics", metrics, "compute the seven metrics of one class", "maps.npy masks.npy --json")
    sub.add_argument("maps", type=Path, metavar="MAPS.npy", help="anomaly maps (N, H, W)")
    sub.add_argument("masks", type=Path, metavar="MASKS.npy", help="masks (N, H, W), anomalous where > 0")
    sub.add_argument("--labels", type=Path, metavar="LABELS.npy", help="image labels (N,); else from the masks")
    sub.add_argument("--definition", choices=["exact", "published"], default="exact")
    sub.add_argument("--json", action="store_true", help="print JSON")

    sub = add(
        "import-released", import_released, "make a run folder from a checkpoint of the authors' code", "net.pth my_run"
        " --projection none"
    )  # fmt: skip
    sub.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    sub.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    sub.add_argument("--projection", required=True, choices=["none", "random"])

    add_configured("report", report, "write tables, figures and report.md from the finished runs", "")
    return parser
