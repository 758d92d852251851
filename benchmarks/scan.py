"""MambaAD's selective scan on a GPU: is the Triton kernel right, and how long does it take?

    python benchmarks/scan.py [--tune]

First its output and all gradients are compared with the recurrence in double precision, one step after the other. Then
it runs at the sizes of MambaAD's four stages (batch 16, 256 pixels), and so does a whole training step. `--tune` times
other block sizes, too. With TRITON_INTERPRET=1 and `--check` the comparison also runs on a CPU.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from omniad.config import ModelSettings, TrainingSettings
from omniad.models import build_model
from omniad.models.baselines import selective_scan_triton
from omniad.models.baselines.selective_scan import scan_in_orders
from omniad.models.precision import arithmetic
from omniad.training.loop import train_step

NAMES = ("y", "x", "delta", "bias", "a", "bc")
# (B, K, P, D, N): lengths and widths that no block divides, single ones, one longer than a block's sum is exact
ODD_SIZES = [(2, 3, 37, 21, 16), (1, 8, 64, 16, 16), (3, 1, 1, 1, 4), (1, 2, 1000, 40, 16), (2, 2, 8, 17, 1)]
STAGES = [(16, 8, 64, 1024, 16), (16, 8, 256, 512, 16), (16, 8, 1024, 256, 16), (16, 8, 4096, 128, 16)]
BLOCKS_OF_STAGES = (3, 4, 6, 3)
TUNED = [(8, 16, 1), (4, 16, 1), (8, 8, 1), (16, 8, 1), (4, 32, 1), (8, 32, 2)]  # steps, channels, warps


def scan_errors(device: torch.device | str, sizes: list[tuple[int, ...]] | None = None) -> list[dict[str, Any]]:
    """The kernel's largest errors against `literal_scan` in double precision, one row a size.

    An error is relative to the largest value of its tensor: of the output `y` and of the gradient by each input. In
    single precision all should be under 1e-5 for hundreds of steps.
    """
    rows = []
    for size in ODD_SIZES if sizes is None else sizes:
        *inputs, orders = random_inputs(size, device)
        weights = torch.randn(size[0], size[2], size[3], device=device)
        found = _with_gradients(selective_scan_triton.kernel_scan, inputs, orders, weights)
        exact = [value.detach().cpu().double().requires_grad_() for value in inputs]
        expected = _with_gradients(literal_scan, exact, orders.cpu(), weights.cpu().double())
        errors = [((f.cpu() - e).abs().max() / e.abs().max()).item() for f, e in zip(found, expected, strict=True)]
        rows.append({"size": "x".join(map(str, size)), **dict(zip(NAMES, errors, strict=True))})
    return rows


def random_inputs(size: tuple[int, ...], device: torch.device | str) -> list[torch.Tensor]:
    """x, delta, bias, a, bc and orders of a size (B, K, P, D, N); bc is a part of a larger tensor, as in MambaAD."""
    batch, k, p, d, n = size
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, p, d), (k, batch, p, d), (k, d), (k, d, n), (batch, p, k, 3 + 2 * n)]
    values = [torch.randn(shape, generator=generator) for shape in shapes]
    values[2] -= 3  # steps from thousandths to ones
    values[3] = -values[3].exp()
    x, delta, bias, a, projected = (value.to(device).requires_grad_() for value in values)
    orders = torch.stack([torch.randperm(p, generator=generator) for _ in range(k)]).to(device)
    return [x, delta, bias, a, projected[..., 3:], orders]


def literal_scan(x, delta, bias, a, bc, orders):
    """The recurrence as it is written, one step of one order after the other."""
    y = torch.zeros_like(x)
    for k, order in enumerate(orders):
        state = x.new_zeros(len(x), x.shape[2], a.shape[2])
        outputs = []
        for place in order:
            b, c = bc[:, place, k, None].chunk(2, dim=-1)  # (B, 1, N)
            step = F.softplus(delta[k, :, place] + bias[k])[..., None]  # (B, D, 1)
            state = torch.exp(step * a[k]) * state + step * b * x[:, place, :, None]
            outputs.append((state * c).sum(-1))
        y = y.index_add(1, order, torch.stack(outputs, dim=1))
    return y


def _with_gradients(scan: Callable, inputs: list, orders: torch.Tensor, weights: torch.Tensor) -> list[torch.Tensor]:
    y = scan(*inputs, orders)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), inputs)]


def milliseconds(work: Callable[[], Any], rounds: int = 5) -> float:
    """Median time of something on the GPU, after two turns to warm up."""
    times = []
    for _ in range(rounds + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times[2:])


def stage_times(scan: Callable = scan_in_orders) -> Iterator[tuple[float, float]]:
    """Milliseconds of the scan at each stage's size: forward, and forward with backward."""
    for size in STAGES:
        *inputs, orders = random_inputs(size, "cuda")
        weights = torch.randn(size[0], size[2], size[3], device="cuda")
        with torch.no_grad():
            forward = milliseconds(lambda i=inputs, o=orders: scan(*i, o))
        yield forward, milliseconds(lambda i=inputs, o=orders, w=weights: _with_gradients(scan, i, o, w))


def step_time(precision: str = "fp32") -> tuple[float, float]:
    """Milliseconds of MambaAD's training step at full size on random features, and its peak memory, GiB."""
    device = torch.device("cuda")
    training = TrainingSettings(learning_rate=0.005)
    model = build_model(ModelSettings(method="mambaad", depths=[3, 4, 6, 3])).to(device).train()
    features = [torch.randn(16, c, side, side, device=device) for c, side in ((64, 64), (128, 32), (256, 16))]
    optimizers = model.make_optimizers(training)
    torch.cuda.reset_peak_memory_stats()
    with arithmetic(precision, device):
        took = milliseconds(lambda: train_step(model, features, optimizers, training, 0.0))
    return took, torch.cuda.max_memory_allocated() / 2**30


def tune() -> None:
    """Times of all stages' scans, weighted by how many of each MambaAD has, for other block sizes."""
    before = selective_scan_triton.STEPS, selective_scan_triton.D_BLOCK, selective_scan_triton.WARPS
    for blocks in TUNED:
        selective_scan_triton.STEPS, selective_scan_triton.D_BLOCK, selective_scan_triton.WARPS = blocks
        times = list(stage_times())
        total = [sum(n * t for n, t in zip(BLOCKS_OF_STAGES, one, strict=True)) for one in zip(*times, strict=True)]
        each = "  ".join(f"{forward:6.2f} {both:6.2f}" for forward, both in times)
        name = "steps {:2}, channels {:2}, warps {}".format(*blocks)
        print(f"{name}: {each}  | all {total[0]:.1f} {total[1]:.1f}")
    selective_scan_triton.STEPS, selective_scan_triton.D_BLOCK, selective_scan_triton.WARPS = before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare")
    parser.add_argument("--tune", action="store_true", help="time other block sizes, too")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for row in scan_errors(device, None if device == "cuda" else [(1, 2, 9, 5, 4)]):
        print(row["size"], *(f"{name} {row[name]:.1e}" for name in NAMES))
    if options.check or device == "cpu":
        return
    for size, (forward, both) in zip(STAGES, stage_times(), strict=True):
        print(f"{'x'.join(map(str, size))}: forward {forward:.2f} ms, with backward {both:.2f} ms")
    print("training step: {:.1f} ms, {:.1f} GiB".format(*step_time()))
    if options.tune:
        tune()


if __name__ == "__main__":
    main()
