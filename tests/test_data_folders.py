"""Folders of strangers: what is no image is passed over and counted, in every layout; one odd file ends nothing."""

import json
import os
import socket
from pathlib import Path

import pytest
from PIL import Image

from omniad.config import SourceSettings
from omniad.data.folders import SUFFIXES, LeftOut, folder_state, images_in
from omniad.data.images import decode_image
from omniad.data.index import read_index, write_index
from omniad.data.pack_writer import write_pack
from omniad.data.packs import open_pack
from omniad.detector.inputs import find_images
from omniad.errors import UserError


def image(file: Path, value: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), value).save(file, "PNG")
    return file


def litter(folder: Path) -> None:
    """What file managers, notebooks, archivers and disks leave behind."""
    for name in (".ipynb_checkpoints/0-checkpoint.png", "@eaDir/0.png", "__MACOSX/._0.png", "#recycle/0.png"):
        image(folder / name)
    for name in ("Thumbs.db", ".DS_Store", "._0.png", "desktop.ini"):
        (folder / name).write_bytes(b"x")


def index(folder: Path, layout, caplog) -> tuple[list[str], str]:
    """The images of the index, and the line about what was left out."""
    out = folder.parent / "index.csv"
    caplog.clear()
    with caplog.at_level("WARNING"):
        write_index(SourceSettings(title="Set", layout=layout, folder=str(folder)), out)
    return read_index(out)["image"].tolist(), caplog.text


def part(folder: Path) -> Path:
    """A class in MVTec-AD's layout."""
    for name in ("train/good/0", "train/good/1", "test/good/0", "test/bent/0", "ground_truth/bent/0_mask"):
        image(folder / f"{name}.png", value=255)
    return folder


@pytest.mark.parametrize("layout", ["mvtec", "own"])
def test_litter_is_ignored_at_every_level(tmp_path, layout, caplog):
    folder = tmp_path / "set"
    part(folder / "nut")
    before, told = index(folder, layout, caplog)
    assert told == ""
    for place in (".", "nut", "nut/train", "nut/train/good", "nut/test", "nut/test/bent", "nut/ground_truth/bent"):
        litter(folder / place)
    found, told = index(folder, layout, caplog)
    assert found == before
    assert f"hidden or system files: {8 * 7} (" in told


def test_litter_beside_real_iads_labels(tmp_path, caplog):
    folder = tmp_path / "realiad"
    image(folder / "realiad_1024/plug/OK/a.jpg")
    labels = folder / "realiad_jsons/plug.json"
    labels.parent.mkdir()
    entry = {"category": "plug", "anomaly_class": "OK", "image_path": "OK/a.jpg", "mask_path": None}
    meta = {"prefix": "plug/", "normal_class": "OK"}
    labels.write_text(json.dumps({"meta": meta, "train": [entry], "test": []}))
    labels.with_name("._plug.json").write_bytes(b"\0\5\x16\7")
    (folder / "realiad_jsons/old.json").mkdir()
    assert index(folder, "realiad", caplog)[0] == ["realiad_1024/plug/OK/a.jpg"]


def test_what_mvtecs_layout_does_not_read_is_counted_by_reason(tmp_path, caplog):
    folder = tmp_path / "set"
    part(folder / "nut")
    image(folder / "nut/holdout/good/0.png")
    image(folder / "nut/test_public/bad/0.png")
    image(folder / "nut/train/good/lot_2/0.png")
    image(folder / "nut/ground_truth/bent/1_mask.png")
    image(folder / "nut/overview.png")
    image(folder / "more/good/0.png")
    (folder / "nut/train/good/0.txt").touch()
    (folder / "nut/train/good/0.xcf").touch()
    told = index(folder, "mvtec", caplog)[1]
    for reason in (
        "of an unknown split: 2 (",
        "in a deeper folder: 1 (",
        "masks without an image: 1 (",
        "outside train/ and test/: 1 (",
        "in a folder without train/: 1 (",
        "with another ending: 2 (",
    ):
        assert reason in told
    assert told.count("\n") == 1
    assert str(folder / "nut/holdout") in told


def test_links_are_followed_and_circles_named(tmp_path, caplog):
    folder = tmp_path / "bolts"
    image(folder / "0.png")
    for number in range(1, 4):
        image(tmp_path / f"elsewhere/{number}.png")
    (folder / "good").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/up").symlink_to(folder)
    (tmp_path / "elsewhere/self").symlink_to(tmp_path / "elsewhere/self")
    (tmp_path / "elsewhere/here").symlink_to(".")
    left_out = LeftOut()
    assert [path.name for path in images_in(folder, left_out)] == ["0.png", "1.png", "2.png", "3.png"]
    assert left_out.reasons["linked in a circle, or twice"] == 2
    assert left_out.reasons["a broken or circular link"] == 1
    (folder / "0.png").unlink()
    found, told = index(folder, "own", caplog)
    assert sorted(found) == ["good/1.png", "good/2.png", "good/3.png"]
    assert "linked in a circle, or twice: 2 (" in told


def odd_files(folder: Path) -> set[str]:
    """Everything that a folder may hold under an image's name."""
    (folder / "dangling.png").symlink_to("nowhere.png")
    (folder / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "fifo.png")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "s.png"))
    (folder / "null.png").symlink_to("/dev/null")
    Path(os.fsdecode(bytes(folder) + b"/caf\xe9.png")).write_bytes((folder / "0.png").read_bytes())
    (folder / "two\nlines.png").write_bytes((folder / "0.png").read_bytes())
    image(folder / "folder.png/1.png")
    return {"dangling.png", "loop.png", "fifo.png", "s.png", "null.png", "caf\udce9.png", "two\nlines.png"}


def test_one_odd_file_ends_no_index(tmp_path, caplog):
    folder = part(tmp_path / "set/nut") / "train/good"
    odd_files(folder)
    found, told = index(tmp_path / "set", "mvtec", caplog)
    assert [path for path in found if "train" in path] == ["nut/train/good/0.png", "nut/train/good/1.png"]
    for reason in ("a FIFO: 1", "a socket: 1", "a device: 1", "a broken or circular link: 2", "not UTF-8"):
        assert reason in told
    assert "caf\\udce9.png" in told and "two\\nlines.png" in told  # and no terminal or log is confused


def test_odd_images_are_found_with_their_reasons(tmp_path):
    image(tmp_path / "in/0.png")
    names, left_out = odd_files(tmp_path / "in"), LeftOut()
    assert [path.name for path in find_images([tmp_path / "in"], left_out=left_out)] == ["0.png", "1.png"]
    assert {path.name for path in left_out.odd} == names


def test_a_fifo_that_a_list_names_does_not_hang(tmp_path):
    folder = tmp_path / "visa"
    (folder / "split_csv").mkdir(parents=True)
    os.mkfifo(folder / "0.JPG")
    (folder / "split_csv/1cls.csv").write_text("object,split,label,image,mask\ncandle,train,normal,0.JPG,\n")
    with pytest.raises(UserError, match=r"Not a regular file but a FIFO \(1\): 0\.JPG"):
        write_index(SourceSettings(title="Set", layout="visa", folder=str(folder)), tmp_path / "index.csv")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_ending_is_read_that_is_listed(tmp_path, suffix):
    """PIL writes each, so that each is what its name says; and the one list is everybody's."""
    file = tmp_path / f"in/0{suffix.upper()}"
    file.parent.mkdir()
    mode = {".pbm": "1", ".pgm": "L", ".pfm": "F"}.get(suffix, "RGB")
    Image.new(mode, (8, 8)).save(file, {".jfif": "JPEG", ".jpe": "JPEG", ".pfm": "PPM"}.get(suffix))
    assert find_images([tmp_path / "in"]) == [file]
    assert decode_image(file).size == (8, 8)


def test_what_predict_wrote_is_no_image_of_a_product(tmp_path):
    image(tmp_path / "in/0.png")
    image(tmp_path / "in/out/overlays/0.png")
    (tmp_path / "in/out/scores.csv").write_text("path,score,verdict,name\n")
    left_out = LeftOut()
    assert images_in(tmp_path / "in", left_out) == [tmp_path / "in/0.png"]
    assert left_out.reasons["written by an earlier predict"] == 1
    (tmp_path / "in/out/scores.csv").write_text("class,score\n")  # somebody else's
    assert len(images_in(tmp_path / "in", LeftOut())) == 2


class TestIdentity:
    """Images that were replaced under the same names make new packs; those that were only touched, the same content."""

    def make(self, folder: Path) -> str:
        source, out = SourceSettings(title="Set", layout="mvtec", folder=str(folder)), folder.parent / "prepared"
        write_index(source, out / "index.csv")
        try:
            return open_pack(out / "32").digest
        except UserError:
            write_pack(source, out / "index.csv", out / "32", 32)
            return f"new {open_pack(out / '32').digest}"

    def test_an_image_is_replaced(self, tmp_path):
        folder = part(tmp_path / "set/nut").parent
        first = self.make(folder)
        assert f"new {self.make(folder)}" == first  # nothing was made again
        listed = (tmp_path / "prepared/index.csv").read_bytes()
        image(folder / "nut/train/good/0.png", value=9)
        second = self.make(folder)
        assert second.startswith("new ") and second != first
        assert (tmp_path / "prepared/index.csv").read_bytes() == listed

    def test_an_image_of_the_same_size_in_bytes_is_replaced(self, tmp_path):
        folder = part(tmp_path / "set/nut").parent
        file, other = folder / "nut/train/good/2.bmp", tmp_path / "other.bmp"
        Image.new("L", (8, 8), 0).save(file)
        Image.new("L", (8, 8), 255).save(other)
        assert file.stat().st_size == other.stat().st_size
        first = self.make(folder)
        os.utime(other, ns=(0, file.stat().st_mtime_ns + 1000))
        other.replace(file)
        assert self.make(folder) not in (first, first.removeprefix("new "))

    def test_a_copy_is_the_same_data(self, tmp_path):
        """It is packed again, and trains nothing anew: the digest, which a training knows its data by, stays."""
        folder = part(tmp_path / "set/nut").parent
        first = self.make(folder)
        os.utime(folder / "nut/train/good/0.png")
        assert self.make(folder) == first

    def test_the_workflow_sees_it(self, tmp_path):
        file = image(tmp_path / "set/0.png")
        before = folder_state(tmp_path / "set")
        assert folder_state(tmp_path / "set") == before != folder_state(tmp_path / "absent") == ""
        os.utime(file, ns=(0, 1))
        assert folder_state(tmp_path / "set") != before
