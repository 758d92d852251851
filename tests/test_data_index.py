"""Each layout's traps, and everything that can be wrong with a data set's files: all of it told at once."""

import csv
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from omniad.config import SourceSettings
from omniad.data.index import read_index, write_index
from omniad.errors import UserError


def image(file, size=(8, 8), mode="RGB", value=0):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(file)


def indexed(folder, layout: Any = "mvtec", **settings) -> pd.DataFrame:
    source = SourceSettings(title="Set", layout=layout, folder=str(folder), **settings)
    write_index(source, folder.parent / "index.csv")
    return read_index(folder.parent / "index.csv")


def problems(folder, layout="mvtec", **settings) -> str:
    with pytest.raises(UserError) as raised:
        indexed(folder, layout, **settings)
    assert not (folder.parent / "index.csv").exists()
    return str(raised.value)


@pytest.fixture
def mvtec(tmp_path):
    folder = tmp_path / "mvtec"
    image(folder / "nut/train/good/000.png")
    image(folder / "nut/train/good/001.png", mode="L")
    image(folder / "nut/test/good/000.png")
    for stem in ("9", "10"):  # sorted by name, "10" comes first; sorted by number, "9" does
        image(folder / f"nut/test/bent/{stem}.png")
        image(folder / f"nut/ground_truth/bent/{stem}_mask.png", mode="L")
    (folder / "readme.txt").write_text("no class")
    (folder / "nut/test/bent/._9.png").write_bytes(b"macOS leaves such files")
    return folder


@pytest.fixture
def visa(tmp_path):
    folder = tmp_path / "visa"
    rows = [
        ("candle", "train", "normal", "candle/Data/Images/Normal/0000.JPG", ""),
        ("candle", "test", "normal", "candle/Data/Images/Normal/0001.JPG", ""),
        ("candle", "test", "anomaly", "candle/Data/Images/Anomaly/0000.JPG", "candle/Data/Masks/Anomaly/000.png"),
    ]
    for *_, path, mask in rows:
        image(folder / path)
        if mask:
            image(folder / mask, mode="L", value=3)
    (folder / "split_csv").mkdir()
    with (folder / "split_csv/1cls.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("object", "split", "label", "image", "mask"), *rows])
    return folder


@pytest.fixture
def realiad(tmp_path):
    """One sound and one defective specimen; view C2 of the defective one shows nothing, though it lies in NG."""
    folder = tmp_path / "realiad"
    entries = {"train": [], "test": []}
    for split, status, views in (("train", "OK", (1, 2)), ("test", "NG", (1, 2))):
        for view in views:
            seen = status == "NG" and view == 1
            stem = f"{status}/{'HS/' if status == 'NG' else ''}S0001/plug_0001_{status}_C{view}_2023"
            image(folder / f"realiad_512/plug/{stem}.jpg")
            if seen:
                image(folder / f"realiad_512/plug/{stem}.png", mode="L")
            mask = f"{stem}.png" if seen else None
            kind = "HS" if seen else "OK"
            entry = {"category": "plug", "anomaly_class": kind, "image_path": f"{stem}.jpg", "mask_path": mask}
            entries[split].append(entry)
    meta = {"prefix": "plug/", "normal_class": "OK", "pre_transform": False}
    labels = folder / "realiad_jsons/realiad_jsons/plug.json"
    labels.parent.mkdir(parents=True)
    labels.write_text(json.dumps({"meta": meta, **entries}))
    return folder


class TestMvtec:
    def test_image_and_mask_are_paired_by_name(self, mvtec):
        index = indexed(mvtec)
        assert len(index) == 5
        anomalous = index[index["label"] == 1]
        assert dict(zip(anomalous["image"], anomalous["mask"], strict=True)) == {
            "nut/test/bent/10.png": "nut/ground_truth/bent/10_mask.png",
            "nut/test/bent/9.png": "nut/ground_truth/bent/9_mask.png",
        }

    def test_the_same_files_give_the_same_bytes(self, mvtec, tmp_path):
        indexed(mvtec)
        first = (tmp_path / "index.csv").read_bytes()
        indexed(mvtec)
        assert (tmp_path / "index.csv").read_bytes() == first

    def test_another_data_set_in_this_layout(self, tmp_path):
        """As BTAD has it: ok for good, bmp, masks named as the image; and upper-case suffixes."""
        folder = tmp_path / "btad"
        image(folder / "01/train/ok/0000.bmp")
        image(folder / "01/test/ok/0000.BMP")
        image(folder / "01/test/ko/0003.bmp")
        image(folder / "01/ground_truth/ko/0003.png", mode="L")
        index = indexed(folder)
        assert index["defect"].tolist() == ["ko", "good", "good"]
        assert index["mask"].tolist() == ["01/ground_truth/ko/0003.png", "", ""]

    def test_parts_without_masks_or_without_a_test_set(self, tmp_path):
        folder = tmp_path / "own"
        image(folder / "bolt/train/good/a.jpg")
        image(folder / "bolt/test/broken/b.jpg")
        image(folder / "nut/train/good/c.jpg")
        index = indexed(folder)
        assert index[["class", "split", "label", "mask"]].to_numpy().tolist() == [
            ["bolt", "test", 1, ""],
            ["bolt", "train", 0, ""],
            ["nut", "train", 0, ""],
        ]

    def test_one_missing_mask_is_a_mistake(self, mvtec):
        (mvtec / "nut/ground_truth/bent/9_mask.png").unlink()
        assert "Missing (1): nut/ground_truth/bent/9_mask.png" in problems(mvtec)

    def test_two_images_of_one_name_cannot_be_told_apart(self, mvtec):
        image(mvtec / "nut/test/bent/9.jpg")
        assert "more than one image is named 9" in problems(mvtec)

    def test_a_defect_in_the_training_set_is_refused(self, mvtec):
        image(mvtec / "nut/train/bent/000.png")
        assert "the training set may contain only train/good/" in problems(mvtec)

    def test_a_folder_too_high_is_told(self, mvtec):
        assert "is this the folder that contains the classes' folders?" in problems(mvtec.parent)


class TestVisa:
    def test_labels_and_masks_come_from_the_split_file(self, visa):
        index = indexed(visa, "visa")
        assert index["label"].tolist() == [1, 0, 0]
        assert index["image"].str.endswith("0000.JPG").sum() == 2  # of Normal and of Anomaly: two images

    @pytest.mark.parametrize(
        ("line", "told"),
        [
            ("candle,test,anomaly,candle/Data/Images/Anomaly/0000.JPG,", "line 5: an anomaly needs a mask"),
            ("candle,valid,normal,x.JPG,", "line 5: split must be train or test"),
            ("candle,train,normal,candle/Data/Images/Normal/0001.JPG,", "Listed more than once (1): candle/Data"),
        ],
    )
    def test_a_wrong_line_is_named(self, visa, line, told):
        with (visa / "split_csv/1cls.csv").open("a") as file:
            file.write(line + "\n")
        assert told in problems(visa, "visa")


class TestRealIad:
    def test_the_label_is_the_annotations_never_the_folders(self, realiad):
        index = indexed(realiad, "realiad", resolution=512)
        in_ng = index[index["image"].str.contains("/NG/")]
        assert in_ng["label"].tolist() == [1, 0]
        assert in_ng["defect"].tolist() == ["HS", "good"]

    def test_views_can_be_chosen(self, realiad):
        index = indexed(realiad, "realiad", resolution=512, views=["C2"])
        assert index["label"].tolist() == [0, 0]
        assert index["image"].str.contains("_C2_").all()

    def test_another_resolution_is_never_taken_silently(self, realiad):
        told = problems(realiad, "realiad")
        assert "realiad_1024: no such folder (there is: realiad_512); set sources.<name>.resolution" in told


def test_all_that_is_wrong_is_told_at_once_by_kind_and_path(mvtec):
    (mvtec / "nut/train/good/000.png").write_bytes(b"")
    (mvtec / "nut/train/good/001.png").write_bytes(b"<html>not found</html>")
    image(mvtec / "nut/ground_truth/bent/9_mask.png", size=(9, 8), mode="L")
    (mvtec / "nut/ground_truth/bent/10_mask.png").unlink()
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(mvtec / "nut/test/good/000.png")
    told = problems(mvtec)
    for part in (
        "Empty (1): nut/train/good/000.png",
        "Not readable as an image (1): nut/train/good/001.png",
        "Mask with a different size than its image (1): nut/ground_truth/bent/9_mask.png (9x8, not 8x8)",
        "Missing (1): nut/ground_truth/bent/10_mask.png",
        "More than 8 bits a channel, convert to 8 (1): nut/test/good/000.png",
    ):
        assert part in told


def test_a_long_list_goes_into_a_file_whole(mvtec, tmp_path):
    for number in range(30):
        (mvtec / f"nut/train/good/1{number:02}.png").write_bytes(b"")
    told = problems(mvtec)
    assert f"Empty (30): nut/train/good/100.png; {'nut/train/good/101.png'}" in told
    assert "All of them are in" in told
    lines = (tmp_path / "index-problems.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["empty"] * 30
    for number in range(30):
        (mvtec / f"nut/train/good/1{number:02}.png").unlink()
    indexed(mvtec)
    assert not (tmp_path / "index-problems.txt").exists()


def test_every_difference_of_the_counts_is_listed_by_class_and_kind(mvtec, tmp_path):
    table = tmp_path / "counts.csv"
    table.write_text(
        "class,split,defect,images\nnut,train,good,3\nnut,test,good,1\nnut,test,bent,1\nbolt,train,good,7\n"
    )
    told = problems(mvtec, counts=str(table))
    assert (
        "Unexpected numbers of images (3): "
        "bolt, train good: 0 instead of 7; nut, test bent: 2 instead of 1; nut, train good: 2 instead of 3" in told
    )
    table.write_text("class,split,defect,images\nnut,train,good,2\nnut,test,good,1\nnut,test,anomaly,2\n")
    assert len(indexed(mvtec, counts=str(table))) == 5


def test_a_miniature_is_not_compared_with_the_real_counts(mvtec, tmp_path):
    assert len(indexed(mvtec, counts="mvtec", miniature=True)) == 5
    (tmp_path / "index.csv").unlink()
    assert "bottle, test broken_large: 0 instead of 20;" in problems(mvtec, counts="mvtec")


HEADER = "class,split,label,defect,image,mask\n"


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("", "no rows"),
        ("a,test,2,bent,b.png,\n", "label 2: must be 0 (normal) or 1 (anomalous)"),
        ("a,test,999999999999999999999999999999,g,b.png,\n", "not an index"),
        ("a,evil,0,good,b.png,\n", "split 'evil': must be one of train, test, validation"),
        ("a,train,0,good,../../b.png,\n", "path '../../b.png': must lie inside the data set's folder"),
        ("a,train,0,good,/etc/b.png,\n", "path '/etc/b.png': must lie inside"),
        ("a,test,1,bent,b.png,c/../../m.png\n", "path 'c/../../m.png': must lie inside"),
        ("a,train,0,good,,\n", "path '': must lie inside"),
        ("../../up,train,0,good,b.png,\n", "class '../../up': must be a single name without slashes"),
        ("/etc/x,train,0,good,b.png,\n", "class '/etc/x': must be a single name"),
        ("..,train,0,good,b.png,\n", "class '..': must be a single name"),
        (",train,0,good,b.png,\n", "class '': must not be empty"),
        ("a,test,1,../bent,b.png,\n", "defect '../bent': must be a single name"),
        ("mean,train,0,good,b.png,\n", "class 'mean': this name is reserved for the mean over classes"),
        ('"a\0b",train,0,good,b.png,\n', "must not contain control characters"),
    ],
)
def test_an_index_that_somebody_edited_is_checked_when_it_is_read(tmp_path, rows, told):
    (tmp_path / "index.csv").write_text(HEADER + rows)
    with pytest.raises(UserError) as raised:
        read_index(tmp_path / "index.csv")
    assert told in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["/escaped", "../../escaped", "..", "mean", "a\\b", "x" * 300])
def test_a_class_of_a_data_sets_own_list_stays_in_its_folder(visa, realiad, name):
    split = visa / "split_csv/1cls.csv"
    split.write_text(split.read_text().replace("candle,", f"{name},"))
    assert "class " in problems(visa, "visa")
    labels = realiad / "realiad_jsons/realiad_jsons/plug.json"
    labels.write_text(labels.read_text().replace('"category": "plug"', f'"category": {json.dumps(name)}'))
    assert "class " in problems(realiad, "realiad", resolution=512)


@pytest.mark.parametrize("path", ["../../etc/x.png", "/etc/x.png", "a\u0000b.png", "\ud800.png"])
def test_an_image_of_a_data_sets_own_list_stays_in_its_folder(realiad, path):
    labels = realiad / "realiad_jsons/realiad_jsons/plug.json"
    content = json.loads(labels.read_text())
    content["train"][0]["image_path"] = f"../../{path}" if not path.startswith("/") else f"..{path}"
    labels.write_text(json.dumps(content))
    assert "must lie inside the data set's folder" in problems(realiad, "realiad", resolution=512)


@pytest.mark.parametrize("line", ["candle,train,normal", "candle,train,normal,a.JPG,,more", '"candle'])
def test_a_line_of_another_width_is_named(visa, line):
    with (visa / "split_csv/1cls.csv").open("a") as file:
        file.write(line + "\n")
    assert "line 5: must have the 5 columns" in problems(visa, "visa")
