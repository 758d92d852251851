"""What the demo's default run reaches on each miniature, and that neither random features nor no training does."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from omniad.config import CONFIG_FOLDER, RunSettings, load_settings, run_settings
from omniad.data.index import write_index
from omniad.data.pack_writer import write_pack
from omniad.evaluation.evaluate import evaluate
from omniad.miniature import write_miniature
from omniad.training.train import train

FLOORS = {"I-AUROC": 0.90, "P-AUROC": 0.92, "P-AP": 0.50}  # mean over classes


def packed(dataset: str, root: Path) -> RunSettings:
    """The demo's default run on a miniature, and its pack."""
    demo = run_settings(load_settings(CONFIG_FOLDER / "demo.yaml"), dataset, "default")
    source = demo.source.model_copy(update={"folder": str(root / "raw")})
    data = demo.data.model_copy(update={"prepared": str(root / "prepared")})
    write_miniature(source.layout, root / "raw")
    pack = data.pack_folder(dataset)
    write_index(source, pack.parent / "index.csv")
    write_pack(source, pack.parent / "index.csv", pack, data.image_size)
    return demo.model_copy(update={"source": source, "data": data})


def means(settings: RunSettings, run_dir: Path) -> dict[str, float]:
    train(settings, 0, run_dir, torch.device("cpu"))
    evaluate(run_dir, torch.device("cpu"))
    table = pd.read_csv(run_dir / "metrics.csv")
    rows = table[(table["class"] == "mean") & (table["definition"] == "exact")]
    return dict(zip(rows["metric"], rows["value"], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["mvtec", "visa", "realiad"])
def test_the_trained_demo_is_above_every_floor(dataset, tmp_path):
    found = means(packed(dataset, tmp_path), tmp_path / "run")
    assert all(found[metric] >= floor for metric, floor in FLOORS.items()), found


@pytest.fixture(scope="module")
def visa(tmp_path_factory):
    return packed("visa", tmp_path_factory.mktemp("demo"))


def test_a_random_encoder_stays_below_every_floor(visa, tmp_path):
    model = visa.model.model_copy(update={"encoder_weights": "random"})
    found = means(visa.model_copy(update={"model": model}), tmp_path / "run")
    assert all(found[metric] < floor for metric, floor in FLOORS.items()), found


def test_an_untrained_decoder_stays_below_every_floor(visa, tmp_path):
    # One epoch at a vanishing rate: weights as they were drawn, BatchNorm statistics of the data.
    still = visa.training.model_copy(update={"epochs": 1, "learning_rate": 1e-12})
    found = means(visa.model_copy(update={"training": still}), tmp_path / "run")
    assert all(found[metric] < floor for metric, floor in FLOORS.items()), found
