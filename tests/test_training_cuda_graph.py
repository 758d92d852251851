"""`training.cuda_graph` without a GPU: a recorder stands in for CUDA's, and does nothing until it is replayed."""

import pytest
import torch

import omniad.training.loop
from omniad.config import TrainingSettings
from omniad.models import OmniAD, build_model
from omniad.models.baselines.stable_adamw import StableAdamW
from omniad.training.cuda_graph import WARM_UP, GraphedStep
from omniad.training.loop import make_step, train_step
from omniad.training.train import train
from tests.training_runs import CPU, TINY, changed, tiles_run

SHAPES = [(2, 8, 16, 16), (2, 16, 8, 8), (2, 32, 4, 4)]  # of the encoder's maps, eight channels wide
TRAINING = TrainingSettings(batch_size=2)


class Recorder:
    """Like a CUDA graph: does nothing when it records, and the same on the same tensors at every replay."""

    def __init__(self):
        self.records = self.replays = 0

    def __call__(self, work):
        self.records += 1
        results = (torch.zeros(()), torch.zeros(()))

        def replay():
            self.replays += 1
            for place, result in zip(results, work(), strict=True):
                place.copy_(result)

        return replay, results


def trained(steps, record=None, rates=None):
    """Weights and losses after some steps, plain or recorded."""
    torch.manual_seed(0)
    model = build_model(TINY).train()
    optimizers = model.make_optimizers(TRAINING)

    def plain(batch, progress):
        return train_step(model, batch, optimizers, TRAINING, progress)

    step = GraphedStep(model, plain, optimizers, record) if record else plain
    losses = []
    for number in range(steps):
        for group in optimizers[0].param_groups:
            group["lr"] = (rates or {}).get(number, group["lr"])
        losses.append(step([torch.randn(*shape) for shape in SHAPES], 0.0)[0])
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach(), torch.stack(losses), step


def test_replayed_steps_are_the_same_updates():
    recorder = Recorder()
    weights, losses, _ = trained(WARM_UP + 4)
    replayed, found, _ = trained(WARM_UP + 4, recorder)
    assert (recorder.records, recorder.replays) == (1, 4)
    assert torch.equal(found, losses)  # also: no loss is overwritten by a later replay
    assert torch.equal(replayed, weights)


def test_a_rate_that_drops_is_recorded_anew():
    recorder = Recorder()
    rates = {WARM_UP + 2: 1e-5}
    weights, losses, _ = trained(WARM_UP + 4, rates=rates)
    replayed, found, _ = trained(WARM_UP + 4, recorder, rates)
    assert (recorder.records, recorder.replays) == (2, 4)
    assert torch.equal(found, losses) and torch.equal(replayed, weights)


def test_what_cannot_be_recorded_goes_on_without(caplog):
    def refuse(work):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    weights, losses, _ = trained(WARM_UP + 3)
    found, same, step = trained(WARM_UP + 3, refuse)
    assert torch.equal(found, weights) and torch.equal(same, losses)
    assert step.failure == "operation not permitted when stream is capturing"
    assert caplog.messages == [
        "training.cuda_graph: this step can't be recorded (operation not permitted when stream is capturing); "
        "training without a graph"
    ]


def test_an_optimizer_that_counts_in_python_is_never_recorded():
    """Its numbers of the recorded step would be those of all later ones."""
    model = build_model(TINY).train()
    optimizers: list[torch.optim.Optimizer] = [StableAdamW(model.parameters(), 1e-3)]
    recorder = Recorder()

    def plain(batch, progress):
        return train_step(model, batch, optimizers, TRAINING, progress)

    step = GraphedStep(model, plain, optimizers, recorder)
    for _ in range(WARM_UP + 2):
        step([torch.randn(*shape) for shape in SHAPES], 0.0)
    assert not recorder.records and step.failure == "its optimizer counts its steps in Python"


def test_the_optimizers_flag_is_set_for_the_recording_alone():
    flags = []

    def record(work):
        flags.append(optimizers[0].param_groups[0]["capturable"])
        return Recorder()(work)

    model = build_model(TINY).train()
    optimizers = model.make_optimizers(TRAINING)
    step = GraphedStep(
        model,
        lambda batch, progress: train_step(model, batch, optimizers, TRAINING, progress),
        optimizers,
        record,
    )
    for _ in range(WARM_UP + 1):
        step([torch.randn(*shape) for shape in SHAPES], 0.0)
    assert flags == [True] and optimizers[0].param_groups[0]["capturable"] is False


def test_a_draw_for_each_replay_and_none_for_the_recording(monkeypatch):
    """The `released` reading: nothing is drawn while a step is recorded; the CPU draws before each replay."""
    torch.manual_seed(0)
    model = build_model({**TINY, "variant": "released"}).train()
    assert isinstance(model, OmniAD)
    optimizers = model.make_optimizers(TRAINING)
    drawn, draw = [], model.projections.draw
    in_replay = []

    def count(device):
        if not in_replay:  # as is_current_stream_capturing tells on a GPU
            draw(device)
            drawn.append(model.decoder.stages[0].blocks[0].global_branch.first.output.layers[0].clone())  # type: ignore

    def record(work):
        replay, results = Recorder()(work)

        def alone():
            in_replay.append(True)
            replay()
            in_replay.pop()

        return alone, results

    def plain(batch, progress):
        return train_step(model, batch, optimizers, TRAINING, progress)

    monkeypatch.setattr(model.projections, "draw", count)
    step = GraphedStep(model, plain, optimizers, record)
    for number in range(WARM_UP + 3):
        step([torch.randn(*shape) for shape in SHAPES], 0.0)
        assert len(drawn) == number + 1
    assert len({tuple(layer.flatten().tolist()) for layer in drawn}) == WARM_UP + 3


@pytest.fixture
def run(tmp_path):
    return tiles_run(tmp_path)


def test_a_training_that_is_resumed_records_anew_and_ends_the_same(run, tmp_path, monkeypatch):
    """Bit for bit: a new process warms up again, which changes no number."""
    recorders = []

    def make(model, optimizers, training, device):
        recorders.append(Recorder())
        return GraphedStep(model, plain(model, optimizers, training, device), optimizers, recorders[-1])

    class Killed(BaseException):
        pass

    def dies(model, optimizers, training, device):
        step, left = make(model, optimizers, training, device), iter(range(5))

        def work(batch, progress):
            if next(left, None) is None:
                raise Killed
            return step(batch, progress)

        return work

    plain = make_step
    run = changed(run, save_every_s=0.0)
    train(run, 0, tmp_path / "plain", CPU)
    monkeypatch.setattr(omniad.training.loop, "make_step", make)
    train(run, 0, tmp_path / "whole", CPU)
    monkeypatch.setattr(omniad.training.loop, "make_step", dies)
    with pytest.raises(Killed):
        train(run, 0, tmp_path / "killed", CPU)
    monkeypatch.setattr(omniad.training.loop, "make_step", make)
    train(run, 0, tmp_path / "killed", CPU)
    assert [recorder.replays for recorder in recorders] == [7, 2, 2]  # ten steps; five; five
    expected = (tmp_path / "plain" / "model.safetensors").read_bytes()
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == expected
    assert (tmp_path / "killed" / "model.safetensors").read_bytes() == expected


def test_it_is_off_on_a_cpu_and_told_where_steps_differ(run, caplog):
    training = changed(run, cuda_graph=True).training
    assert not isinstance(make_step(build_model(run.model), [], training, CPU), GraphedStep)
    assert caplog.messages == []
    differing = build_model(run.model.model_copy(update={"method": "destseg"}))
    assert not isinstance(make_step(differing, [], training, torch.device("cuda")), GraphedStep)
    assert caplog.messages == [
        "training.cuda_graph: the steps of destseg differ from each other; training without a graph"
    ]
    assert isinstance(make_step(build_model(run.model), [], training, torch.device("cuda")), GraphedStep)
