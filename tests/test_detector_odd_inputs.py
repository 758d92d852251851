"""`omniad predict` on folders of strangers: an odd file is skipped with its reason, all others are done."""

import csv
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from detector_runs import make_run, write_image, write_images
from PIL import Image

from omniad.cli import main
from omniad.data import opening
from omniad.data.images import decode_image
from omniad.detector.detector import Detector
from omniad.detector.inputs import output_names
from omniad.detector.predict import predict
from omniad.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def detector(run) -> Detector:
    return Detector(run, "cpu")


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_each_odd_file_is_skipped_with_its_reason(run, tmp_path, capsys):
    folder = write_images(tmp_path / "in", 3)
    (folder / "dangling.png").symlink_to("nowhere.png")
    (folder / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "fifo.png")
    write_image(folder / "folder.png/3.png")
    (folder / "text.png").write_text("hello")
    Path(os.fsdecode(bytes(folder) + b"/caf\xe9.png")).write_bytes((folder / "000.png").read_bytes())
    write_image(folder / f"{'x' * 240}.png", 4)
    write_image(folder / f"{'x' * 239}y.png", 5)
    assert main(["predict", str(run), str(folder), "--out", str(tmp_path / "out"), "--cpu"]) == 1
    told = capsys.readouterr().err
    assert "omniad: 5 of 11 images could not be read and were skipped: " in told
    skipped = {Path(row["path"]).name: row["reason"] for row in rows(tmp_path / "out/skipped.csv")}
    assert skipped == {
        "caf\\udce9.png": "whose name is not UTF-8 or has control characters",
        "dangling.png": "a broken or circular link",
        "fifo.png": "a FIFO",
        "loop.png": "a broken or circular link",
        "text.png": "not readable as an image",
    }
    done = rows(tmp_path / "out/scores.csv")
    assert {Path(row["path"]).name[:3] for row in done} == {"000", "001", "002", "3.p", "xxx"}
    assert len({row["name"] for row in done}) == 6
    for row in done:
        assert (tmp_path / f"out/maps/{row['name']}.npy").exists()
        assert (tmp_path / f"out/overlays/{row['name']}.png").exists()


def test_odd_files_that_are_named_one_by_one(detector, tmp_path):
    """As `images/*` of a shell names them."""
    folder = write_images(tmp_path, 1)
    os.mkfifo(folder / "fifo.png")
    (folder / "dangling.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match=r"2 of 3 images could not be read .*not a regular file but a FIFO"):
        predict(detector, sorted(folder.glob("*.png")), tmp_path / "out")
    assert len(rows(tmp_path / "out/scores.csv")) == 1


def test_long_names_are_cut_and_stay_different():
    files = [Path(f"a/{'é' * 120}{number}.png") for number in range(3)]
    names = output_names(files)
    assert len(set(names)) == 3
    assert all(len(name.encode()) <= 180 and name.startswith("é" * 80) for name in names)


def test_earlier_results_are_neither_scored_nor_left_beside_new_ones(detector, tmp_path):
    folder = write_images(tmp_path / "in", 3)
    predict(detector, [folder], folder / "out", full_size=True)
    (folder / "out/maps/.000.npy.k1ll3d").touch()
    found = predict(detector, [folder], tmp_path / "other")  # the first call's results lie among the images
    assert [Path(row.path).name for row in found] == ["000.png", "001.png", "002.png"]
    (folder / "000.png").unlink()
    predict(detector, [folder], folder / "out")
    assert sorted(path.name for path in (folder / "out/maps").iterdir()) == ["001.npy", "002.npy"]
    assert sorted(path.name for path in (folder / "out/overlays").iterdir()) == ["001.png", "002.png"]
    assert not list((folder / "out/full_size_maps").iterdir())


def test_a_persons_own_files_in_the_folder_of_results_are_left_alone(detector, tmp_path):
    mine = tmp_path / "out/maps/mine.npy"
    mine.parent.mkdir(parents=True)
    mine.touch()  # there is no scores.csv of predict beside it
    predict(detector, [write_images(tmp_path / "in", 1)], tmp_path / "out")
    assert mine.exists()


@pytest.mark.parametrize("threshold", ["nan", "inf", "-inf"])
def test_a_threshold_that_is_no_number_is_refused(run, tmp_path, threshold, capsys):
    with pytest.raises(SystemExit):
        main(["predict", str(run), str(tmp_path), "--json", f"--threshold={threshold}"])
    assert "must be a finite number" in capsys.readouterr().err
    with pytest.raises(UserError, match="must be a finite number"):
        Detector(run, "cpu", float(threshold))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_is_done_when_a_call_is_ended_stays(run, tmp_path, number, status):
    folder = write_images(tmp_path / "in", 200)
    command = [
        sys.executable,
        "-m",
        "omniad",
        "predict",
        str(run),
        str(folder),
        "--out",
        str(tmp_path / "out"),
        "--cpu",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    scores, deadline = tmp_path / "out/scores.csv", time.monotonic() + 120
    while not (scores.exists() and len(scores.read_text().splitlines()) > 5):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == status, told
    assert "of 200 images; their results are in" in told and "The same command starts over" in told
    done = rows(scores)
    assert 5 <= len(done) < 200
    for row in done:
        assert float(row["score"]) == pytest.approx(np.load(tmp_path / f"out/maps/{row['name']}.npy").max())


def chunks(content: bytes) -> list[tuple[int, bytes, int]]:
    """Position, kind and length of a PNG's chunks, by its specification."""
    found, position = [], 8
    while position < len(content):
        length, kind = struct.unpack(">I4s", content[position : position + 8])
        found.append((position, kind, length))
        position += 12 + length
    return found


def test_a_png_whose_checksums_are_wrong_is_damaged(tmp_path):
    file = tmp_path / "a.png"
    write_image(file)
    whole = file.read_bytes()
    for position, kind, length in chunks(whole):
        checksum = position + 8 + length
        assert zlib.crc32(whole[position + 4 : checksum]) == struct.unpack(">I", whole[checksum : checksum + 4])[0]
        file.write_bytes(whole[:checksum] + bytes([whole[checksum] ^ 1]) + whole[checksum + 1 :])
        with pytest.raises(ValueError, match=f"the checksum of its {kind.decode()} chunk is wrong"):
            decode_image(file)
    for position in range(60, len(whole) - 20, len(whole) // 30):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        with pytest.raises(ValueError, match=r"damaged|cut off"):
            decode_image(file)
    for end in (1, 12, 40, 400):
        file.write_bytes(whole[:-end])
        with pytest.raises(ValueError, match="cut off"):
            decode_image(file)
    file.write_bytes(whole + b"what comes after the end")
    assert decode_image(file).size == (64, 64)


def test_an_image_with_too_many_pixels_is_refused_with_the_number_and_the_remedy(run, tmp_path, capsys, monkeypatch):
    """20,001 x 20,000 pixels are announced by a few bytes, of which none more is read."""
    write_image(tmp_path / "small.png")
    small = (tmp_path / "small.png").read_bytes()
    header = b"IHDR" + struct.pack(">II", 20_001, 20_000) + small[24:29]
    large = small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]
    (tmp_path / "large.png").write_bytes(large)
    assert main(["predict", str(run), str(tmp_path / "large.png"), "--json", "--cpu"]) == 1
    told = capsys.readouterr().err
    assert (
        "too large: 20001x20000, 400 million pixels; at most 400 million are allowed: make it smaller, or cut" in told
    )
    monkeypatch.setattr(opening, "MOST_PIXELS", 10**9)
    header = opening.read_header(tmp_path / "large.png", turned=False)  # PIL's own limit is not in the way
    assert header.size == (20_001, 20_000)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_deep_images_that_hold_0_to_255_are_read_as_such(tmp_path, kind):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    file = tmp_path / ("a.png" if kind is np.uint16 else "a.tif")
    Image.fromarray(grey.astype(kind)).save(file)
    np.testing.assert_array_equal(np.asarray(decode_image(file))[..., 0], grey)


def test_json_of_a_finite_threshold_is_json(run, tmp_path, capsys):
    file = write_images(tmp_path, 1) / "000.png"
    assert main(["predict", str(run), str(file), "--json", "--threshold", "1e300", "--cpu"]) == 0
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["verdict"] == "good"
