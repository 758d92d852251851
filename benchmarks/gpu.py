"""Everything that needs a GPU, in one command: correctness, speed, and the accuracy on real images.

    python benchmarks/gpu.py --out DIR [--minutes N] [--only PART ...] [--data FOLDER ... --weights FILE] [--dry]

Needs no network and no installation. Parts run one after the other, most important first, each in a separate process
with a time limit, so that a part that fails or hangs does not affect the others. Rows are written as they are measured,
to DIR/PART.json; DIR/gpu.md has them all as tables. Finished parts are not run again, unless --again is given. `--dry`
runs every part with tiny models, on the CPU if there is no GPU: its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Part:
    """`module.function` of gpu_parts, and the seconds after which it is cut off."""

    title: str
    function: str
    limit_s: int


PARTS = {
    "floors": Part("Lower bounds on a training step", "steps.floors", 60),
    "steps": Part("A training step of the default model", "steps.steps", 120),
    "profile": Part("Where the time goes", "memory.profile", 60),
    "details": Part("Checks: graph, evaluation, flags", "correct.details", 90),
    "methods": Part("Checks: every method against the CPU in double precision", "correct.methods", 150),
    "evaluation": Part("Evaluation", "scoring.evaluation", 120),
    "compiled": Part("The same step, compiled", "steps.compiled_steps", 300),
    "checks": Part("Checks: caches, resume, energy, export", "life.checks", 150),
    "memory": Part("Memory of every row of the tables", "memory.peaks", 150),
    "method_steps": Part("A training step of every method", "steps.methods", 150),
    "prediction": Part("Prediction", "scoring.prediction", 90),
    "real": Part("Real images", "real.training", 3600),
}
LEAST_S = 20  # no part is started with less time than this


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--minutes", type=float, default=60.0, help="time limit for all parts together (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--again", action="store_true", help="also run finished parts again")
    parser.add_argument("--dry", action="store_true", help="run every part, tiny, only to see that it works")
    parser.add_argument("--data", nargs="+", type=Path, default=[], metavar="FOLDER", help="real images")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="file of encoder weights, for the real images")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of the real training")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if options.dry:
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    options.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * options.minutes
    import_once()
    for name in options.only or PARTS:
        file = options.out / f"{name}.json"
        done = file.is_file() and json.loads(file.read_text(encoding="utf-8"))["state"] == "finished"
        if done and not options.again:
            print(f"{name}: finished before", flush=True)
            continue
        left = deadline - time.monotonic()
        if left < LEAST_S:
            print(f"{name}: not started, only {left:.0f} s left", flush=True)
            continue
        start_part(name, min(left, PARTS[name].limit_s), options)
        write_tables(options.out)
    results = [read(options.out / f"{name}.json") for name in PARTS]
    wrong = [row for result in results for row in result.get("rows", []) if row.get("passed") is False]
    unfinished = [
        name for name, result in zip(PARTS, results, strict=True) if result.get("state") not in ("finished", None)
    ]
    print(f"{options.out / 'gpu.md'}: {len(wrong)} checks failed; not finished: {', '.join(unfinished) or 'none'}")
    return 1 if unfinished or (wrong and not options.dry) else 0


def start_part(name: str, seconds: float, options: argparse.Namespace) -> None:
    """Run one part in a separate process; what it wrote before it failed or was cut off is kept."""
    file = options.out / f"{name}.json"
    write(file, {"state": "begun", "rows": []})
    process = multiprocessing.get_context("fork").Process(target=run_part, args=(name, seconds, options))
    start = time.monotonic()
    process.start()
    process.join(seconds)
    state = "finished" if process.exitcode == 0 else f"failed with status {process.exitcode}"
    if process.is_alive():
        state = f"cut off after {seconds:.0f} s"
        os.killpg(process.pid or 0, signal.SIGKILL)  # with its own processes
        process.join()
    result = read(file) | {"state": state, "seconds": round(time.monotonic() - start, 1)}
    if state.startswith("failed"):
        result["error"] = (options.out / f"{name}.log").read_text(encoding="utf-8", errors="replace")[-1500:]
    write(file, result)
    print(f"{name}: {state}, {result['seconds']:.0f} s, {len(result['rows'])} rows", flush=True)


def run_part(name: str, seconds: float, options: argparse.Namespace) -> None:
    """In the child: the part's rows, each written as soon as it is there; what is printed goes to a log."""
    deadline = time.monotonic() + seconds - 3  # to end by itself rather than be cut off
    os.setsid()
    sys.stdout = sys.stderr = log = (options.out / f"{name}.log").open("w", encoding="utf-8", buffering=1)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    import torch
    from gpu_parts.bench import Bench

    from omniad.runs.provenance import hardware, versions

    if not torch.cuda.is_available() and not options.dry:
        sys.exit("no GPU found; --dry runs every part, tiny, on the CPU")
    device = torch.device("cpu") if options.dry else torch.device("cuda", 0)
    module, function = PARTS[name].function.split(".")
    folder = options.out.resolve() / "work" / name
    folder.mkdir(parents=True, exist_ok=True)
    weights = options.weights and options.weights.resolve()
    bench = Bench(device, options.dry, folder, deadline, tuple(options.data), weights, tuple(options.set))
    result: dict[str, Any] = {"state": "begun", "machine": hardware(device), "versions": versions(), "rows": []}
    for row in getattr(importlib.import_module(f"gpu_parts.{module}"), function)(bench):
        result["rows"].append(row)
        write(options.out / f"{name}.json", result)


def import_once() -> None:
    """What all parts import, so that their processes, forked from this one, need not; nothing starts CUDA here."""
    for module in ("torch", *(f"gpu_parts.{part.function.split('.')[0]}" for part in PARTS.values())):
        try:
            importlib.import_module(module)
        except ImportError as error:  # costs only the parts that need it
            print(f"{module}: {error}", flush=True)


def write_tables(out: Path) -> None:
    """All parts' rows as Markdown."""
    lines, machine = ["# Measured on a GPU", ""], ""
    for name, part in PARTS.items():
        result = read(out / f"{name}.json")
        if not result:
            continue
        if not machine and result.get("machine"):
            machine = ", ".join(f"{key} {value}" for key, value in (result["machine"] | result["versions"]).items())
            lines[1:1] = ["", machine]
        lines += [f"## {part.title}", "", f"`--only {name}`: {result['state']}, {result.get('seconds', 0):.0f} s", ""]
        lines += table(result["rows"])
        if result.get("error"):
            lines += ["```", result["error"].strip(), "```", ""]
    (out / "gpu.md").write_text("\n".join(lines), encoding="utf-8")


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows as a Markdown table, a column for every key that any of them has."""
    if not rows:
        return []
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [["" if row.get(key) is None else str(row[key]).replace("|", "/") for key in columns] for row in rows]
    head = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return [*head, *("| " + " | ".join(line) + " |" for line in cells), ""]


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def write(file: Path, result: dict[str, Any]) -> None:
    temporary = file.with_suffix(".part")
    temporary.write_text(json.dumps(result, indent=1), encoding="utf-8")
    temporary.replace(file)


if __name__ == "__main__":
    sys.exit(main())
