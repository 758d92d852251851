"""The training engine against a plain eager loop of the same model, on the same batches, in one run.

    python benchmarks/training.py [--batch 16] [--rounds 4] [--compile]

The plain loop is plain.py's. It runs twice: with eq. 1 step by step, and with PyTorch's fused
attention.
Steps of all loops alternate, so that a busy machine slows all; each figure is the median.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from plain import default_model, plain_step

from omniad.config import ModelSettings, TrainingSettings
from omniad.data.packs import Pack, normalise
from omniad.models.complexity import complexity_by_part
from omniad.models.precision import arithmetic
from omniad.runs.provenance import hardware, versions
from omniad.training.compiling import compile_blocks
from omniad.training.features import TrainingFeatures
from omniad.training.loop import train_step
from omniad.training.state import Position, StateFolder, capture

SIZE = 256
Step = Callable[[], float]  # makes one update; its loss


def plain_loop(pack: Pack, batch: int, device: torch.device, fused_attention: bool) -> Step:
    """Encoder, loss, backward, clip, AdamW: one update a call."""
    step = plain_step(default_model(device), fused_attention)
    order = np.random.default_rng([0, 0]).permutation(len(pack.index))  # as the engine's first epoch
    members = iter(order.reshape(-1, batch))

    return lambda: step(normalise(pack.images[next(members)]).to(device)).item()


class Engine:
    """The engine's own parts, with the time each takes."""

    def __init__(self, pack: Pack, batch: int, device: torch.device, precision: str = "fp32", compiled: bool = False):
        self.training = TrainingSettings(batch_size=batch)
        self.device, self.precision, self.waiting = device, precision, 0.0
        self.model = default_model(device)
        self.optimizers = self.model.make_optimizers(self.training)
        self.features = TrainingFeatures(self.model, pack, batch, 100.0, device)
        self.batches = self.features.epoch(0, 0)
        if compiled:
            compile_blocks(self.model, device)

    def step(self) -> float:
        start = time.perf_counter()
        batch = next(self.batches)
        self.waiting = time.perf_counter() - start
        with arithmetic(self.precision, self.device):
            return train_step(self.model, batch, self.optimizers, self.training, 0.0)[0].item()

    def split(self, pack: Pack, folder: Path) -> dict[str, float]:
        """Seconds that each part takes alone; neck and decoder forwards and backwards, saving spread over 300 s."""
        batch = next(self.features.epoch(0, 0))
        images = normalise(pack.images[: self.training.batch_size]).to(self.device)
        fused = self.model.neck(batch).detach().requires_grad_()
        state = StateFolder(folder, {})
        parts = {
            "encoder (not in a step)": lambda: self.model.encode(images),
            "neck": lambda: self.model.neck(batch).sum().backward(),
            "decoder": lambda: torch.stack([out.mean() for out in self.model.decoder(fused)]).sum().backward(),
            "optimizer": lambda: [optimizer.step() for optimizer in self.optimizers],
            "a save (once in 300 s)": lambda: state.save(capture(self.model, self.optimizers, Position(), self.device)),
        }
        with arithmetic(self.precision, self.device):
            return {name: statistics.median(self._timed(part) for _ in range(3)) for name, part in parts.items()}

    def _timed(self, part: Callable[[], object]) -> float:
        return seconds(part, self.device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of one call, to its end on the device too."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def peak_memory(kind: str, folder: Path, batch: int) -> int:
    """MiB of a process that makes two steps on the CPU."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_memory, (kind, folder, batch))


def _peak_memory(kind: str, folder: Path, batch: int) -> int:
    device = torch.device("cpu")
    pack = make_pack(folder, batch, 2)
    step = Engine(pack, batch, device).step if kind == "engine" else plain_loop(pack, batch, device, "fused" in kind)
    for _ in range(2):
        step()
    status = Path("/proc/self/status").read_text(encoding="utf-8")  # getrusage's peak includes the parent's
    return int(status.partition("VmHWM:")[2].split()[0]) // 2**10


def make_pack(folder: Path, batch: int, steps: int) -> Pack:
    """Random images, smooth enough for a ResNet to see something."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((batch * steps, 3, 16, 16), np.float32) * 255)
    images = F.interpolate(coarse, size=SIZE, mode="bicubic").clamp(0, 255).permute(0, 2, 3, 1).byte().numpy()
    index = pd.DataFrame({"split": ["train"] * len(images), "image": [str(number) for number in range(len(images))]})
    return Pack(folder, index, images, np.zeros((0, SIZE, SIZE), np.uint8), f"benchmark {batch} {steps}")


def matrix_speed(device: torch.device, precision: str, side: int) -> float:
    """Operations a second in a product of two matrices, the fastest of five: the bound of this precision."""
    a = torch.randn(side, side, device=device)
    with arithmetic(precision, device):
        torch.mm(a, a)
        return 2 * side**3 / min(seconds(lambda: torch.mm(a, a), device) for _ in range(5))


def report(batch: int, rounds: int, compiled: bool) -> Iterator[str]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as name, arithmetic("fp32", device):
        folder = Path(name)
        pack = make_pack(folder, batch, rounds + 1)
        kinds = ("plain", "plain, fused attention", "engine") if device.type == "cpu" else ()
        peaks = {kind: peak_memory(kind, folder, batch) for kind in kinds}  # before this process holds all models
        engines = {"engine": Engine(pack, batch, device)}
        if compiled:
            engines["engine, compiled"] = Engine(pack, batch, device, compiled=True)
        for precision in ("tf32", "bf16") if device.type == "cuda" else ():
            engines[f"engine, {precision}"] = Engine(pack, batch, device, precision)
        steps: dict[str, Step] = {
            "plain": plain_loop(pack, batch, device, False),
            "plain, fused attention": plain_loop(pack, batch, device, True),
        } | {name: engine.step for name, engine in engines.items()}
        times, cpu_times, losses = ({name: [] for name in steps} for _ in range(3))
        waiting = []
        for turn in range(rounds + 1):  # the first warms up
            for name, step in steps.items():
                torch.manual_seed(turn)  # the same jitter for all
                cpu = time.process_time()
                took = seconds(lambda step=step, name=name: losses[name].append(step()), device)
                if turn:
                    times[name].append(took)
                    cpu_times[name].append(time.process_time() - cpu)
            waiting.append(engines["engine"].waiting)
        parts = complexity_by_part(ModelSettings())
        work = 6 * (parts["neck"][1] + parts["decoder"][1]) * batch  # two a multiply-add, three passes
        base = statistics.median(times["plain, fused attention"])
        machine, found = hardware(device), versions()
        processor = machine.get("gpu", machine["cpu"])
        yield f"{processor}, {machine['threads']} threads, {platform.system()}; torch {found['torch']}"
        yield f"Default model, 256x256, batch {batch}, median of {rounds} steps.\n"
        yield "| loop | s a step | CPU s a step | times as fast | share of a matrix product | difference in loss |"
        yield "|---|---:|---:|---:|---:|---:|"
        for name in steps:
            median, cpu = statistics.median(times[name]), statistics.median(cpu_times[name])
            precision = name.rpartition(" ")[2] if name.endswith(("tf32", "bf16")) else "fp32"
            speed = matrix_speed(device, precision, 2048 if device.type == "cpu" else 8192)
            difference = max(abs(a / b - 1) for a, b in zip(losses[name], losses["plain"], strict=True))
            cells = f"{median:.3f} | {cpu:.3f} | {base / median:.2f} | {work / median / speed:.0%} | {difference:.1e}"
            yield f"| {name} | {cells} |"
        yield "\n| part of the engine's step (each alone) | s |\n|---|---:|"
        for name, value in engines["engine"].split(pack, folder / "state").items():
            yield f"| {name} | {value:.3f} |"
        yield f"| waiting for data | {statistics.median(waiting[1:]):.4f} |"
        if peaks:
            yield "\n| process | peak memory, MiB |\n|---|---:|"
            yield from (f"| {kind} | {peak} |" for kind, peak in peaks.items())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile (minutes of preparation)")
    options = parser.parse_args()
    for line in report(options.batch, options.rounds, options.compile):
        print(line, flush=True)
