"""Data: check, fetch, extract, miniature, index, pack."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from omniad.commands.parser import Commands, seed
from omniad.config import known, load_settings, project_settings, run_settings
from omniad.files import atomic_write

LAYOUTS = ("mvtec", "mvtec_ad_2", "mvtec_loco", "visa", "realiad")  # of miniatures; importing those takes too long


def check(options: argparse.Namespace) -> None:
    from omniad.data.preflight import preflight

    settings = project_settings(*options.config)
    runs = [run_settings(settings, dataset, options.run) for dataset in options.dataset or settings.datasets]
    preflight({run.dataset: run.source for run in runs}, runs, settings.data, settings.downloads)
    print("Nothing is missing: everything is here or can be downloaded.")


def fetch(options: argparse.Namespace) -> None:
    from omniad.data.fetch import fetch_named

    files = fetch_named(load_settings(*options.config), options.name)
    if options.stamp:
        _write_stamp(options.stamp, {"name": options.name, "files": files})


def extract(options: argparse.Namespace) -> None:
    from omniad.data.extract import extract_source

    settings = project_settings(*options.config)
    downloads = {**settings.downloads, **settings.sources}
    source = downloads[known(options.name, downloads, "omniad extract")]
    extract_source(source)
    if options.stamp:
        _write_stamp(options.stamp, {"name": options.name, "folder": source.folder})


def miniature(options: argparse.Namespace) -> None:
    from omniad.miniature import write_miniature

    write_miniature(options.layout, options.folder, options.seed)
    print(f"A miniature in {options.layout}'s layout is in {options.folder}/.")


def index(options: argparse.Namespace) -> None:
    from omniad.data.index import write_index

    settings = project_settings(*options.config)
    write_index(run_settings(settings, options.dataset, "default").source, options.out)


def pack(options: argparse.Namespace) -> None:
    from omniad.data.pack_writer import write_pack

    settings = project_settings(*options.config)
    source = run_settings(settings, options.dataset, "default").source
    write_pack(source, options.index, options.out, settings.data.image_size)


def _write_stamp(file: Path, content: dict[str, Any]) -> None:
    """Tell the workflow that a step is done. Repeating it writes the same bytes, so nothing else reruns."""
    with atomic_write(file) as out:
        json.dump(content, out, indent=1)


def add_commands(commands: Commands) -> None:
    sub = commands.add_configured(
        "check",
        check,
        "list what is missing before a run can start",
        "--dataset mvtec",
        reads="the configuration; checks that data sets and weights exist, addresses respond and the disk has room",
        writes="nothing; prints what is missing and what to do about it",
    )
    sub.add_argument("--dataset", action="append", metavar="NAME", help="may be repeated; default: all")
    sub.add_argument("--run", default="default", metavar="NAME", help="the run whose encoder weights are checked")

    for name, function, text, reads, writes in (
        (
            "fetch",
            fetch,
            "fetch and verify a data set's archives, or a file of encoder weights",
            "the addresses, sizes and hashes in the configuration; files that are already there",
            "the archives at `archive`, the weights in data/weights/, each with a .json that records its origin",
        ),
        (
            "extract",
            extract,
            "extract a data set's archives into its folder",
            "the archives at `archive` of the configuration",
            "the data set's `folder`, and nothing outside it",
        ),
    ):
        sub = commands.add_configured(name, function, text, "mvtec", reads=reads, writes=writes)
        weights = ", or a file of weights: resnet34-43635321.pth" if name == "fetch" else ""
        what = f"a name from `sources` or `downloads` of the configuration{weights}"
        sub.add_argument("name", metavar="NAME", help=what)
        sub.add_argument("--stamp", type=Path, metavar="FILE", help="a file to write when done (used by the workflow)")

    sub = commands.add(
        "miniature",
        miniature,
        "make a small synthetic data set in a real one's layout",
        "--layout mvtec --folder mini/mvtec",
        reads="only photographs that ship with scikit-image",
        writes="images, masks and labels in FOLDER, laid out like the real data set",
    )
    sub.add_argument("--layout", required=True, choices=LAYOUTS, help="the data set to imitate")
    sub.add_argument("--folder", required=True, type=Path, help="created if missing; existing files are replaced")
    sub.add_argument("--seed", type=seed, default=0, help="seed of the images and defects (default: %(default)s)")

    sub = commands.add_configured(
        "index",
        index,
        "list a data set's images, labels and masks",
        "--dataset mvtec --out data/prepared/mvtec/index.csv",
        reads="the data set's `folder`: names, labels, and the headers of all images and masks",
        writes="a CSV, one row per image: class, split, label, defect, image, mask",
    )
    sub.add_argument("--dataset", required=True, metavar="NAME", help="a name from `sources` of the configuration")
    sub.add_argument("--out", required=True, type=Path, metavar="CSV", help="the index to write")

    sub = commands.add_configured(
        "pack",
        pack,
        "decode and resize a data set once",
        "--dataset mvtec --index data/prepared/mvtec/index.csv --out data/prepared/mvtec/256",
        reads="the index, and every image and mask in it",
        writes="DIR with images.npy (N, S, S, 3), masks.npy (N, S, S), both uint8, and pack.json",
    )
    sub.add_argument("--dataset", required=True, metavar="NAME", help="a name from `sources` of the configuration")
    sub.add_argument("--index", required=True, type=Path, metavar="CSV", help="written by `omniad index`")
    sub.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="DIR",
        help="the pack's folder: beside the index, named after the image size",
    )
