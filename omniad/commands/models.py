"""Models: complexity, import-released."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from omniad.commands.parser import Commands
from omniad.config import project_settings


def complexity(options: argparse.Namespace) -> None:
    from omniad.reporting.complexity import complexity_rows, resolution_rows

    # Always the full-size models, even if a demo's overlay shrinks them.
    settings = project_settings()
    if options.resolutions:
        from omniad.reporting.complexity import write_resolutions

        write_resolutions(resolution_rows(settings), options.resolutions)
    rows = complexity_rows(settings)
    if options.out:
        from omniad.reporting.complexity import write_complexity

        write_complexity(rows, options.out)
    if options.json:
        print(json.dumps({"rows": rows}, indent=1))
    elif not options.out:
        _print_complexity(rows)


def import_released(options: argparse.Namespace) -> None:
    from omniad.models.import_released import import_released

    import_released(options.checkpoint, options.run_dir, options.projection)


def _print_complexity(rows: list[dict[str, Any]]) -> None:
    line = "{:13} {:22} {:10} {:>13} {:>15}  {:>10} {:>9}"
    print(line.format("table", "row", "variant", "parameters", "multiply-adds", "printed: M", "G"))
    for row in rows:
        printed = [row[key] if row[key] is not None else "-" for key in ("reported_parameters_m", "reported_flops_g")]
        counted = [f"{row[key]:,}" for key in ("parameters", "macs")]
        print(line.format(row["table"], row["row"], row["variant"], *counted, *printed))
    for row in rows:
        if row["note"] and round(row["macs"] / 1e9, 1) != row["reported_flops_g"]:
            print(f"{row['row']}'s {row['reported_flops_g']} G: {row['note']}")


def add_commands(commands: Commands) -> None:
    sub = commands.add(
        "complexity",
        complexity,
        "count parameters and multiply-adds of every table row",
        "--json",
        reads="the tables of config/tables.yaml; no data and no weights",
        writes="nothing; prints the counts of both variants beside the paper's (--out writes a CSV)",
    )
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub.add_argument("--out", type=Path, metavar="CSV", help="write a CSV file instead")
    sub.add_argument(
        "--resolutions", type=Path, metavar="CSV", help="also write the model's cost at 256 to 1024 pixels"
    )

    sub = commands.add(
        "import-released",
        import_released,
        "turn a checkpoint of the authors' code into a run folder",
        "net.pth my_run --projection none",
        reads="the checkpoint: a state dict, bare or under the key `net`; no code in it is run",
        writes="RUN_DIR/config.yaml and model.safetensors, for `omniad evaluate`, `predict` and `export`",
    )
    sub.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="file that the authors' code saved")
    sub.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="the run folder to create")
    sub.add_argument(
        "--projection",
        required=True,
        choices=["none", "random"],
        help="the output projection, which no checkpoint contains: left out, or drawn at random in every call",
    )
