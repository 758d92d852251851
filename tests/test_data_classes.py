"""`classes` of a data set: index, counts, plan, preflight, titles and verdicts follow; a wrong name is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from omniad.config import CONFIG_FOLDER, Settings, load_settings, run_settings
from omniad.data.counts import class_counts, expected_counts, read_counts, subset_text
from omniad.data.index import read_index, write_index
from omniad.data.pack_writer import write_pack
from omniad.data.packs import open_pack
from omniad.data.preflight import preflight
from omniad.data.remote import hub_names
from omniad.errors import UserError
from omniad.miniature import write_miniature
from omniad.reporting.verdicts import not_comparable
from omniad.runs.finished import FinishedRun, differences
from omniad.training.plan import training_images

TWO = ["bottle", "pill"]


def chosen(classes: list[str], dataset: str = "mvtec", **command_line) -> Settings:
    return load_settings(command_line={"datasets": [dataset], "classes": classes, **command_line})


def test_counts_and_plan_are_those_of_the_chosen_classes(tmp_path):
    """By hand from MVTec-AD's paper: bottle has 209 training images, pill 267; 83 and 167 test images."""
    settings = chosen(TWO, data={"prepared": str(tmp_path)})
    run = run_settings(settings, "mvtec", "default")
    assert class_counts(run.source, "train") == {"bottle": 209, "pill": 267}
    assert class_counts(run.source, "test") == {"bottle": 83, "pill": 167}
    assert training_images(run) == 209 + 267
    assert subset_text(run.source) == "2 of 15 classes"


def test_at_the_top_and_in_a_source_it_is_the_same(tmp_path):
    overlay = tmp_path / "two.yaml"
    overlay.write_text(yaml.safe_dump({"datasets": ["mvtec"], "classes": TWO}))
    other = tmp_path / "source.yaml"
    other.write_text(yaml.safe_dump({"datasets": ["mvtec"], "sources": {"mvtec": {"classes": TWO}}}))
    assert load_settings(overlay) == load_settings(other) == chosen(TWO)
    assert chosen(TWO).sources["visa"].classes == []  # only data sets in use


@pytest.mark.parametrize(
    ("classes", "told"),
    [(["bottel"], "unknown 'bottel'; choose from: bottle, cable"), (["bottle", "bottle"], "anything twice")],
)
def test_a_wrong_name_is_told_before_anything_starts(classes, told):
    with pytest.raises(UserError, match=told) as caught:
        settings = chosen(classes)
        preflight({"mvtec": settings.sources["mvtec"]}, [], settings.data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("datasets: 3", r"'datasets' should be a list, as \[3\], not 3"),
        ("datasets: [mvtec]\nsources: {mvtec: 3}", "'sources.mvtec' should be .* not 3"),
    ],
)
def test_classes_beside_another_mistake_do_not_hide_it(tmp_path, text, told):
    (tmp_path / "overlay.yaml").write_text(f"classes: [bottle]\n{text}\n")
    with pytest.raises(UserError, match=told):
        load_settings(tmp_path / "overlay.yaml")


def test_classes_are_those_of_the_default_data_sets_where_none_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("omniad.config.reading.CONFIG_FOLDER", tmp_path / "outside a checkout")
    sources = {
        name: {"title": name, "layout": "mvtec", "folder": name} for name in ("mvtec", "visa", "realiad", "mine")
    }
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump({"classes": ["bottle"], "sources": sources}))
    found = load_settings(tmp_path / "whole.yaml").sources
    assert {name for name, source in found.items() if source.classes} == {"mvtec", "visa", "realiad"}


def test_classes_of_another_data_set_in_use_are_told():
    settings = load_settings(command_line={"datasets": ["mvtec", "visa"], "classes": TWO})
    with pytest.raises(UserError, match="classes of VisA: unknown 'bottle'; choose from: candle"):
        expected_counts(settings.sources["visa"])


def test_only_their_archives_are_fetched_from_the_hub():
    settings = chosen(["toy", "usb"], "realiad")
    names = ["realiad_jsons.zip", "realiad_1024/toy.zip", "realiad_1024/usb.zip"]
    assert hub_names(settings.sources["realiad"]) == names
    assert len(hub_names(load_settings().sources["realiad"])) == 31


@pytest.fixture(scope="module")
def miniatures(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("raw")
    for layout in ("mvtec", "visa", "realiad"):
        write_miniature(layout, root / layout)
    return root


@pytest.mark.parametrize("layout", ["mvtec", "visa", "realiad"])
def test_index_and_pack_hold_them_alone(miniatures, layout, tmp_path):
    source = load_settings(CONFIG_FOLDER / "demo.yaml").sources[layout]
    source = source.model_copy(update={"folder": str(miniatures / layout)})
    write_index(source, tmp_path / "all" / "index.csv")
    everything = read_index(tmp_path / "all" / "index.csv")
    name = sorted(set(everything["class"]))[1]
    one = source.model_copy(update={"classes": [name]})
    write_index(one, tmp_path / "one" / "index.csv")
    index = read_index(tmp_path / "one" / "index.csv")
    assert index.to_numpy().tolist() == everything.loc[everything["class"] == name].to_numpy().tolist()
    assert 0 < len(index) < len(everything)
    write_pack(one, tmp_path / "one" / "index.csv", tmp_path / "one" / "64", 64)
    assert len(open_pack(tmp_path / "one" / "64").images) == len(index)
    unknown = source.model_copy(update={"classes": ["nothing"]})
    with pytest.raises(UserError, match=rf"classes of .*: unknown 'nothing'; choose from: .*{name}"):
        write_index(unknown, tmp_path / "none" / "index.csv")
    assert not (tmp_path / "none" / "index.csv").exists()


def test_a_table_of_counts_still_tells_what_is_missing_of_a_chosen_class(miniatures, tmp_path):
    counts = tmp_path / "counts.csv"
    source = load_settings(CONFIG_FOLDER / "demo.yaml").sources["mvtec"]
    source = source.model_copy(update={"folder": str(miniatures / "mvtec"), "miniature": False, "counts": str(counts)})
    classes = sorted(path.name for path in (miniatures / "mvtec").iterdir() if (path / "train").is_dir())
    counts.write_text("class,split,defect,images\n" + "".join(f"{name},train,good,999\n" for name in classes))
    assert len(read_counts(str(counts), []) or {}) == len(classes)
    with pytest.raises(UserError) as told:
        write_index(source.model_copy(update={"classes": classes[:1]}), tmp_path / "index.csv")
    assert f"{classes[0]}, train good: " in str(told.value)
    assert classes[1] not in str(told.value)


def finished(classes: list[str]) -> FinishedRun:
    return FinishedRun(
        Path("runs/mvtec/default/seed0"), "mvtec", "default", 0, run_settings(chosen(classes), "mvtec", "default")
    )


def test_a_run_on_a_subset_is_named_so_and_not_judged():
    run = finished(TWO)
    assert run.title == "MVTec-AD (2 of 15 classes)"
    assert not_comparable([run], load_settings()) == "only 2 of 15 classes"
    assert not_comparable([finished([])], load_settings()) == ""
    assert finished([]).title == "MVTec-AD"
    assert differences(run.settings, finished([]).settings) == ["source.classes ['bottle', 'pill'] instead of []"]
