"""The miniatures: their layouts' traps, exact masks, disjoint areas, the same bytes from the same seed."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from omniad.commands.data import LAYOUTS
from omniad.config import SourceSettings
from omniad.data.index import read_index, write_index
from omniad.errors import UserError
from omniad.miniature import photographs, scenes, write_miniature, writers

ALL = [(layout, name, spec) for layout, specs in scenes.CLASSES.items() for name, spec in specs.items()]
KINDS = [(layout, name, spec, defect) for layout, name, spec in ALL for defect in spec.defects]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The miniatures with few images: 1 in training, 1 good and 6 defective, or 1, 1 and 2 specimens."""
    root = tmp_path_factory.mktemp("miniatures")
    with pytest.MonkeyPatch.context() as patch:
        few = {"train": 1, "good": 1, "defective": 6}
        patch.setattr(writers, "MVTEC_COUNTS", few)
        patch.setattr(writers, "AD_2_COUNTS", few | {"validation": 1, "private": 2})
        patch.setattr(writers, "LOCO_COUNTS", few | {"validation": 1})
        patch.setattr(writers, "VISA_COUNTS", few)
        patch.setattr(writers, "REALIAD_COUNTS", {"train": 1, "good": 1, "defective": 2})
        for layout in scenes.CLASSES:
            write_miniature(layout, root / layout)
            write_miniature(layout, root / "again" / layout)
        write_miniature("realiad", root / "other_seed", seed=1)
    return root


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def index_of(folder, layout):
    source = SourceSettings(title=layout, layout=layout, folder=str(folder / layout), miniature=True)
    write_index(source, folder / f"{layout}.csv")
    return read_index(folder / f"{layout}.csv")


@pytest.mark.parametrize("layout", list(scenes.CLASSES))
def test_the_same_seed_gives_the_same_bytes(folder, layout):
    first = files_of(folder / layout)
    assert len(first) > 10
    assert first == files_of(folder / "again" / layout)


def test_another_seed_gives_other_images(folder):
    images = {path: content for path, content in files_of(folder / "realiad").items() if path.suffix == ".jpg"}
    other = files_of(folder / "other_seed")
    assert all(other[path] != content for path, content in images.items())


def test_the_command_knows_every_layout():
    assert set(LAYOUTS) == set(writers.WRITERS)


def test_an_unknown_layout_is_refused(tmp_path):
    with pytest.raises(UserError, match="unknown layout 'coco'; choose from: mvtec, mvtec_ad_2, mvtec_loco"):
        write_miniature("coco", tmp_path)


def test_mvtec_has_single_channel_images_and_masks_named_by_stem(folder):
    index = index_of(folder, "mvtec")
    assert index.groupby(["split", "label"]).size().to_dict() == {("test", 0): 6, ("test", 1): 36, ("train", 0): 6}
    modes = {}
    for name in scenes.MVTEC:
        with Image.open(folder / "mvtec" / name / "train/good/000.png") as image:
            modes[name] = image.mode
    assert modes == {name: "L" if spec.grey else "RGB" for name, spec in scenes.MVTEC.items()}
    assert set(modes.values()) == {"L", "RGB"}
    bad = index[index["label"] == 1]
    assert all(
        mask.endswith(f"/{image.split('/')[-1][:-4]}_mask.png")
        for image, mask in zip(bad["image"], bad["mask"], strict=True)
    )
    values = np.unique(np.asarray(Image.open(folder / "mvtec" / next(iter(bad["mask"])))))
    assert values.tolist() == [0, 255]


def test_mvtec_ad_2_has_lights_in_its_names_and_images_without_labels(folder):
    index = index_of(folder, "mvtec_ad_2")
    sizes = index.groupby(["split", "defect"]).size().to_dict()
    lights = len(writers.LIGHTS)
    assert sizes == {
        ("test", "bad"): 2 * 6 * lights,
        ("test", "good"): 2 * lights,
        ("train", "good"): 2,
        ("validation", "good"): 2,
    }
    private = sorted(path.name for path in (folder / "mvtec_ad_2/weave").glob("test_private*/*"))
    assert private == ["000_mixed.png", "000_regular.png", "001_mixed.png", "001_regular.png"]
    assert not index["image"].str.contains("private").any()
    bad = index[index["label"] == 1]
    for image, mask in zip(bad["image"], bad["mask"], strict=True):
        assert mask == image.replace("/bad/", "/ground_truth/bad/").replace(".png", "_mask.png")


def test_mvtec_loco_has_a_folder_of_masks_an_image_and_a_level_a_kind(folder):
    index = index_of(folder, "mvtec_loco")
    bad = index[index["label"] == 1]
    assert set(bad["defect"]) == {"logical_anomalies", "structural_anomalies"}
    masks = [sorted((folder / "mvtec_loco" / mask).iterdir()) for mask in bad["mask"]]
    assert {len(files) for files in masks} == {1, 2}
    levels = [np.unique(np.asarray(Image.open(file))).tolist() for files in masks for file in files]
    assert {(low, high) for low, high in levels} == {(0, 255 - kind) for kind in range(5)}
    assert index["split"].tolist().count("validation") == len(scenes.MVTEC_LOCO)


def test_visa_repeats_names_and_its_masks_hold_class_ids(folder):
    index = index_of(folder, "visa")
    names = {path.name for path in (folder / "visa/board/Data/Images/Normal").iterdir()}
    assert names & {path.name for path in (folder / "visa/board/Data/Images/Anomaly").iterdir()}
    assert {name[-4:] for name in names} == {".JPG"}
    with (folder / "visa/split_csv/1cls.csv").open() as file:
        assert next(csv.reader(file)) == ["object", "split", "label", "image", "mask"]
    largest = {int(np.asarray(Image.open(folder / "visa" / mask)).max()) for mask in index["mask"] if mask}
    assert largest == {1, 2, 3, 4, 5}
    assert list(index["label"]).count(1) == 6 * len(scenes.VISA)


def test_realiad_has_normal_images_in_ng_folders_and_five_views(folder):
    index = index_of(folder, "realiad")
    in_ng = index[index["image"].str.contains("/NG/")]
    # A specimen has five views, and the defect can't be seen in one of them.
    assert in_ng.groupby("class")["label"].agg(["size", "sum"]).to_numpy().tolist() == [[10, 8]] * 3
    assert set(index[index["image"].str.contains("/OK/")]["label"]) == {0}
    views = index["image"].str.extract(r"_(C\d)_")[0]
    assert views.value_counts().to_dict() == {f"C{number}": 3 * 4 for number in range(1, 6)}
    bad = index[index["label"] == 1]
    assert all(mask == image[:-4] + ".png" for image, mask in zip(bad["image"], bad["mask"], strict=True))
    content = json.loads((folder / "realiad/realiad_jsons/realiad_jsons/plug.json").read_text())
    assert content["meta"] == {"prefix": "plug/", "normal_class": "OK", "pre_transform": False}
    assert {entry["mask_path"] for entry in content["train"]} == {None}


@pytest.mark.parametrize(("layout", "name", "spec", "defect"), KINDS, ids=[f"{k[1]}-{k[3]}" for k in KINDS])
def test_a_defect_changes_its_mask_and_nothing_else(layout, name, spec, defect):
    shares = []
    for seed in range(3):
        image, clean, mask = scenes.make_example(spec, "test", defect, np.random.default_rng(seed))
        change = np.abs(image.astype(int) - clean).max(axis=2)
        assert not change[~mask].any()
        assert (change[mask] > 5).mean() > 0.5
        shares.append(mask.mean())
    assert min(shares) > 0.01
    assert max(shares) < 0.15


def test_defects_cover_about_six_percent_of_a_defective_image():
    masks = [scenes.make_example(spec, "test", defect, np.random.default_rng(7)).mask for _, _, spec, defect in KINDS]
    assert 0.04 < np.mean(masks) < 0.08


def test_a_good_image_has_no_defect():
    for _, _, spec in ALL:
        image, clean, mask = scenes.make_example(spec, "test", "good", np.random.default_rng(0))
        assert not mask.any()
        assert np.array_equal(image, clean)


@pytest.mark.parametrize("name", list(photographs.FILES))
def test_training_and_test_area_share_no_pixel(name):
    shape = photographs._photograph(name).shape[:2]
    times_used = np.zeros(shape, dtype=int)
    for split in ("train", "test"):
        left, top, right, bottom = photographs.area_box(name, split)
        times_used[top:bottom, left:right] += 1
        assert photographs.area(name, split).shape[:2] == (bottom - top, right - left)
    assert times_used.max() == 1
    assert times_used.mean() > 0.9


@pytest.fixture
def marked_photographs(monkeypatch):
    """Every photograph black in its training area, light in its test area: what is made tells of what."""
    splits = ("train", "test")
    boxes = {(name, split): photographs.area_box(name, split) for name in photographs.FILES for split in splits}
    real = photographs._photograph

    def marked(name):
        picture = np.full(real(name).shape, 90, dtype=np.uint8)
        for split, shade in (("train", 0), ("test", 200)):
            left, top, right, bottom = boxes[name, split]
            picture[top:bottom, left:right] = shade
        return picture

    photographs.area.cache_clear()
    monkeypatch.setattr(photographs, "_photograph", marked)
    yield
    photographs.area.cache_clear()


def test_training_images_see_training_areas_only(marked_photographs):
    for _, _, spec in ALL:
        if spec.photograph:
            for seed in range(20):
                assert scenes.make_example(spec, "train", "good", np.random.default_rng(seed)).image.max() == 0
                assert scenes.make_example(spec, "test", "good", np.random.default_rng(seed)).image.min() > 60
    assert all(coin.max() == 0 for coin in photographs.coins("train"))
    assert all(coin.min() == 200 for coin in photographs.coins("test"))


def test_foreign_matter_of_test_defects_comes_from_test_areas(marked_photographs, monkeypatch):
    taken = []
    monkeypatch.setitem(scenes.KINDS, "contamination", lambda site: taken.append(site.foreign) or site.image)
    for seed in range(20):
        scenes.make_example(scenes.MVTEC["gear"], "test", "contamination", np.random.default_rng(seed))
    assert len(taken) == 20
    assert all(foreign.min() == 200 for foreign in taken)


def test_the_coins_are_where_the_table_says():
    coins = {split: photographs.coins(split) for split in ("train", "test")}
    assert [len(found) for found in coins.values()] == [12, 12]
    for coin in (*coins["train"], *coins["test"]):
        y, x = np.mgrid[: len(coin), : len(coin)] - (len(coin) - 1) / 2
        r = np.hypot(x, y) / (len(coin) / 2)
        assert coin[r < 0.9].mean() > coin[r > 1.1].mean() + 30  # a coin is lighter than the cloth
