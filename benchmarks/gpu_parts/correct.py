"""Check that the device computes what the CPU does in double precision, and with which flags."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from omniad.config import EvaluationSettings, RunSettings
from omniad.evaluation.batches import Batches
from omniad.evaluation.evaluate import compute_maps
from omniad.models import Method
from omniad.models.precision import arithmetic
from omniad.training.cuda_graph import GraphedStep
from omniad.training.loop import train_step

from .bench import Bench, Row, distance, feature_batches

METHODS = ("default", "released", "rd4ad", "uniad", "simplenet", "destseg", "rlr", "mambaad")
# Largest relative error of loss, gradient and maps; and a rounding in that of single precision.
LIMITS = {"fp32": (1e-4, 3e-3, 1e-3), "tf32": (1e-2, 1e-1, 3e-2), "bf16": (5e-2, 5e-1, 2e-1)}
ROUNDING = {"fp32": 1, "tf32": 2**13, "bf16": 2**15}


def methods(bench: Bench) -> Iterator[Row]:
    """Loss, gradients and maps of every method in every precision, against the CPU in double precision.

    Some gradients are ill-conditioned at their start (small batches under BatchNorm), so that single precision on the
    CPU misses them too. An error passes below its limit, or below ten times the CPU's, scaled by the rounding.
    """
    for name in METHODS:
        try:
            yield from _method(bench, name)
        except Exception as error:  # costs only this method
            yield _failed(name, error)


def details(bench: Bench) -> Iterator[Row]:
    """Graph against eager steps, evaluation in batches, flags in each forward."""
    for check in (graph_equals_eager, failed_recording, batch_sizes, flags):
        try:
            yield from check(bench)
        except Exception as error:
            yield _failed(check.__name__, error)


def _failed(name: str, error: Exception) -> Row:
    return {"checked": name, "passed": False, "note": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def _method(bench: Bench, name: str) -> Iterator[Row]:
    run = bench.run(name)
    size = bench.size // 4 if name == "mambaad" and not bench.dry else bench.size  # its scan in double takes minutes
    torch.manual_seed(0)
    exact = Bench.build(bench, run).cpu().double()
    model = copy.deepcopy(exact).float().to(bench.device)
    for each in (exact, model):
        each.seed_draws(0)
    images = torch.randn(2, 3, size, size)
    features = exact.encode(images.double())
    expected = _computed(exact, run, features, size)
    single = _computed(copy.deepcopy(model).cpu(), run, [level.float() for level in features], size)
    unavoidable = [distance(*pair) for pair in zip(single, expected, strict=True)]
    yield {"checked": name, "precision": "CPU, fp32"} | _told(unavoidable)
    for precision, limits in LIMITS.items():
        with arithmetic(precision, bench.device):
            inputs = [level.float().to(bench.device) for level in features]
            found = _computed(model, run, inputs, size)
        errors = [distance(*pair) for pair in zip(found, expected, strict=True)]
        yield {
            "checked": name,
            "precision": precision,
            **_told(errors),
            "passed": bench.dry
            or all(
                error <= max(limit, 10 * ROUNDING[precision] * same)
                for error, limit, same in zip(errors, limits, unavoidable, strict=True)
            ),
        }


def _told(errors: list[float]) -> Row:
    return {what: f"{error:.1e}" for what, error in zip(("loss", "gradient", "maps"), errors, strict=True)}


def _computed(model: Method, run: RunSettings, features: list[Tensor], size: int) -> tuple[list[Tensor], ...]:
    """Loss, gradients and maps, with the same random numbers on every device."""
    model.train().zero_grad()
    model.seed_draws(1)
    torch.manual_seed(1)  # of what is drawn on the CPU
    with SameNoise():
        loss = model.loss(features, run.training, 0.0)
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    model.eval()
    model.seed_draws(2)
    with torch.no_grad():
        maps = model.anomaly_maps(features, size)
    return [loss.detach()], gradients, [maps]


class SameNoise(TorchFunctionMode):
    """Random numbers like an input are drawn on the CPU from a seed, in single precision; dropout is left out."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        if name in ("randn_like", "rand_like"):
            return getattr(torch, name[:-5])(args[0].shape, generator=self.generator).to(args[0])
        if name == "bernoulli_":
            drawn = torch.rand(args[0].shape, generator=self.generator) < args[1]
            return args[0].copy_(drawn.to(args[0]))
        if name == "dropout":
            return args[0]
        if name == "scaled_dot_product_attention":
            kwargs["dropout_p"] = 0.0
        return func(*args, **kwargs)


def graph_equals_eager(bench: Bench) -> Iterator[Row]:
    """Twelve steps with a graph and without, the rate falling in between; also two runs without, for the noise."""
    if bench.device.type != "cuda":
        return
    with arithmetic("fp32", bench.device):
        eager, again = _weights_after_steps(bench, False), _weights_after_steps(bench, False)
        graphed = _weights_after_steps(bench, True)
    noise, error = distance(again, eager), distance(graphed, eager)
    yield {
        "checked": "12 steps with a CUDA graph, and without",
        "passed": error <= max(10 * noise, 1e-4),
        "note": f"weights differ by {error:.1e}; two trainings without by {noise:.1e}",
    }


def _weights_after_steps(bench: Bench, graph: bool) -> list[Tensor]:
    run = bench.run("default")
    model = bench.build(run).train()
    batches = feature_batches(bench, model, run.training.batch_size)
    optimizers = model.make_optimizers(run.training)

    def eager(batch: list[Tensor], progress: float) -> tuple[Tensor, Tensor]:
        return train_step(model, batch, optimizers, run.training, progress)

    step = GraphedStep(model, eager, optimizers) if graph else eager
    torch.manual_seed(2)  # the jitter's
    for number in range(12):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 1e-4 if number >= 8 else 1e-3
        step(next(batches), 0.0)
    if isinstance(step, GraphedStep) and step.failure:
        raise RuntimeError(step.failure)
    return [parameter.detach().cpu() for parameter in model.parameters() if parameter.requires_grad]


def failed_recording(bench: Bench) -> Iterator[Row]:
    """A step that waits for the device can't be recorded: training continues without a graph."""
    if bench.device.type != "cuda":
        return
    run = bench.run("default")
    model = bench.build(run).train()
    batches = feature_batches(bench, model, 2)
    optimizers = model.make_optimizers(run.training)

    def waiting(batch: list[Tensor], progress: float) -> tuple[Tensor, Tensor]:
        loss, norm = train_step(model, batch, optimizers, run.training, progress)
        loss.item()
        return loss, norm

    step = GraphedStep(model, waiting, optimizers)
    losses = [step(next(batches), 0.0)[0].item() for _ in range(8)]
    yield {
        "checked": "a step that can't be recorded runs without a graph",
        "passed": bool(step.failure) and bool(np.isfinite(losses).all()) and losses[-1] < losses[0],
        "note": step.failure,
    }


def batch_sizes(bench: Bench) -> Iterator[Row]:
    """Maps and scores of 1 and of 16 images at once, and the CPU's."""
    run = bench.run("default")
    model = bench.build(run).eval()
    images = np.random.default_rng(0).integers(0, 256, (16, bench.size, bench.size, 3), np.uint8)
    found = {size: _maps(model, run, images, size, bench.device) for size in (16, 1)}
    found[0] = _maps(copy.deepcopy(model).cpu(), run, images, 16, torch.device("cpu"))
    for what, one, other in (("1 and 16 images at once", 1, 16), ("device and CPU", 16, 0)):
        errors = [
            distance([torch.from_numpy(a)], [torch.from_numpy(b)])
            for a, b in zip(found[one], found[other], strict=True)
        ]
        yield {
            "checked": f"maps and scores, {what}",
            "passed": max(errors) <= 1e-3,
            "note": f"they differ by {errors[0]:.1e} and {errors[1]:.1e}",
        }


def _maps(model: Method, run: RunSettings, images: np.ndarray, batch: int, device: torch.device) -> Any:
    settings = run.model_copy(update={"evaluation": EvaluationSettings(batch_size=batch)})
    return compute_maps(model, images, np.arange(len(images)), settings, Batches(batch, device))


def flags(bench: Bench) -> Iterator[Row]:
    """What a forward sees of TF32 and autocast: in training as asked for, in evaluation neither."""
    run = bench.run("default")
    model = bench.build(run)
    seen: set[tuple[bool, bool, bool]] = set()
    matmul: Any = torch.backends.cuda.matmul

    def look(*_: Any) -> None:
        seen.add((matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.is_autocast_enabled(bench.device.type)))

    for module in model.modules():
        module.register_forward_pre_hook(look)
    images = np.zeros((2, bench.size, bench.size, 3), np.uint8)
    batch = next(feature_batches(bench, model, 2, 1))
    before = matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as a careless caller leaves them
    try:
        for precision in LIMITS:
            seen.clear()
            with arithmetic(precision, bench.device):
                model.train().loss(batch, run.training, 0.0)
            wanted = (precision == "tf32", precision == "tf32", precision == "bf16")
            yield _flags_row(f"flags of a training step in {precision}", seen, wanted)
        seen.clear()
        _maps(model.eval(), run, images, 2, bench.device)
        yield _flags_row("flags of an evaluation", seen, (False, False, False))
    finally:
        matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def _flags_row(name: str, seen: set[tuple[bool, bool, bool]], wanted: tuple[bool, bool, bool]) -> Row:
    told = "; ".join(str(flags) for flags in sorted(seen))
    return {"checked": name, "passed": seen == {wanted}, "note": f"matmul TF32, cuDNN TF32, autocast: {told}"}
