"""Time a training step of the default model in every variant, beside two lower bounds and a plain loop."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import omniad.models.kernels
from omniad.config import RunSettings
from omniad.models.complexity import complexity_by_part
from omniad.models.omniad import OmniAD
from omniad.models.precision import arithmetic
from omniad.training.compiling import compile_blocks
from omniad.training.cuda_graph import GraphedStep
from omniad.training.loop import train_step

from .bench import Bench, Row, feature_batches

PRECISIONS = ("fp32", "tf32", "bf16")
COMPILE_S = 90  # a compiled variant is begun only with so much time left


def floors(bench: Bench) -> Iterator[Row]:
    """What no step can be faster than: its arithmetic at a matrix product's rate, its bytes at a copy's."""
    run = bench.run("default")
    parts = complexity_by_part(run.model, bench.size)
    operations = 6 * (parts["neck"][1] + parts["decoder"][1]) * run.training.batch_size  # forward, backward twice it
    saved, weights = _bytes_of_a_step(bench, run)
    bandwidth = _copy_rate(bench)
    yield {"measured": "device-to-device copy, TB/s (read and written)", "value": round(bandwidth / 1e12, 3)}
    for precision in PRECISIONS:
        rate = _matrix_rate(bench, precision)
        yield {"measured": f"matrix product in {precision}, TFLOP/s", "value": round(rate / 1e12, 1)}
        yield {
            "measured": f"arithmetic of a step in {precision}, ms ({operations / 1e12:.3f} TFLOP)",
            "value": round(1000 * operations / rate, 2),
        }
    yield {
        "measured": f"bytes of a step, ms (what autograd keeps, {saved / 1e9:.2f} GB, written and read; weights, "
        f"gradients and optimizer, {weights / 1e9:.2f} GB)",
        "value": round(1000 * (2 * saved + weights) / bandwidth, 2),
    }


def steps(bench: Bench) -> Iterator[Row]:
    """Plain loop and engine, with and without a CUDA graph, in each precision."""
    yield from _plain(bench)
    for precision in PRECISIONS:
        for graph in (True, False):
            yield from measured(bench, bench.run("default"), precision, graph=graph)
    yield from measured(bench, bench.run("default"), "fp32", graph=True, kernels=False)
    yield from measured(bench, bench.run("default"), "fp32", graph=True, channels_last=True)
    yield from measured(bench, bench.run("default"), "bf16", graph=True, channels_last=True)
    yield from measured(bench, bench.run("released"), "fp32", graph=True)


def compiled_steps(bench: Bench) -> Iterator[Row]:
    """The same with compiled blocks."""
    for precision in ("fp32",) if bench.dry else ("fp32", "bf16", "tf32"):
        for channels_last in (False, True) if precision == "bf16" else (False,):
            if bench.seconds_left() < COMPILE_S and not bench.dry:
                yield {"step": f"compiled, {precision}", "note": "not started: too little time left"}
                continue
            run = bench.run("default")
            yield from measured(bench, run, precision, graph=True, compiled=True, channels_last=channels_last)


def methods(bench: Bench) -> Iterator[Row]:
    """A step of each method at its own batch size, with and without a CUDA graph."""
    for name in ("rd4ad", "uniad", "simplenet", "destseg", "rlr", "mambaad"):
        for graph in (False, True):
            yield from measured(bench, bench.run(name), "fp32", graph=graph, repeats=10)


def measured(
    bench: Bench,
    run: RunSettings,
    precision: str,
    *,
    graph: bool = False,
    compiled: bool = False,
    channels_last: bool = False,
    kernels: bool = True,
    repeats: int = 30,
) -> Iterator[Row]:
    """A row of one variant, with the error if it fails."""
    words = [run.run, precision]
    words += [word for word, on in (("graph", graph), ("compiled", compiled), ("channels-last", channels_last)) if on]
    words += [] if kernels else ["without Triton kernels"]
    omniad.models.kernels.enabled = kernels
    row: Row = {"step": ", ".join(words), "batch": run.training.batch_size}
    try:
        started = time.monotonic()
        step, no_graph = engine_step(bench, run, precision, graph, compiled, channels_last)
        for _ in range(1 if bench.dry else 5):
            step()
        prepared = time.monotonic() - started
        times = bench.milliseconds(step, repeats, warm_up=2)
        peak = None if graph else bench.peak_mib(step)  # a replay allocates nothing
        decile = statistics.quantiles(times, n=10) if len(times) > 9 else [min(times)] * 9
        row |= {"median ms": round(statistics.median(times), 3), "10 % ms": round(decile[0], 3)}
        row |= {"90 % ms": round(decile[8], 3), "peak MiB": peak, "first steps s": round(prepared, 1)}
        row["note"] = "; ".join(filter(None, (no_graph(), _compiled() if compiled else "")))
    except Exception as error:  # a variant that fails costs only itself
        row["note"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    finally:
        omniad.models.kernels.enabled = True
    yield row


def _compiled() -> str:
    """How much the compiler took over; it leaves in silence what it can't."""
    from torch._dynamo.utils import counters

    frames, breaks = counters["frames"], sum(counters["graph_break"].values())
    return f"{frames['ok']} of {frames['total']} frames compiled, {breaks} graph breaks"


def engine_step(
    bench: Bench, run: RunSettings, precision: str, graph: bool, compiled: bool, channels_last: bool
) -> tuple[Callable[[], tuple[Tensor, Tensor]], Callable[[], str]]:
    """What makes one update on random images as `omniad train` does, and what tells why there is no graph, if so."""
    training = run.training
    model = bench.build(run).train()
    optimizers = model.make_optimizers(training)
    if compiled:
        torch._dynamo.reset()  # the variants before this one count towards a limit of compilations
        torch._dynamo.utils.counters.clear()
    if compiled and bench.dry:  # traced, but not compiled: that takes minutes
        for block in model.blocks():
            block.compile(backend="eager", dynamic=False)
    elif compiled:
        compile_blocks(model, bench.device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model.to(memory_format=layout)  # type: ignore[call-overload]
    batches = feature_batches(bench, model, training.batch_size, layout=layout)

    def plain(batch: list[Tensor], progress: float) -> tuple[Tensor, Tensor]:
        return train_step(model, batch, optimizers, training, progress)

    recorded = graph and bench.device.type == "cuda" and model.same_every_step
    work = GraphedStep(model, plain, optimizers) if recorded else plain

    def step() -> tuple[Tensor, Tensor]:
        with arithmetic(precision, bench.device):
            return work(next(batches), 0.0)

    return step, lambda: work.failure if isinstance(work, GraphedStep) else "" if recorded == graph else "no graph"


def _plain(bench: Bench) -> Iterator[Row]:
    from plain import plain_step

    run = bench.run("default")
    for fused in (False, True):
        name = "plain eager, fused attention" if fused else "plain eager, the equations step by step"
        model = bench.build(run).train()
        assert isinstance(model, OmniAD)
        update = plain_step(model, fused)
        images = [bench.images(run.training.batch_size) for _ in range(4)]
        turn = iter(range(10**9))
        with arithmetic("fp32", bench.device):
            step = lambda: update(images[next(turn) % len(images)])  # noqa: B023, E731 (called within this turn)
            times = bench.milliseconds(step, 15, 3)
            yield {
                "step": f"{name}, fp32, encoder in every step",
                "batch": run.training.batch_size,
                "median ms": round(statistics.median(times), 3),
                "peak MiB": bench.peak_mib(step),
            }


def _copy_rate(bench: Bench) -> float:
    """Bytes a second, read and written, of a large copy."""
    count = 2**22 if bench.dry else 2**28
    source, target = torch.rand(count, device=bench.device), torch.empty(count, device=bench.device)
    return 8 * count / (bench.median_ms(lambda: target.copy_(source), 20) / 1000)


def _matrix_rate(bench: Bench, precision: str) -> float:
    """Operations a second of a large product."""
    side = 256 if bench.dry else 8192
    a, b = torch.randn(side, side, device=bench.device), torch.randn(side, side, device=bench.device)
    if precision == "bf16":
        a, b = a.bfloat16(), b.bfloat16()
    with arithmetic("tf32" if precision == "tf32" else "fp32", bench.device):
        return 2 * side**3 / (bench.median_ms(lambda: torch.mm(a, b), 5, 2) / 1000)


def _bytes_of_a_step(bench: Bench, run: RunSettings) -> tuple[int, int]:
    """Of what autograd keeps from forward to backward, each tensor once; and of weights, gradients, optimizer.

    A weight is read twice, its gradient written and read, weight and both moments read and written: ten times.
    """
    model = bench.build(run).train()
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = next(feature_batches(bench, model, run.training.batch_size, 1))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = model.loss(batch, run.training, 0.0)  # held, so that no storage is used twice
    total = sum(kept.values())
    del loss
    trainable = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return total, 10 * trainable
