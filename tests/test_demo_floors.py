"""The demo's accuracies must come from trained features: without them its floors are out of reach."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from omniad.config import CONFIG_FOLDER, load_settings, run_settings
from omniad.data.index import write_index
from omniad.data.pack_writer import write_pack
from omniad.evaluation.evaluate import evaluate
from omniad.miniature import write_miniature
from omniad.training.train import train

FLOORS = {"I-AUROC": 0.80, "P-AUROC": 0.83, "P-AP": 0.35}  # of the demo's default run, mean over classes


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """The demo's default run on the VisA miniature, with a random encoder, and its pack."""
    root = tmp_path_factory.mktemp("demo")
    demo = run_settings(load_settings(CONFIG_FOLDER / "demo.yaml"), "visa", "default")
    source = demo.source.model_copy(update={"folder": str(root / "raw")})
    data = demo.data.model_copy(update={"prepared": str(root / "prepared")})
    model = demo.model.model_copy(update={"encoder_weights": "random"})
    write_miniature("visa", root / "raw")
    pack = data.pack_folder("visa")
    write_index(source, pack.parent / "index.csv")
    write_pack(source, pack.parent / "index.csv", pack, data.image_size)
    return demo.model_copy(update={"source": source, "data": data, "model": model})


def means(settings, run_dir: Path) -> dict[str, float]:
    train(settings, 0, run_dir, torch.device("cpu"))
    evaluate(run_dir, torch.device("cpu"))
    table = pd.read_csv(run_dir / "metrics.csv")
    rows = table[(table["class"] == "mean") & (table["definition"] == "exact")]
    return dict(zip(rows["metric"], rows["value"], strict=True))


@pytest.mark.slow
def test_a_random_encoder_stays_below_every_floor(settings, tmp_path):
    found = means(settings, tmp_path / "run")
    assert all(found[metric] < floor for metric, floor in FLOORS.items()), found


def test_an_untrained_decoder_stays_below_every_floor(settings, tmp_path):
    # One epoch at a vanishing rate: weights as they were drawn, BatchNorm statistics of the data.
    still = settings.training.model_copy(update={"epochs": 1, "learning_rate": 1e-12})
    found = means(settings.model_copy(update={"training": still}), tmp_path / "run")
    assert all(found[metric] < floor for metric, floor in FLOORS.items()), found
