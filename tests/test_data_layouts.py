"""MVTec AD 2 and MVTec LOCO AD: read, found, and everything that can be wrong with them told in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from omniad.config import SourceSettings, load_settings
from omniad.data.counts import expected_counts
from omniad.data.folders import LeftOut
from omniad.data.images import read_masks
from omniad.data.index import read_index, recorded_files, write_index
from omniad.data.layouts import own, read_records
from omniad.data.masks import decode_mask
from omniad.data.pack_writer import write_pack
from omniad.data.packs import open_pack
from omniad.errors import UserError

LOGICAL = "logical_anomalies"
LAYOUTS = {"ad_2": "mvtec_ad_2", "loco": "mvtec_loco"}
UNLABELLED = "without labels, only for `omniad predict`"


def image(file: Path, size: tuple[int, int] = (8, 6), mode: str = "RGB") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(file)


def region(file: Path, rows: slice, columns: slice, level: int = 255, size: tuple[int, int] = (6, 8)) -> None:
    """A mask (height, width) with one rectangle of a grey level."""
    mask = np.zeros(size, np.uint8)
    mask[rows, columns] = level
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(file)


@pytest.fixture
def ad_2(tmp_path) -> Path:
    folder = tmp_path / "set"
    image(folder / "can/train/good/000_regular.png")
    image(folder / "can/train/good/001_regular.png", mode="L")
    image(folder / "can/validation/good/000_regular.png")
    image(folder / "can/test_public/good/000_overexposed.png")
    image(folder / "can/test_public/bad/000_shift_1.png")
    region(folder / "can/test_public/ground_truth/bad/000_shift_1_mask.png", slice(2), slice(3))
    for number in range(3):
        image(folder / f"can/test_private/{number:03}_regular.png")
        image(folder / f"can/test_private_mixed/{number:03}_mixed.png")
    (folder / "readme.txt").write_text("no class")
    return folder


@pytest.fixture
def loco(tmp_path) -> Path:
    """One image has two masks, apart and of different levels; the other has one, of a level near black."""
    folder = tmp_path / "set"
    image(folder / "box/train/good/000.png")
    image(folder / "box/train/good/001.png")
    image(folder / "box/validation/good/000.png")
    image(folder / "box/test/good/000.png")
    for number in range(2):
        image(folder / f"box/test/{LOGICAL}/{number:03}.png")
    region(folder / f"box/ground_truth/{LOGICAL}/000/000.png", slice(2), slice(3), 255)
    region(folder / f"box/ground_truth/{LOGICAL}/000/001.png", slice(4, 6), slice(5, 8), 226)
    region(folder / f"box/ground_truth/{LOGICAL}/001/000.png", slice(1, 3), slice(1, 5), 40)
    (folder / "box/defects_config.json").write_text("[]")
    return folder


def source(folder: Path, layout: Any, **settings: Any) -> SourceSettings:
    return SourceSettings(title="Set", layout=layout, folder=str(folder), **settings)


def indexed(folder: Path, layout: str, **settings: Any) -> pd.DataFrame:
    write_index(source(folder, layout, **settings), folder.parent / "index.csv")
    return read_index(folder.parent / "index.csv")


def problems(folder: Path, layout: str, **settings: Any) -> str:
    with pytest.raises(UserError) as raised:
        indexed(folder, layout, **settings)
    assert not (folder.parent / "index.csv").exists()
    assert "\n" not in str(raised.value)
    return str(raised.value)


class TestMvtecAd2:
    def test_validation_and_public_images_are_listed(self, ad_2):
        index = indexed(ad_2, "mvtec_ad_2")
        mask = "can/test_public/ground_truth/bad/000_shift_1_mask.png"
        assert index.drop(columns="class").to_numpy().tolist() == [
            ["test", 1, "bad", "can/test_public/bad/000_shift_1.png", mask],
            ["test", 0, "good", "can/test_public/good/000_overexposed.png", ""],
            ["train", 0, "good", "can/train/good/000_regular.png", ""],
            ["train", 0, "good", "can/train/good/001_regular.png", ""],
            ["validation", 0, "good", "can/validation/good/000_regular.png", ""],
        ]

    def test_images_without_labels_are_counted_and_not_listed(self, ad_2, caplog):
        index = indexed(ad_2, "mvtec_ad_2")
        assert not index["image"].str.contains("private").any()
        private = ", ".join(str(ad_2 / "can" / name) for name in ("test_private", "test_private_mixed"))
        assert f"{UNLABELLED}: 6 ({private}, ...)" in caplog.text

    def test_the_archives_own_folder_is_looked_into(self, ad_2):
        below = ad_2 / "mvtec_ad_2"
        below.mkdir()
        (ad_2 / "can").rename(below / "can")
        for layout in ("mvtec_ad_2", "own"):
            index = indexed(ad_2, layout)
            assert len(index) == 5
            assert set(index["image"].str.split("/").str[0]) == {"mvtec_ad_2"}
            assert set(index["class"]) == {"can"}

    def test_a_missing_mask_is_named(self, ad_2):
        (ad_2 / "can/test_public/ground_truth/bad/000_shift_1_mask.png").unlink()
        image(ad_2 / "can/test_public/ground_truth/bad/else_mask.png", mode="L")
        assert "Missing (1): can/test_public/ground_truth/bad/000_shift_1_mask.png" in problems(ad_2, "mvtec_ad_2")

    def test_another_split_is_counted(self, ad_2, caplog):
        image(ad_2 / "can/test_secret/000.png")
        indexed(ad_2, "mvtec_ad_2")
        assert f"of an unknown split: 1 ({ad_2}/can/test_secret)" in caplog.text

    def test_a_mask_of_another_size_is_told(self, ad_2):
        region(ad_2 / "can/test_public/ground_truth/bad/000_shift_1_mask.png", slice(2), slice(2), size=(8, 6))
        assert "Mask with a different size than its image (1): can/test_public/ground_truth" in problems(
            ad_2, "mvtec_ad_2"
        )

    def test_the_validation_set_is_for_good_images(self, ad_2, caplog):
        image(ad_2 / "can/validation/bad/000_regular.png")
        assert indexed(ad_2, "mvtec_ad_2")["split"].tolist().count("validation") == 1
        assert "in the validation set but not good: 1" in caplog.text

    def test_mvtec_ads_layout_is_not_this_one(self, ad_2):
        told = problems(ad_2, "mvtec")
        assert told == f"{ad_2}/can: has another layout; set sources.<name>.layout to mvtec_ad_2"


class TestMvtecLoco:
    def test_a_mask_is_a_folder(self, loco):
        index = indexed(loco, "mvtec_loco")
        assert index.groupby(["split", "defect"]).size().to_dict() == {
            ("test", "good"): 1,
            ("test", LOGICAL): 2,
            ("train", "good"): 2,
            ("validation", "good"): 1,
        }
        masks = index.loc[index["label"] == 1, "mask"].tolist()
        assert masks == [f"box/ground_truth/{LOGICAL}/{number:03}" for number in range(2)]

    def test_a_pack_has_the_union_of_the_masks(self, loco, tmp_path):
        index = indexed(loco, "mvtec_loco")
        write_pack(source(loco, "mvtec_loco"), tmp_path / "index.csv", tmp_path / "24", 24)
        pack = open_pack(tmp_path / "24", index)
        both, faint = np.zeros((6, 8), np.uint8), np.zeros((6, 8), np.uint8)
        both[:2, :3] = both[4:, 5:] = faint[1:3, 1:5] = 255  # a level near black is a defect as any other
        for number, mask in enumerate((both, faint)):
            Image.fromarray(mask).save(tmp_path / "one.png")
            row = index["mask"].tolist().index(f"box/ground_truth/{LOGICAL}/{number:03}")
            np.testing.assert_array_equal(pack.masks(row), read_masks(tmp_path / "one.png", 24)[0])

    def test_masks_that_touch_or_overlap(self, tmp_path):
        region(tmp_path / "000/000.png", slice(3), slice(4), 255)
        region(tmp_path / "000/001.png", slice(2, 5), slice(2, 8), 254)
        region(tmp_path / "000/002.png", slice(5, 6), slice(0, 1), 1)
        expected = np.zeros((6, 8), bool)
        expected[:3, :4] = expected[2:5, 2:8] = expected[5, 0] = True
        defect, told = decode_mask(tmp_path / "000")
        np.testing.assert_array_equal(defect, expected)
        assert told == ""

    def test_every_level_above_0_is_defect(self, tmp_path):
        levels = np.array([[0, 0, 255], [0, 200, 226], [0, 40, 3]], np.uint8)
        (tmp_path / "000").mkdir()
        Image.fromarray(levels).save(tmp_path / "000/000.png")
        np.testing.assert_array_equal(decode_mask(tmp_path / "000")[0], levels > 0)

    def test_each_mask_file_counts_for_a_change(self, loco, tmp_path):
        truth, hashes = loco / f"box/ground_truth/{LOGICAL}/000", set()
        for change in (
            lambda: None,
            lambda: region(truth / "001.png", slice(3), slice(8)),
            lambda: region(truth / "002.png", slice(1), slice(1)),
        ):
            change()
            indexed(loco, "mvtec_loco")
            hashes.add(recorded_files(tmp_path / "index.csv"))
        assert len(hashes) == 3

    def test_what_is_wrong_with_the_masks_is_told_at_once(self, loco):
        truth, named = loco / f"box/ground_truth/{LOGICAL}", f"box/ground_truth/{LOGICAL}"
        (truth / "000/000.png").write_bytes(b"no image")
        region(truth / "000/001.png", slice(2), slice(2), size=(8, 6))
        (truth / "001/000.png").unlink()
        image(loco / f"box/test/{LOGICAL}/002.png")
        told = problems(loco, "mvtec_loco")
        assert f"Not readable as an image (1): {named}/000/000.png." in told
        assert f"Mask with a different size than its image (1): {named}/000/001.png (6x8, not 8x6)." in told
        assert f"Mask folder without masks (1): {named}/001." in told
        assert f"Missing (1): {named}/002." in told

    def test_a_broken_mask_is_named_by_the_pack(self, loco, tmp_path):
        indexed(loco, "mvtec_loco")
        file = loco / f"box/ground_truth/{LOGICAL}/000/001.png"
        file.write_bytes(file.read_bytes()[:-15])
        with pytest.raises(UserError, match=rf"1 image can't be read: .*/{LOGICAL}/000 \(001.png: "):
            write_pack(source(loco, "mvtec_loco"), tmp_path / "index.csv", tmp_path / "8", 8)

    def test_what_lies_about_is_counted(self, loco, caplog):
        truth = loco / f"box/ground_truth/{LOGICAL}"
        region(truth / "009/000.png", slice(1), slice(1))
        region(truth / "000.png", slice(1), slice(1))
        region(truth / "000/deep/000.png", slice(1), slice(1))
        (truth / "000/notes.txt").touch()
        indexed(loco, "mvtec_loco")
        for told in (
            f"masks without an image: 1 ({truth}/009)",
            f"masks outside an image's folder of masks: 1 ({truth}/000.png)",
            f"in a deeper folder: 1 ({truth}/000/deep)",
            f"with another ending: 2 ({loco}/box/defects_config.json, {truth}/000/notes.txt)",
        ):
            assert told in caplog.text

    def test_a_defect_in_the_training_set_is_refused(self, loco):
        image(loco / f"box/train/{LOGICAL}/000.png")
        assert "the training set may contain only train/good/" in problems(loco, "mvtec_loco")

    def test_mvtec_ads_layout_is_not_this_one(self, loco):
        assert problems(loco, "mvtec").endswith("set sources.<name>.layout to mvtec_loco")

    def test_a_class_with_other_numbers_is_told(self, loco, tmp_path):
        table = tmp_path / "counts.csv"
        rows = ["box,train,good,2", "box,validation,good,2", "box,test,good,1", f"box,test,{LOGICAL},2"]
        table.write_text("\n".join(["class,split,defect,images", *rows, ""]))
        told = problems(loco, "mvtec_loco", counts=str(table))
        assert "Unexpected numbers of images (1): box, validation good: 1 instead of 2." in told


@pytest.mark.parametrize("one_class", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
def test_folders_of_ones_own_show_their_layout(name, one_class, request):
    folder = request.getfixturevalue(name)
    class_folder = next(path for path in folder.iterdir() if path.is_dir())
    left_out = LeftOut()
    found = own.read(source(class_folder if one_class else folder, "own"), left_out)
    prefix = f"{class_folder.name}/" if one_class else ""
    listed = [
        record._replace(image=record.image.removeprefix(prefix), mask=record.mask.removeprefix(prefix))
        for record in read_records(source(folder, LAYOUTS[name]), LeftOut())
    ]
    assert sorted(found) == sorted(listed)  # none of the training images is held out
    assert left_out.reasons[UNLABELLED] == (6 if name == "ad_2" else 0)


def test_a_class_with_validation_images_beside_one_without(tmp_path):
    for number in range(10):
        image(tmp_path / f"set/bolt/train/good/{number}.png")
        image(tmp_path / f"set/nut/{number}.png")
    image(tmp_path / "set/bolt/validation/good/0.png")
    records = own.read(source(tmp_path / "set", "own", held_out=0.2), LeftOut())
    kept = [record.image for record in records if record.split == "validation"]
    assert kept == ["bolt/validation/good/0.png", "nut/2.png", "nut/7.png"]
    assert [own.is_given(path) for path in kept] == [True, False, False]


def test_however_many_are_held_out_one_is_left_to_train_on(tmp_path):
    for number in range(4):
        image(tmp_path / f"bolt/{number}.png")
    records = own.read(source(tmp_path / "bolt", "own", held_out=0.9), LeftOut())
    assert sorted(record.split for record in records) == ["train", *["validation"] * 3]


AD_2_TOTALS = {("train", "good"): 2528, ("validation", "good"): 302, ("test", "good"): 379, ("test", "bad"): 705}
LOCO_TOTALS = {
    ("train", "good"): 1778,
    ("validation", "good"): 305,
    ("test", "good"): 575,
    ("test", LOGICAL): 561,
    ("test", "structural_anomalies"): 432,
}


@pytest.mark.parametrize(("name", "totals"), [("mvtec_ad_2", AD_2_TOTALS), ("mvtec_loco", LOCO_TOTALS)])
def test_the_tables_of_counts_have_the_archives_totals(name, totals):
    """The totals are counted by others than the tables are (config/counts/README.md)."""
    found = dict.fromkeys(totals, 0)
    for (_, split, defect), images in (expected_counts(load_settings().sources[name]) or {}).items():
        found[split, defect] += images
    assert found == totals
