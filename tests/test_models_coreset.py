"""Choosing patches and finding the nearest: against literal loops and scipy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from conformance import AllOf
from scipy.spatial.distance import cdist

from omniad.errors import UserError
from omniad.models import coreset
from omniad.models.coreset import CHUNK, ROUND, STARTS, Memory, Sample, draw_patches, k_center, part_of
from omniad.models.method import Prepared


def points(count: int, width: int = 5) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(count), dtype=torch.double)


def literal_k_center(all_points: np.ndarray, count: int, starts: np.ndarray) -> list[int]:
    """One choice after the other, each with all of its distances."""
    distance = cdist(all_points, all_points[starts]).mean(axis=1)
    chosen: list[int] = []
    while len(chosen) < count:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, cdist(all_points, all_points[chosen[-1:]])[:, 0])
        distance[chosen] = -1
    return chosen


@pytest.mark.parametrize("total", [40, 3 * ROUND])
def test_k_center_is_the_greedy_one(total):
    cloud = points(total)
    starts = torch.randperm(total, generator=torch.Generator().manual_seed(7))[:STARTS]
    rounds = list(k_center(cloud, total // 3, torch.Generator().manual_seed(7)))
    assert rounds[-1].tolist() == literal_k_center(cloud.numpy(), total // 3, starts.numpy())
    assert all(torch.equal(now[: len(before)], before) for before, now in pairwise(rounds))


def test_k_center_of_more_than_there_are_is_everything():
    assert sorted(list(k_center(points(9), 20, torch.Generator()))[-1].tolist()) == list(range(9))


def test_k_center_of_equal_points_chooses_each_once():
    chosen = list(k_center(torch.zeros(3 * ROUND, 2), 2 * ROUND, torch.Generator()))[-1]
    assert len(set(chosen.tolist())) == 2 * ROUND


def memory_of(entries: torch.Tensor) -> Memory:
    memory = Memory(*entries.shape)
    memory.entries.copy_(entries)
    return memory


@pytest.mark.parametrize("size", [1, 7, CHUNK + 3])
def test_nearest_distances_are_scipys(size):
    entries, queries = points(size).float(), points(50).float() + 100  # far from 0, where squares would cancel
    entries[0] = queries[3]
    found = memory_of(entries)(queries)
    assert found[3] == 0
    np.testing.assert_allclose(found.numpy(), cdist(queries.double(), entries.double()).min(axis=1), rtol=1e-5)


def sample_of(patches: torch.Tensor, images: list[int]) -> Sample:
    return Sample(patches, torch.zeros(len(images), dtype=torch.long), torch.tensor(images), positions=1, seed=0)


@pytest.mark.parametrize("chunk", [2, 5, CHUNK])
def test_distances_to_other_images_leave_out_ones_own(monkeypatch, chunk):
    monkeypatch.setattr(coreset, "CHUNK", chunk)  # few entries at a time, so that most chunks hold none of one's own
    monkeypatch.setattr(coreset, "ROWS", 2 * chunk)
    patches = points(60).float()
    images = [row // 15 for row in range(60)]
    sample, memory = sample_of(patches, images), Memory(20, 5)
    finish(memory.choose(sample))
    table = cdist(patches, memory.entries)
    table[torch.tensor(images)[:, None].numpy() == memory.images.numpy()] = np.inf
    np.testing.assert_allclose(memory.to_other_images(sample).numpy(), table.min(axis=1), rtol=1e-5)
    for entry, owner in zip(memory.entries, memory.images.tolist(), strict=True):
        assert owner == images[int((patches == entry).all(dim=1).nonzero())]


def test_one_image_has_no_others():
    sample, memory = sample_of(points(4).float(), [0] * 4), Memory(3, 5)
    finish(memory.choose(sample))
    assert memory.to_other_images(sample).tolist() == [0] * 4


def test_a_small_sample_is_kept_whole():
    sample, memory = sample_of(points(4).float(), [0, 0, 1, 1]), Memory(9, 5)
    finish(memory.choose(sample))
    assert {tuple(row) for row in memory.entries.tolist()} == {tuple(row) for row in sample.patches.tolist()}
    assert set(memory.images.tolist()) == {0, 1}


def features() -> AllOf:
    """Five images in batches of two; each of 3 x 3 positions' two values are its image and its place."""
    images = torch.arange(5.0).repeat_interleave(9)
    places = torch.arange(9.0).repeat(5)
    maps = torch.stack([images, places], dim=1).view(5, 9, 2)
    return AllOf([[part] for part in maps.split(2)])


def finish(pieces):
    """What a generator returns."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return end.value


def test_samples_know_their_image_and_place():
    torch.manual_seed(0)
    (sample,) = finish(draw_patches(features(), list, 20, torch.device("cpu"), {}))
    assert sample.patches.tolist() == [[a, b] for a, b in zip(sample.images, sample.places, strict=True)]
    assert sample.images.tolist() == [image for image in range(5) for _ in range(4)]
    assert all(len(set(four.tolist())) == 4 for four in sample.places.split(4))
    assert sample.positions == 9


@pytest.mark.parametrize(("most", "each"), [(1, 1), (14, 2), (10_000, 9)])
def test_the_sample_is_bounded(most, each):
    (sample,) = finish(draw_patches(features(), list, most, torch.device("cpu"), {}))
    assert len(sample.patches) == 5 * each


def test_drawing_does_not_depend_on_batches_and_goes_on():
    torch.manual_seed(0)
    pieces = list(draw_patches(features(), list, 20, torch.device("cpu"), {}))
    torch.manual_seed(0)
    whole = finish(
        draw_patches(AllOf([[torch.cat([part for (part,) in features()])]]), list, 20, torch.device("cpu"), {})
    )
    torch.manual_seed(5)
    first = {name: value.clone() for name, value in pieces[0].kept.items()}
    resumed = finish(draw_patches(features(), list, 20, torch.device("cpu"), first))
    for one, other in zip(whole[0][:3], resumed[0][:3], strict=True):
        assert torch.equal(one, other)


def test_a_part_fills_its_share():
    def work():
        yield Prepared(0.0)
        yield Prepared(1.0)
        return "done"

    def whole(found: list[str]):
        found.append((yield from part_of(work(), 0.5, 0.75)))

    found: list[str] = []
    assert [piece.share for piece in whole(found)] == [0.5, 0.75]
    assert found == ["done"]


def test_what_would_not_fit_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"^a memory of 9,000,000,000 patches takes 180\.0 GB, .* lower model\.memory$"):
        Memory(9_000_000_000, 5)
    huge = AllOf([[torch.empty(1, 1, 1).expand(1, 10**9, 500)]])
    with pytest.raises(UserError, match=r"^a sample of 1,000,000,000 patches takes 4000\.0 GB, .*model\.candidates$"):
        next(draw_patches(huge, list, 10**9, torch.device("cpu"), {}))
