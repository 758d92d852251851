"""Training: train, plan."""

from __future__ import annotations

import argparse
from pathlib import Path

from omniad.commands.parser import Commands, seed
from omniad.config import project_settings, run_settings
from omniad.runs.targets import run_folders


def train(options: argparse.Namespace) -> None:
    settings = run_settings(project_settings(*options.config), options.dataset, options.run)
    from omniad.training.train import train

    train(settings, options.seed, options.out, force=options.force)


def plan(options: argparse.Namespace) -> None:
    settings = project_settings(*options.config)
    run_folders(settings, options.target)  # a typo is reported before anything is loaded or measured
    from omniad.training.cost import card_speed, measured_speed, plain_scan_speed
    from omniad.training.plan import plan_target, plan_text

    if options.card:
        speed, plain_scan = card_speed(options.card), None
        processor = f"one {options.card} (by its data sheet, not measured)"
    else:
        from omniad.devices import other_load, pick_device

        device, busy = pick_device(), other_load()
        speed, plain_scan = measured_speed(device), plain_scan_speed(device)
        note = "; other programs keep it busy: repeat when it is idle" if busy else ""
        processor = f"this machine's {'CPU' if device.type == 'cpu' else 'GPU'} (measured over a few steps{note})"
    print(plan_text(options.target, plan_target(settings, options.target, speed, plain_scan), processor))


def add_commands(commands: Commands) -> None:
    sub = commands.add_configured(
        "train",
        train,
        "train one run",
        "--dataset mvtec --run default --seed 0 --out my_run",
        reads="the packed data set (data/prepared/) and the encoder's weights (data/weights/)",
        writes="DIR with config.yaml, model.safetensors, history.csv and provenance.json",
    )
    sub.add_argument("--dataset", required=True, metavar="NAME", help="a name from `sources` of the configuration")
    sub.add_argument("--run", required=True, metavar="NAME", help="a name from `runs` of the configuration")
    sub.add_argument(
        "--seed", required=True, type=seed, help="seed of the weights, the order of the images and the jitter"
    )
    sub.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="DIR",
        help="the run folder; an interrupted training there is resumed",
    )
    sub.add_argument("--force", action="store_true", help="train MambaAD even where its scan takes days (no Triton)")

    sub = commands.add_configured(
        "plan",
        plan,
        "estimate what a target will cost",
        "ablations --card A100",
        reads="the configuration and the results so far; without --card it trains a few steps on random features",
        writes="nothing; prints a table: trainings, hours, download and disk still needed",
    )
    sub.add_argument(
        "target", metavar="TARGET", help="table1 ... table7, ablations, figures, field, all, ... (README.md lists them)"
    )
    sub.add_argument("--card", metavar="NAME", help="estimate for this GPU instead of measuring here (A100, H100, ...)")
