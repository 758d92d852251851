"""The plan of a target against sums done by hand from published counts and printed complexity."""

import json
import time

import pytest
import torch

from omniad.cli import main
from omniad.config import Settings, load_settings, merge, run_settings
from omniad.errors import UserError
from omniad.models import build_model
from omniad.runs.files import RunName
from omniad.training import cost
from omniad.training.cost import (
    ASSUMED_SHARE,
    KERNEL_WORK,
    card_speed,
    measured_speed,
    scan_work,
    training_bytes,
    training_hours,
    training_work,
)
from omniad.training.loop import train_step
from omniad.training.plan import plan_target

NECK, DECODER = 268_713_984, 6_933_479_424  # multiply-adds of the released reading, measured on the authors' code
SPEED = 1e12


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    values = merge(load_settings().model_dump(), {"results": str(tmp_path / "results"), "datasets": ["mvtec"]})
    return Settings.model_validate(values)


def hours(settings: Settings) -> float:
    return plan_target(settings, "table1_released", SPEED).hours_left


def test_a_training_costs_three_forward_passes_of_what_is_trained(settings):
    run = run_settings(settings, "mvtec", "released")
    assert training_work(run) == 3 * (NECK + DECODER)
    [planned] = plan_target(settings, "table1_released", SPEED).runs
    assert (planned.epochs, planned.images, planned.seeds, planned.trained) == (1000, 3629, 3, 0)
    assert planned.hours_each == pytest.approx(3 * (NECK + DECODER) * 3629 * 1000 / SPEED / 3600)


def test_what_is_done_is_not_left(settings, tmp_path):
    whole = hours(settings)
    folder = tmp_path / "results/runs/mvtec/released"
    (folder / "seed0").mkdir(parents=True)
    (folder / "seed0" / "model.safetensors").touch()
    assert hours(settings) == pytest.approx(whole * 2 / 3)
    (folder / "seed1" / "state").mkdir(parents=True)
    (folder / "seed1" / "state" / "progress.json").write_text(
        json.dumps({"epoch": 1, "epochs": 4, "step": 25, "steps": 100, "updated": "2026-01-01T00:00:00+00:00"})
    )
    assert hours(settings) == pytest.approx(whole * (0.75 + 1) / 3)
    [planned] = plan_target(settings, "table1_released", SPEED).runs
    assert (planned.trained, planned.begun) == (1, 1)


def test_diads_cost_is_told(settings, monkeypatch, capsys):
    """A fifth of the epochs is the autoencoder's, the rest one denoising step each; memory and weights by hand."""
    run = run_settings(settings, "mvtec", "diad")
    assert training_work(run) == pytest.approx(3 * (0.2 * 448.4e9 + 0.8 * 123.2e9), rel=0.01)
    weights = 859_520_964 + 361_279_120 + 110_592_000 + 83_653_863 + 8_543_296
    trained = 982_679_124 - 4 * (320**2 + 320) - 2 * (640**2 + 640) + 83_653_863
    assert training_bytes(run) == 4 * weights + 12 * trained
    monkeypatch.setattr("omniad.training.plan.target_names", lambda *_: [RunName("mvtec", "diad", 0)])
    assert main(["plan", "table1_baselines", "--card", "A100"]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("mvtec")]
    assert line.split()[1:4] == ["diad", "1250", "3629"]
    assert float(line.split()[-1]) >= round((4 * weights + 12 * trained) / 2**30, 1)  # activations come on top


def test_weights_that_are_not_there_are_downloaded(settings, monkeypatch, tmp_path):
    archive = 5_264_982_680
    monkeypatch.setattr("omniad.training.plan.target_names", lambda *_: [RunName("mvtec", "diad", 0)])
    assert plan_target(settings, "table1_baselines", SPEED).download == archive + 7_703_324_286
    (tmp_path / "data" / "weights").mkdir(parents=True)
    (tmp_path / "data" / "weights" / "v1-5-pruned.safetensors").touch()
    assert plan_target(settings, "table1_baselines", SPEED).download == archive


def test_mambaads_scan_is_counted_by_hand(settings):
    """Widths and sides of the stages: blocks x 8 directions x twice the width x positions x 16 states."""
    run = run_settings(settings, "mvtec", "mambaad")
    stages = [(3, 512, 8), (4, 256, 16), (6, 128, 32), (3, 64, 64)]
    steps = sum(blocks * 8 * 2 * width * side**2 * 16 for blocks, width, side in stages)
    assert scan_work(run) == steps
    assert scan_work(run_settings(settings, "mvtec", "default")) == 0
    rest = training_work(run) / SPEED
    plain = training_hours(run, 3629, SPEED, plain_scan=1e7)
    assert plain == pytest.approx((rest + steps / 1e7) * 3629 * 1000 / 3600)
    assert training_hours(run, 3629, SPEED) == pytest.approx((rest + KERNEL_WORK * steps / SPEED) * 3629 * 1000 / 3600)
    [planned] = [p for p in plan_target(settings, "table1_baselines", SPEED, 1e7).runs if p.run == "mambaad"]
    assert planned.hours_each == pytest.approx(plain)


def test_a_full_mambaad_is_refused_where_its_scan_takes_days(settings, monkeypatch):
    run, cpu, gpu = run_settings(settings, "mvtec", "mambaad"), torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(cost, "usable_cores", lambda: 4)
    days = scan_work(run) * 3629 * 1000 / (4 * cost.PLAIN_STEPS_A_CORE) / 86400
    with pytest.raises(UserError, match=rf"mvtec/mambaad.* about {days:,.0f} days on this CPU.*--force"):
        cost.refuse_plain_scan(run, 3629, cpu)
    monkeypatch.setattr(cost, "has_kernel", lambda: False)
    with pytest.raises(UserError, match="on this GPU"):
        cost.refuse_plain_scan(run, 3629, gpu)
    monkeypatch.setattr(cost, "has_kernel", lambda: True)
    cost.refuse_plain_scan(run, 3629, gpu)
    cost.refuse_plain_scan(run_settings(settings, "mvtec", "rd4ad"), 3629, cpu)
    small = run.model.model_copy(update={"encoder_width": 8, "depths": [1, 1, 1, 1]})
    few = run.training.model_copy(update={"epochs": 5})
    cost.refuse_plain_scan(run.model_copy(update={"model": small, "training": few}), 50, cpu)


@pytest.mark.parametrize(("seconds", "fastest", "runs"), [([9, 0.2, 0.1, 0.3], 0.2, 2), ([0.2, 0.3, 0.1, 0.2], 0.1, 4)])
def test_a_slow_piece_is_timed_once_after_its_warm_up(monkeypatch, seconds, fastest, runs):
    now, left = [0.0], iter(seconds)

    def piece() -> None:
        now[0] += next(left)

    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])
    assert cost._fastest(piece) == pytest.approx(fastest)
    assert len(list(left)) == 4 - runs


def test_download_and_disk(settings, tmp_path):
    plan = plan_target(settings, "table1", SPEED)
    archive, packs, features = 5_264_982_680, 3629 + 1725, 3629 * 0.92e6
    assert plan.download == archive
    runs = 3 * 30e6 * 8
    assert plan.disk == pytest.approx(2.1 * archive + packs * 256 * 256 * 4 + features + runs, rel=0.01)
    (tmp_path / "data/mvtec").mkdir(parents=True)
    (tmp_path / "data/mvtec/file").touch()
    assert plan_target(settings, "table1", SPEED).download == 0


def test_typos_name_what_there_is(settings):
    with pytest.raises(UserError, match="unknown 'table9'"):
        plan_target(settings, "table9", SPEED)
    with pytest.raises(UserError, match="unknown 'A1000'; choose from: T4"):
        card_speed("A1000")
    assert card_speed("A100") == ASSUMED_SHARE * 19.5e12 / 2


def test_the_command_tells_a_cards_hours(capsys):
    assert main(["plan", "table1", "--card", "A100"]) == 0
    told = capsys.readouterr().out
    assert "table1: 9 trainings" in told
    assert "one A100 (by its data sheet, not measured)" in told


@pytest.mark.slow
def test_the_measured_speed_predicts_a_training_step(settings):
    """The estimate for another model than the one that was measured is within four times of its real step."""
    run = run_settings(settings, "mvtec", "depths_2_2_2_2")
    predicted = 2 * training_work(run) / measured_speed(torch.device("cpu"), steps=2)
    batch = [torch.rand(2, channels, side, side) for channels, side in ((64, 64), (128, 32), (256, 16))]
    model = build_model(run.model).train()
    optimizers = model.make_optimizers(run.training)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        train_step(model, batch, optimizers, run.training, 0.0)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) / 4 < predicted < 4 * min(seconds)
