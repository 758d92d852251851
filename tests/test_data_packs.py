"""Packs: what PIL gives, bit for bit; whole after a kill; every broken image named; a full disk told."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from omniad.config import SourceSettings
from omniad.data import growing_pack, pack_writer
from omniad.data.images import read_masks
from omniad.data.index import write_index
from omniad.data.pack_writer import write_pack
from omniad.data.packs import NOTE, PUBLISHED, open_pack, read_rows
from omniad.errors import UserError

SIZE = 32
COUNT = 40


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """40 images of different kinds and sizes, 10 of them with masks; batches of 4."""
    monkeypatch.setattr(pack_writer, "BATCH", 4)
    monkeypatch.setattr(growing_pack, "BATCH", 4)
    monkeypatch.setattr(growing_pack, "SYNC", 2)
    monkeypatch.setattr(pack_writer, "AHEAD", 1)
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        side = 50 + number
        pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
        place = tmp_path / "set/nut" / ("test/bent" if number < 10 else "train/good")
        place.mkdir(parents=True, exist_ok=True)
        suffix = "jpg" if number % 3 == 0 else "png"
        Image.fromarray(pixels[..., 0] if number % 5 == 0 else pixels).save(place / f"{number:03}.{suffix}")
        if number < 10:
            mask = np.zeros((side, side), np.uint8)
            mask[10:25, 5 : 20 + number] = number + 1  # any value above 0 is defect
            (tmp_path / "set/nut/ground_truth/bent").mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(tmp_path / f"set/nut/ground_truth/bent/{number:03}_mask.png")
    return tmp_path / "set"


def pack(folder, size=SIZE):
    source = SourceSettings(title="Set", layout="mvtec", folder=str(folder))
    index = folder.parent / "prepared/own/index.csv"
    if not index.exists():
        write_index(source, index)
    write_pack(source, index, index.parent / str(size), size)
    return open_pack(index.parent / str(size))


class Decoded:
    """Counts, over all worker processes, the images that are decoded while it stands in for `read_image`."""

    def __init__(self, file, stop_after=10**9):
        self.file, self.stop_after, self.read = file, stop_after, pack_writer.read_image
        file.write_bytes(b"")

    def __len__(self):
        return self.file.stat().st_size

    def __call__(self, file, size):
        with self.file.open("ab") as count:
            count.write(b".")
        if len(self) > self.stop_after:
            raise KeyboardInterrupt
        return self.read(file, size)


def counted(folder, monkeypatch):
    """The images that are decoded from now on."""
    decoded = Decoded(folder.parent / "decoded")
    monkeypatch.setattr(pack_writer, "read_image", decoded)
    return decoded


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_images_and_masks_are_pils_bit_for_bit(folder):
    made = pack(folder)
    assert made.images.shape == (COUNT, SIZE, SIZE, 3)
    for row, (image, mask) in enumerate(zip(made.index["image"], made.index["mask"], strict=True)):
        pixels = Image.open(folder / image).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(made.images[row], np.asarray(pixels))
        expected = published = np.zeros((SIZE, SIZE))
        if mask:
            defect = np.asarray(Image.open(folder / mask)) > 0
            numbers, greys = Image.fromarray(defect.astype(np.float32)), Image.fromarray(np.uint8(defect) * 255)
            expected = np.asarray(numbers.resize((SIZE, SIZE), Image.Resampling.BILINEAR)) > 0.5
            # torchvision's ToTensor, then the toolbox's rule
            published = np.asarray(greys.resize((SIZE, SIZE), Image.Resampling.BILINEAR)) / 255 > 0.5
            assert expected.any()
        np.testing.assert_array_equal(made.masks(row), expected)
        np.testing.assert_array_equal(made.masks(row, PUBLISHED), published)
    assert names(made.folder) == ["images.npy", "masks.npy", NOTE]


def test_a_pixel_that_is_half_defect_is_one_in_the_published_definition_alone(tmp_path):
    """At half the side a pixel is 1, 3, 3, 1 eighths of four: columns 3 and 4 make two pixels of 3/8 + 1/8 each."""
    columns = np.zeros((8, 8), np.uint8)
    columns[:, [3, 4]] = 1  # any value above 0 is defect
    Image.fromarray(columns).save(tmp_path / "mask.png")
    exact, published, _ = read_masks(tmp_path / "mask.png", 4)
    assert (exact.any(axis=0).tolist(), published.any(axis=0).tolist()) == ([False] * 4, [False, True, True, False])


def test_a_pack_of_an_older_version_is_refused(folder):
    made = pack(folder)
    note = json.loads((made.folder / NOTE).read_text())
    del note["version"]
    (made.folder / NOTE).write_text(json.dumps(note))
    with pytest.raises(UserError, match="older version of omniad; remove the folder"):
        open_pack(made.folder)


@pytest.mark.parametrize(("name", "content"), [("images.npy", ""), (NOTE, "[]"), (NOTE, "{"), (NOTE, '{"version": 2}')])
def test_a_damaged_pack_is_told(folder, name, content):
    made = pack(folder)
    (made.folder / name).write_text(content)
    with pytest.raises(UserError, match=r"a damaged pack .*; remove the folder"):
        open_pack(made.folder)


def test_the_digest_is_of_the_content_and_each_resolution_has_its_own(folder):
    first, other = pack(folder), pack(folder, 16)
    assert first.digest != other.digest
    (first.folder / NOTE).unlink()
    assert pack(folder).digest == first.digest


def test_every_broken_image_is_named_not_only_the_first(folder, monkeypatch):
    files = [folder / f"nut/train/good/{number:03}.{suffix}" for number, suffix in ((20, "png"), (33, "jpg"))]
    mask = folder / "nut/ground_truth/bent/003_mask.png"
    whole = {file: file.read_bytes() for file in (*files, mask)}
    for file, content in whole.items():
        file.write_bytes(content[: len(content) // 2])  # the header stays readable
    with pytest.raises(UserError) as raised:
        pack(folder)
    assert "3 images can't be read" in str(raised.value)
    assert all(str(file) in str(raised.value) for file in whole)
    assert not (folder.parent / f"prepared/own/{SIZE}/{NOTE}").exists()
    for file, content in whole.items():
        file.write_bytes(content)
    decoded = counted(folder, monkeypatch)
    made = pack(folder)
    assert 0 < len(decoded) <= COUNT  # the index is sorted: the test images, broken ones among them, come first
    assert made.images.any(axis=(1, 2, 3)).all()


def stopped(folder, monkeypatch, after=30):
    """Stop the packing after some images, as a kill would: files are left as they are."""
    with monkeypatch.context() as patch:
        patch.setattr(pack_writer, "read_image", Decoded(folder.parent / "stopped", after))
        with pytest.raises(KeyboardInterrupt):
            pack(folder)
    return folder.parent / f"prepared/own/{SIZE}"


@pytest.mark.parametrize("harm", ["none", "cut", "changed", "torn note", "other PIL"])
def test_what_a_stopped_call_did_is_kept_as_far_as_its_hashes_vouch_for_it(folder, monkeypatch, harm):
    place = stopped(folder, monkeypatch)
    noted = len((place / ".progress.part").read_text().splitlines()) - 1
    assert noted >= 2
    images = place / ".images.npy.part"
    content = bytearray(images.read_bytes())
    if harm == "cut":
        images.write_bytes(content[: 128 + 4 * noted * SIZE * SIZE * 3 - 1])  # one byte of the last batch that is noted
    elif harm == "changed":
        content[200] ^= 1  # in the first batch
        images.write_bytes(content)
    elif harm == "torn note":
        text = (place / ".progress.part").read_text()
        (place / ".progress.part").write_text(text[:-30])
    elif harm == "other PIL":
        monkeypatch.setattr(growing_pack.PIL, "__version__", "0")
    decoded = counted(folder, monkeypatch)
    made = pack(folder)
    kept = {"none": noted, "cut": noted - 1, "changed": 0, "torn note": noted - 1, "other PIL": 0}[harm]
    assert len(decoded) == COUNT - 4 * kept
    for row, image in enumerate(made.index["image"]):
        pixels = Image.open(folder / image).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(made.images[row], np.asarray(pixels))
    note = json.loads((place / NOTE).read_text())
    (place / NOTE).unlink()
    pack(folder)
    assert json.loads((place / NOTE).read_text()) == note  # the digest of a resumed pack is that of a fresh one


def test_a_worker_that_the_system_ends_is_told_and_the_work_goes_on(folder, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"the system killed a worker.*to continue"):
        patch.setattr(pack_writer, "read_masks", lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))
        pack(folder)
    assert pack(folder).images.any(axis=(1, 2, 3)).all()


def test_a_disk_without_room_is_told_before_the_work(folder, monkeypatch):
    usage = type("usage", (), {"free": 1})
    monkeypatch.setattr(growing_pack.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match=r"the pack needs 0\.[1-9] MB more, but only 0\.0 MB are free"):
        pack(folder)


def test_a_disk_that_fills_up_is_told_and_the_work_goes_on_elsewhere(folder, monkeypatch, small_disk):
    monkeypatch.setattr(growing_pack, "_check_room", lambda folder, needed: None)
    source = SourceSettings(title="Set", layout="mvtec", folder=str(folder))
    index = folder.parent / "index.csv"
    write_index(source, index)
    with pytest.raises(UserError, match="No space left on device; free some space"):
        write_pack(source, index, small_disk / "256", 256)
    assert not (small_disk / "256" / NOTE).exists()
    subprocess.run(["mount", "-o", "remount,size=40m", small_disk], check=True)
    decoded = counted(folder, monkeypatch)
    write_pack(source, index, small_disk / "256", 256)
    assert 0 < len(decoded) < COUNT


def test_kill_in_the_middle_then_the_same_command_ends_right(tmp_path, monkeypatch):
    """The index names one large image 400 times: seconds of work, and every row of the pack must be the same."""
    pixels = np.random.default_rng(0).integers(0, 256, (500, 500, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    rows = ["class,split,label,defect,image,mask", *["nut,train,0,good,a.png,"] * 400]
    (tmp_path / "index.csv").write_text("\n".join(rows) + "\n")
    overlay = {"sources": {"own": {"title": "Set", "layout": "mvtec", "folder": "."}}, "datasets": ["own"]}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(overlay | {"data": {"image_size": 64}}))
    command = [sys.executable, "-m", "omniad", "pack", "--dataset", "own", "--index", "index.csv", "--out", "64"]
    process = subprocess.Popen([*command, "--config", "own.yaml"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    notes = tmp_path / "64/.progress.part"
    deadline = time.monotonic() + 60
    while not (notes.exists() and len(notes.read_text().splitlines()) > 4):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)  # its workers die with it, and so does their share of the lock
    process.wait()
    assert not (tmp_path / "64" / NOTE).exists()
    answer = subprocess.run(
        [*command, "--config", "own.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert "continuing after" in answer.stderr
    expected = np.asarray(Image.fromarray(pixels).resize((64, 64), Image.Resampling.BILINEAR))
    images = np.load(tmp_path / "64/images.npy")
    assert images.shape == (400, 64, 64, 3)
    assert (images == expected).all()
    assert names(tmp_path / "64") == ["images.npy", "masks.npy", NOTE]
    assert os.access(tmp_path / "64/images.npy", os.R_OK)


def test_rows_are_read_past_the_mapping(tmp_path):
    file, rng = tmp_path / "0.npy", np.random.default_rng(0)
    np.save(file, rng.random((50, 7, 9)).astype(np.float16))
    array, rows = np.load(file, mmap_mode="r"), rng.permutation(50)[:20]
    assert np.array_equal(read_rows(array, rows), array[rows])
    assert np.array_equal(read_rows(array[3:], rows[:9] % 40), array[3:][rows[:9] % 40])  # a part of a mapping
    assert np.array_equal(read_rows(np.array(array), rows), array[rows])
    assert read_rows(array, np.arange(0)).shape == (0, 7, 9)
    with file.open("rb+") as cut:
        cut.truncate(file.stat().st_size - 1)
    with pytest.raises(OSError, match="ends too early"):
        read_rows(array, np.array([49]))


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux tells which pages are a process's own")
def test_what_is_read_is_no_memory_of_the_process(tmp_path):
    file = tmp_path / "0.npy"
    np.save(file, np.ones((64, 2**16), np.uint8))  # 4 MiB
    array = np.load(file, mmap_mode="r")

    def resident() -> int:
        """KiB of the mapping."""
        lines = iter(Path("/proc/self/smaps").read_text().splitlines())
        next(line for line in lines if line.endswith(str(file)))
        return int(next(line for line in lines if line.startswith("Rss:")).split()[1])

    assert read_rows(array, np.arange(64)).all()
    assert resident() < 128
    assert array[np.arange(64)].all()
    assert resident() >= 4096
