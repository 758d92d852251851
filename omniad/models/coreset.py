"""Memories of patches: draw random patches of all training images, keep a few, measure how far others are from these.

So settings bound time and memory, however large the data set. The patches to keep are chosen by greedy k-center:
again and again the patch farthest from all chosen so far. Distances are Euclidean, by matrix products in single
precision, exact up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniad.errors import UserError
from omniad.host_memory import available_memory
from omniad.models.method import AllFeatures, Prepared

STARTS = 10  # random patches whose mean distance is every patch's first
ROUND = 1024  # patches among which k-center chooses in one round
CHUNK = 1024  # entries in one matrix product, whose result has to be held
ROWS = 1024  # patches in one: a CPU's caches should hold it, and a group's members are gathered for each of them
GROUP = 16  # entries of which at first only the best is looked for


class Sample(NamedTuple):
    """Random patches, the same number of every image, in the images' order."""

    patches: Tensor  # (N, D)
    places: Tensor  # (N,): each one's position among its image's patches
    images: Tensor  # (N,): the number of its image's file
    positions: int  # that an image's patches have
    seed: int  # that they were drawn with


def draw_patches(
    features: AllFeatures,
    patches: Callable[[list[Tensor]], list[Tensor]],
    most: int,
    device: torch.device,
    kept: Mapping[str, Tensor],
) -> Generator[Prepared, None, list[Sample]]:
    """Draw about `most` patches a scale, at least one of every image; part of a method's `prepare`.

    Args:
        patches: what `encode` gives -> each scale's patches, (B, P, D).
        device: where the samples go at the end; until then they are on the CPU.
        kept: as `prepare` gets it; selection resumes from it.

    Returns:
        A sample of each scale.
    """
    seed = int(kept["seed"]) if kept else int(torch.randint(2**31, ()))
    done = int(kept["images"]) if kept else 0
    filled = {name: value for name, value in kept.items() if name not in ("seed", "images")}
    for batch in features.after(done):
        scales = patches(batch)
        for scale, values in enumerate(scales):  # (B, P, D)
            count = sample_size(most, features.images, values.shape[1]) // features.images
            if f"patches{scale}" not in filled:
                needed = 4.0 * features.images * count * values.shape[2]
                check_room(2 * needed, f"a sample of {features.images * count:,} patches", "candidates")
                filled[f"patches{scale}"] = torch.empty(features.images, count, values.shape[2])
                filled[f"places{scale}"] = torch.empty(features.images, count, dtype=torch.long)
                filled[f"positions{scale}"] = torch.tensor(values.shape[1])
            places = torch.stack([_some(values.shape[1], count, seed + done + k) for k in range(len(values))])  # (B, m)
            drawn = values.take_along_dim(places[..., None].to(values.device), dim=1)  # (B, m, D)
            filled[f"patches{scale}"][done : done + len(values)] = drawn.cpu()
            filled[f"places{scale}"][done : done + len(values)] = places
        done += len(batch[0])
        yield Prepared(done / features.images, {"seed": torch.tensor(seed), "images": torch.tensor(done), **filled})
    samples = []
    for scale in range(len(filled) // 3):
        drawn, places = filled[f"patches{scale}"].to(device), filled[f"places{scale}"].to(device)  # (N, m, D), (N, m)
        images = torch.tensor(features.originals, device=device).repeat_interleave(places.shape[1])
        samples.append(Sample(drawn.flatten(0, 1), places.flatten(), images, int(filled[f"positions{scale}"]), seed))
    return samples


def sample_size(most: int, images: int, positions: int) -> int:
    """How many patches are drawn from `images` images of `positions` patches each."""
    return images * min(max(1, most // images), positions)


def _some(total: int, count: int, seed: int) -> Tensor:
    """`count` of the numbers below `total`; every image has its own seed, so that its batch does not matter."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count]


def part_of(pieces: Iterator[Prepared], start: float, end: float) -> Generator[Prepared, None, Any]:
    """A part of a preparation, from share `start` to `end` of the whole; returns what the part does."""
    while True:
        try:
            share, kept = next(pieces)
        except StopIteration as stop:
            return stop.value
        yield Prepared(start + (end - start) * share, kept)


class Memory(nn.Module):
    """Patches that are kept, (K, D), and the training image that each is from, (K,)."""

    entries: Tensor
    images: Tensor

    def __init__(self, size: int, channels: int):
        super().__init__()
        if torch.get_default_device().type == "cpu":
            check_room(4.0 * size * channels, f"a memory of {size:,} patches", "memory")
        self.register_buffer("entries", torch.zeros(size, channels))
        self.register_buffer("images", torch.full((size,), -1))

    def choose(self, sample: Sample, points: Tensor | None = None) -> Iterator[Prepared]:
        """Keep the k-center of a sample's patches; a piece of work a round.

        A sample smaller than the memory is kept whole and more than once, which changes no distance.

        Args:
            points: (N, D'), projections that represent the patches during selection.
        """
        generator, size = torch.Generator().manual_seed(sample.seed), len(self.entries)
        chosen = torch.empty(0, dtype=torch.long)
        for chosen in k_center(sample.patches if points is None else points, size, generator):
            yield Prepared(len(chosen) / size)
        rows = chosen[torch.arange(size, device=chosen.device) % len(chosen)]
        rows = rows[sample.images[rows].argsort(stable=True)]  # by image, so that few chunks hold an image's own
        self.entries.copy_(sample.patches[rows])
        self.images.copy_(sample.images[rows])

    def forward(self, patches: Tensor, own: Tensor | None = None) -> Tensor:
        """Patches (N, D) -> distance to the nearest entry, (N,); to that of another image than `own` (N,), if given.

        0 where there is no entry of another image.
        """
        members = self._members()
        if torch.compiler.is_compiling():  # exported, how many there are is open
            return self._nearest(patches, own, members)
        owns = repeat(None) if own is None else own.split(ROWS)
        parts = zip(patches.split(ROWS), owns, strict=False)
        return torch.cat([self._nearest(some, of, members) for some, of in parts])

    def _nearest(self, patches: Tensor, own: Tensor | None, members: Tensor) -> Tensor:
        """See `forward`. Which group holds the nearest entry is told by products, its distance by differences.

        In products large terms cancel, and to look for the one best of all is slower than to look for the best group.
        """
        best = []
        for part, images in zip(self.entries.split(CHUNK), self.images.split(CHUNK), strict=True):
            alike = likeness(patches, part)  # (N, CHUNK)
            if own is not None and _overlap(own, images):
                alike = alike.masked_fill(own[:, None] == images, -torch.inf)
            best.append(_in_groups(alike, -torch.inf).amax(dim=1))
        nearest = members[torch.cat(best, dim=1).max(dim=1).indices]  # (N, GROUP)
        squares = (patches[:, None] - self.entries[nearest]).square().sum(dim=2)
        if own is not None:
            squares = squares.masked_fill(own[:, None] == self.images[nearest], torch.inf)
        shortest = squares.amin(dim=1)
        return torch.where(shortest.isinf(), 0.0, shortest).sqrt()

    def _members(self) -> Tensor:
        """The entries of each group, in the groups' order, (groups, GROUP); the last ones are filled up."""
        numbers = torch.arange(len(self.entries), device=self.entries.device)
        parts = [
            _in_groups(part[None], min(start + CHUNK, len(numbers)) - 1)[0]
            for start, part in zip(range(0, len(numbers), CHUNK), numbers.split(CHUNK), strict=True)
        ]
        return torch.cat(parts, dim=1).T.contiguous()

    def to_other_images(self, sample: Sample) -> Tensor:
        """Distance of a sample's patches to the nearest entry of another image, (N,); 0 where there is no other."""
        return self(sample.patches, sample.images)


def _in_groups(x: Tensor, filler: float) -> Tensor:
    """(N, C) -> (N, GROUP, C / GROUP): a group is a column, its members lie C / GROUP apart; C is filled up."""
    lacking = -x.shape[1] % GROUP
    return (F.pad(x, (0, lacking), value=filler) if lacking else x).unflatten(1, (GROUP, -1))


def _overlap(some: Tensor, others: Tensor) -> bool:
    """Whether a number can be in both."""
    return bool((some.min() <= others.max()) & (others.min() <= some.max()))


def check_room(needed: float, what: str, setting: str) -> None:
    """Raise a UserError where memory can't hold so many bytes now: the kernel would end the process without a word."""
    free = available_memory()
    if needed > free:
        raise UserError(
            f"{what} takes {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB of memory are free; lower model.{setting}"
        )


def k_center(points: Tensor, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Greedy k-center of points (N, D), round by round: yields the indices chosen so far, at last `count` of them.

    Each next point is the one farthest from all that are chosen. Before there are any, its distance is the mean one to
    STARTS random points, which also bounds it later on, as in PatchCore. With `count` >= N all points are chosen.

    Only the ROUND farthest points are looked at in a round: distances never grow, so as long as one of these is as far
    as all others were, it is the farthest of all. So one matrix product serves hundreds of choices.
    """
    if count >= len(points):
        yield torch.arange(len(points), device=points.device)
        return
    squares = points.square().sum(dim=1)
    starts = points[torch.randperm(len(points), generator=generator)[:STARTS].to(points.device)]
    distance = torch.cat([squared_distances(part, starts).sqrt().mean(dim=1).square() for part in points.split(ROWS)])
    chosen = torch.empty(0, dtype=torch.long, device=points.device)
    while len(chosen) < count:
        farthest, members = distance.topk(min(ROUND, len(points)))
        others = farthest[-1].item() if len(points) > ROUND else -torch.inf
        near = squared_distances(points[members], points[members])
        picks = members[_farthest_first(farthest.cpu(), near.cpu(), others, count - len(chosen)).to(points.device)]
        nearest = torch.cat([likeness(part, points[picks]).amax(dim=1) for part in points.split(ROWS)])
        distance = torch.minimum(distance, (squares - 2 * nearest).clamp(min=0))
        distance[picks] = -1.0  # below every distance: never again
        chosen = torch.cat([chosen, picks])
        yield chosen


def _farthest_first(distance: Tensor, between: Tensor, others: float, most: int) -> Tensor:
    """Farthest points one after the other, while the next is as far as `others`: positions among (M,), at most `most`.

    `distance` (M,) and `between` (M, M) are squared distances, from what is chosen and from one another.
    """
    left, rows, picks = distance.numpy().copy(), between.numpy(), []  # numpy: thousands of small steps
    while len(picks) < most:
        farthest = int(left.argmax())
        if left[farthest] < others:
            break
        picks.append(farthest)
        np.minimum(left, rows[farthest], out=left)
        left[picks[-1]] = -np.inf
    return torch.tensor(picks)


def likeness(x: Tensor, m: Tensor) -> Tensor:
    """(N, D), (M, D) -> x.m - |m|^2 / 2, (N, M), which is (|x|^2 - |x - m|^2) / 2: largest for the nearest."""
    return F.linear(x, m, m.square().sum(dim=1) / -2)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(N, D), (M, D) -> (N, M), by |a|^2 - 2ab + |b|^2."""
    squares = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)
    return torch.addmm(squares, a, b.T, alpha=-2).clamp(min=0)
