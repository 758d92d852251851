"""What every method must satisfy, whatever it computes: each check takes a `Case`, small enough for seconds.

`tests/test_baselines_conformance.py` runs all of them on all methods; docs/add-a-method.md on the one it adds.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omniad.config import ModelSettings, TrainingSettings, load_settings, run_settings, to_yaml
from omniad.models import Method, build_model, load_model, save_model
from omniad.models.anomaly_map import smooth
from omniad.models.checkpoint import METHODS
from omniad.models.method import LeavesOut
from omniad.training.loop import train_step
from omniad.training.state import Position, capture, restore

CPU = torch.device("cpu")
SIZE = 96  # pixels
DEFECT = (slice(28, 68), slice(28, 68))  # rows, columns


@dataclass(frozen=True)
class Case:
    """One method at a size for tests: its model settings, how it is trained here and for how many steps."""

    model: dict[str, Any]
    training: dict[str, Any] = field(default_factory=dict)
    steps: int = 60
    falls_to: float = 0.5  # the loss on four images, after all steps, of that in the first ones
    encoder_gain: float = 1.0  # of its norms: features of random weights are larger than a trained encoder's
    contrast: float = 2.0  # of the planted defect

    def __hash__(self) -> int:
        return id(self)

    @property
    def settings(self) -> ModelSettings:
        return ModelSettings(**self.model)

    @property
    def train_settings(self) -> TrainingSettings:
        return TrainingSettings(**self.training)

    def build(self, seed: int = 0) -> Method:
        torch.manual_seed(seed)
        model = build_model(self.settings)
        model.seed_draws(seed)
        for module in model.encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.data *= self.encoder_gain
        return model


def images(count: int = 4) -> Tensor:
    """Smooth gratings, each its own direction and colour, with a little noise: (count, 3, SIZE, SIZE), normalised."""
    generator = torch.Generator().manual_seed(1)
    across = torch.arange(SIZE) / SIZE
    waves = []
    for number in range(count):
        phase = 2 * torch.pi * (2 + number % 2) * (across[None] * (number % 3) + across[:, None])
        waves.append(torch.stack([torch.sin(phase + number + channel) for channel in range(3)]))
    return torch.stack(waves) + 0.05 * torch.randn(count, 3, SIZE, SIZE, generator=generator)


class AllOf(list[list[Tensor]]):
    """Batches, as the trainer shows all training images to `prepare`."""

    @property
    def images(self) -> int:
        return sum(len(batch[0]) for batch in self)

    @property
    def originals(self) -> range:
        return range(self.images)

    def after(self, images: int) -> Iterator[list[Tensor]]:
        """The same without the first so many images."""
        seen = list(accumulate((len(batch[0]) for batch in self), initial=0))
        return iter(self[seen.index(images) :])


class Training:
    """Preparation and steps, if there are any, of one training on four images, with all of its state."""

    def __init__(self, case: Case):
        self.case, self.settings = case, case.train_settings
        self.model = case.build().train()
        self.optimizers = self.model.make_optimizers(self.settings)
        self.settled = False
        with torch.no_grad():
            for _ in self.model.prepare(AllOf([self.model.encode(images())]), {}):
                pass

    def steps(self, *progress: float) -> list[float]:
        """The losses of a step at each progress."""
        return [] if self.model.training_free else [self._step(done) for done in progress]

    def _step(self, progress: float) -> float:
        if not self.settled:
            self.features = self.model.encode(images())
            self.settled = progress >= self.model.features_settle_at(self.settings)
        return train_step(self.model, self.features, self.optimizers, self.settings, progress)[0].item()

    def run(self) -> list[float]:
        return self.steps(*(number / self.case.steps for number in range(self.case.steps)))

    def state(self) -> bytes:
        """What the trainer would save now."""
        buffer = io.BytesIO()
        torch.save(capture(self.model, self.optimizers, Position(), CPU), buffer)
        return buffer.getvalue()

    def restore(self, state: bytes) -> None:
        restore(torch.load(io.BytesIO(state), weights_only=True), self.model, self.optimizers, CPU)


@cache
def trained(case: Case) -> tuple[Method, list[float]]:
    """A method after all of a case's steps, in eval mode, and its losses."""
    training = Training(case)
    losses = training.run()
    return training.model.eval(), losses


@torch.inference_mode()
def maps_of(model: Method, batch: Tensor) -> Tensor:
    model.seed_draws(0)
    return model.anomaly_maps(model.encode(batch), SIZE)


def check_maps_and_scores_are_finite_and_shaped(case: Case, folder: Path) -> None:
    model = case.build().eval()
    batch = images(3)
    assert all(len(part) == 3 for part in model.encode(batch))
    maps = maps_of(model, batch)
    assert (maps.shape, maps.dtype) == ((3, SIZE, SIZE), torch.float32)
    scores = model.image_scores(maps)
    assert scores.shape == (3,)
    assert torch.isfinite(maps).all()
    assert torch.isfinite(scores).all()
    assert maps[0].std() > 0
    if not model.training_free:
        loss = model.train().loss(model.encode(batch), case.train_settings, 0.0)
        assert (loss.shape, bool(torch.isfinite(loss))) == ((), True)


def check_everything_follows_the_device(case: Case, folder: Path) -> None:
    """A tensor that stays behind on the CPU can't meet one of the meta device, which has shapes and no numbers."""
    model = case.build().to("meta").train()
    features = model.encode(torch.empty(2, 3, SIZE, SIZE, device="meta"))
    for progress in () if model.training_free else (0.0, 0.99):
        assert model.loss(features, case.train_settings, progress).is_meta
    maps = model.eval().anomaly_maps(features, SIZE)
    assert maps.is_meta
    assert model.image_scores(maps).is_meta


def check_a_seed_repeats_a_training(case: Case, folder: Path) -> None:
    first, second = Training(case), Training(case)
    torch.manual_seed(3)
    losses = first.steps(0.0, 0.99)
    torch.manual_seed(3)
    assert second.steps(0.0, 0.99) == losses
    assert same(first.model, second.model)
    assert not same(first.model, case.build(seed=1))
    assert torch.equal(maps_of(first.model.eval(), images()), maps_of(first.model, images()))


def check_a_killed_training_goes_on_bit_for_bit(case: Case, folder: Path) -> None:
    training = Training(case)
    training.steps(0.0)
    state = training.state()
    losses = training.steps(0.1, 0.9)
    resumed = Training(case)
    resumed.steps(0.0)
    torch.manual_seed(99)
    resumed.restore(state)
    assert resumed.steps(0.1, 0.9) == losses
    assert same(resumed.model, training.model)


def check_a_killed_preparation_goes_on_bit_for_bit(case: Case, folder: Path) -> None:
    """Wherever it gave something to keep: the trainer saves that, the model's entries and the random state."""
    model = case.build().train()
    batches = AllOf([model.encode(part) for part in images().split(1)])
    kept_states = []
    with torch.no_grad():
        for _, kept in model.prepare(batches, {}):
            if kept:
                buffer = io.BytesIO()
                torch.save((capture(model, [], Position(), CPU), dict(kept)), buffer)
                kept_states.append(buffer.getvalue())
        for saved in kept_states:
            state, kept = torch.load(io.BytesIO(saved), weights_only=True)
            resumed = case.build(seed=1).train()
            resumed.encoder.load_state_dict(model.encoder.state_dict())
            torch.manual_seed(99)
            restore(state, resumed, [], CPU)
            for _ in resumed.prepare(batches, kept):
                pass
            assert same(resumed, model)


def check_gradients_only_where_trained(case: Case, folder: Path) -> None:
    training = Training(case)
    before = {name: value.clone() for name, value in training.model.encoder.state_dict().items()}
    with_gradient: set[int] = set()
    for progress in (0.0, 0.99):
        training.steps(progress)
        with_gradient |= {id(p) for p in training.model.parameters() if p.grad is not None}
    groups = [group for optimizer in training.optimizers for group in optimizer.param_groups]
    optimized = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(optimized) == len(set(optimized))
    trainable = {id(p) for p in training.model.parameters() if p.requires_grad}
    assert set(optimized) == trainable
    assert with_gradient == trainable
    assert trainable.isdisjoint(id(p) for p in training.model.encoder.parameters())
    assert not any(module.training for module in training.model.encoder.modules())
    assert all(torch.equal(before[name], value) for name, value in training.model.encoder.state_dict().items())


def check_a_saved_model_is_the_same_model(case: Case, folder: Path) -> None:
    model, _ = trained(case)
    run = run_settings(load_settings(), "mvtec", "default").model_copy(update={"model": case.settings})
    save_model(model, case.settings, folder / "model.safetensors")
    (folder / "config.yaml").write_text(to_yaml(run))
    loaded = load_model(folder)
    assert not loaded.training
    assert same(model, loaded)
    torch.testing.assert_close(maps_of(loaded, images()), maps_of(model, images()), rtol=1e-4, atol=1e-6)


def check_an_image_does_not_depend_on_its_batch(case: Case, folder: Path) -> None:
    model, _ = trained(case)
    together = maps_of(model, images())
    alone = torch.cat([maps_of(model, image[None]) for image in images()])
    torch.testing.assert_close(alone, together, rtol=1e-3, atol=1e-5)


def check_an_image_left_out_is_as_if_it_were_new(case: Case, folder: Path) -> None:
    """Where a method can do that: against the same method that has never seen the image, but for what it samples."""
    model, _ = trained(case)
    if not isinstance(model, LeavesOut):
        return
    own = torch.arange(4)
    left_out = model.anomaly_maps(model.encode(images()), SIZE, own)
    seen, strange = maps_of(model, images()), model.anomaly_maps(model.encode(images()), SIZE, own + 100)
    torch.testing.assert_close(strange, seen, rtol=1e-4, atol=1e-5)
    assert (left_out >= seen - 1e-5).all()
    assert (left_out.mean(dim=(1, 2)) > seen.mean(dim=(1, 2))).all()


def check_four_images_are_overfitted(case: Case, folder: Path) -> None:
    _, losses = trained(case)
    few = max(1, len(losses) // 20)
    assert sum(losses[-few:]) <= case.falls_to * sum(losses[:few]), (losses[:few], losses[-few:])


def check_a_large_defect_scores_higher_than_its_background(case: Case, folder: Path) -> None:
    model, _ = trained(case)
    batch = images()
    planted = batch.clone()
    planted[:, :, *DEFECT] = case.contrast * torch.randn(3, 40, 40, generator=torch.Generator().manual_seed(0))
    maps = smooth(maps_of(model, planted), 1.0)
    inside = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    inside[DEFECT] = True
    assert (maps[:, inside].mean(dim=1) > maps[:, ~inside].mean(dim=1)).all()
    assert (model.image_scores(maps) > model.image_scores(smooth(maps_of(model, batch), 1.0))).all()


def same(one: Method, other: Method) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


CHECKS = [check for name, check in list(globals().items()) if name.startswith("check_")]
STEPPING = [check_a_killed_training_goes_on_bit_for_bit, check_four_images_are_overfitted]


def checks_of(case: Case) -> list[Callable[[Case, Path], None]]:
    """All checks, for a method without training steps all but those of its steps."""
    return [check for check in CHECKS if not (METHODS[case.settings.method].training_free and check in STEPPING)]
