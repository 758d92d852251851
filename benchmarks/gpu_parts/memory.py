"""Measure the device memory of every table row, and where the default step's time goes."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from omniad.config import RunSettings, Settings, load_settings
from omniad.devices import is_out_of_memory
from omniad.models.checkpoint import METHODS
from omniad.models.precision import arithmetic
from omniad.training.loop import train_step

from .bench import Bench, Row, feature_batches
from .steps import engine_step


def peaks(bench: Bench) -> Iterator[Row]:
    """Peak of two training steps at the run's own batch size, weights, gradients and optimizer included."""
    for name, rows in runs_of_tables(load_settings()).items():
        run = bench.run(name)
        if METHODS[run.model.method].training_free:
            continue
        row: Row = {"run": name, "rows": "; ".join(rows), "batch": run.training.batch_size}
        try:
            row |= _peak(bench, run)
        except Exception as error:
            row["note"] = "out of memory" if is_out_of_memory(error) else " ".join(str(error).split())[:200]
        yield row


def _peak(bench: Bench, run: RunSettings) -> Row:
    model = bench.build(run).train()
    optimizers = model.make_optimizers(run.training)
    batch = next(feature_batches(bench, model, run.training.batch_size, 1))

    def step() -> None:
        train_step(model, batch, optimizers, run.training, 0.0)

    with arithmetic("fp32", bench.device):
        step()  # the optimizer's state is made
        peak = bench.peak_mib(step)
        return {"peak GiB": peak and round(peak / 1024, 2), "step ms": round(bench.median_ms(step, 4, 0), 1)}


def runs_of_tables(settings: Settings) -> dict[str, list[str]]:
    """Every run of Tables I-VII once: its name -> table and row. Costly ones last."""
    found: dict[str, list[str]] = {}
    for table, entry in settings.tables.items():
        for row in entry.rows:
            label = f"{table} {row.label}"
            if row.run and label not in found.setdefault(row.run, []):
                found[row.run].append(label)
    last = ("resnet50", "wide_resnet50_2", "no_learnable", "mambaad")
    return dict(sorted(found.items(), key=lambda item: item[0] in last))


def profile(bench: Bench) -> Iterator[Row]:
    """The kernels that take the most time in a step of the default model, in fp32 and in bf16."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.device.type == "cuda" else [])]
    for precision in ("fp32", "bf16"):
        step, _ = engine_step(bench, bench.run("default"), precision, False, False, False)
        for _ in range(3):
            step()
        with profiler(activities=activities) as found:
            for _ in range(3):
                step()
            if bench.device.type == "cuda":
                torch.cuda.synchronize()
        on_device = bench.device.type == "cuda"
        events = [
            (event.self_device_time_total if on_device else event.self_cpu_time_total, event)
            for event in found.key_averages()
            if not on_device or "CUDA" in str(event.device_type)
        ]
        total = sum(time for time, _ in events) or 1
        yield {"kernel": f"{precision}: all", "ms a step": round(total / 3000, 3), "share": "100 %"} | {
            "calls a step": round(sum(event.count for _, event in events) / 3)
        }
        for time, event in sorted(events, key=lambda each: -each[0])[:10]:
            yield {
                "kernel": f"{precision}: {event.key[:100]}",
                "ms a step": round(time / 3000, 3),
                "share": f"{time / total:.1%}",
                "calls a step": round(event.count / 3),
            }
