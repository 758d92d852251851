"""Hostile and damaged archives leave nothing behind; a folder is whole or not there."""

import hashlib
import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile

import pytest
import yaml
from archive_files import change, left, source, special, tar, zipped

from omniad.data import extract as extracting
from omniad.data.extract import STAMP, extract_source
from omniad.errors import UserError


@pytest.mark.parametrize("mode", ["w", "w:xz", "w:gz"])
def test_a_tar_becomes_the_folder(tmp_path, mode):
    name = "set.tar" + mode[1:].replace(":", ".")
    own = tar(tmp_path, ("a/train/good/000.png", b"one"), ("readme.txt", b"two"), mode=mode, name=name)
    extract_source(own)
    assert (tmp_path / "set/a/train/good/000.png").read_bytes() == b"one"
    assert json.loads((tmp_path / "set" / STAMP).read_text()) == {"archives": [name]}
    assert not list(tmp_path.glob(".*"))


def test_zips_in_a_zip_are_extracted_where_they_lie(tmp_path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("audiojack/OK/1.jpg", b"jpg")
    flat = io.BytesIO()
    with zipfile.ZipFile(flat, "w") as archive:
        archive.writestr("OK/1.jpg", b"jpg")
    extract_source(zipped(tmp_path, ("r/audiojack.zip", inner.getvalue()), ("r/bottle_cap.zip", flat.getvalue())))
    for name in ("audiojack", "bottle_cap"):
        assert (tmp_path / f"set/r/{name}/OK/1.jpg").read_bytes() == b"jpg"
        assert not (tmp_path / f"set/r/{name}.zip").exists()


@pytest.mark.parametrize("name", ["../out.txt", "/out.txt", "a/../../out.txt", "C:/out.txt", "a\\..\\..\\out.txt"])
@pytest.mark.parametrize("make", [tar, zipped])
def test_no_path_outside_the_folder(tmp_path, make, name):
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(UserError, match="a path outside its folder"):
        extract_source(make(inside, ("a.txt", b"fine"), (name, b"hostile")))
    assert left(inside) == []
    assert left(tmp_path) == ["inside"]


@pytest.mark.parametrize(
    ("member", "told"),
    [
        (special("a", tarfile.SYMTYPE, "/etc/passwd"), "a link, 'a'"),
        (special("a", tarfile.SYMTYPE, "b"), "a link"),
        (special("a", tarfile.LNKTYPE, "ok.txt"), "a link"),
        (special("a", tarfile.CHRTYPE), "a device"),
        (special("a", tarfile.FIFOTYPE), "a device or other special file"),
        (special("../up", tarfile.DIRTYPE), "a path outside"),
    ],
)
def test_nothing_but_files_and_folders(tmp_path, member, told):
    with pytest.raises(UserError, match=told):
        extract_source(tar(tmp_path, ("ok.txt", b"fine"), member))
    assert left(tmp_path) == []


def test_no_link_in_a_zip(tmp_path):
    info = zipfile.ZipInfo("a")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(UserError, match="a link or special file, 'a'"):
        extract_source(zipped(tmp_path, (info, b"/etc/passwd")))
    assert left(tmp_path) == []


def test_nothing_is_written_through_a_name_given_twice(tmp_path):
    with pytest.raises(UserError, match=r"contains 'a\.txt' twice"):
        extract_source(tar(tmp_path, ("a.txt", b"one"), ("a.txt", b"two")))
    assert left(tmp_path) == []


def test_a_bomb_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(extracting, "SMALL_BYTES", 2**20)
    with pytest.raises(UserError, match=r"unpacks to more than 0\.0 GiB"):
        extract_source(zipped(tmp_path, ("zeros", bytes(50 * 2**20))))
    assert left(tmp_path) == []


def test_too_many_files_are_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(extracting, "MOST_FILES", 5)
    with pytest.raises(UserError, match="more than 5 files"):
        extract_source(tar(tmp_path, *((f"{number}.txt", b"") for number in range(6))))
    assert left(tmp_path) == []


def test_permissions_are_those_of_any_new_file(tmp_path):
    info = tarfile.TarInfo("a.txt")
    info.mode = 0o6777
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.addfile(info, io.BytesIO())
    extract_source(source(tmp_path, "set.tar"))
    assert not (tmp_path / "set/a.txt").stat().st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IXUSR)


@pytest.mark.parametrize(("name", "keep"), [("set.tar", 0.5), ("set.tar.xz", 0.5), ("set.zip", 0.5), ("set.tar", 0.0)])
def test_a_cut_off_archive_is_told_and_nothing_is_left(tmp_path, name, keep):
    content = os.urandom(200_000)
    if name.endswith(".zip"):
        own = zipped(tmp_path, ("a", content), ("b", content))
    else:
        own = tar(tmp_path, ("a", content), ("b", content), mode="w:xz" if name.endswith("xz") else "w", name=name)
    file = tmp_path / name
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * keep)])
    with pytest.raises(UserError, match="damaged or cut off"):
        extract_source(own)
    assert left(tmp_path) == []


def test_a_byte_changed_in_a_zip_is_found(tmp_path):
    own = zipped(tmp_path, ("a", os.urandom(100_000)))
    file = tmp_path / "set.zip"
    content = bytearray(file.read_bytes())
    content[5000] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        extract_source(own)
    assert left(tmp_path) == []


def test_a_folder_that_is_there_is_used_as_it_is(tmp_path):
    own = tar(tmp_path, ("a.txt", b"from the archive"))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.txt").write_bytes(b"the user's")
    extract_source(own)
    assert (tmp_path / "set" / "a.txt").read_bytes() == b"the user's"
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["a.txt"]


def test_an_empty_folder_is_filled(tmp_path):
    own = tar(tmp_path, ("a.txt", b"x"))
    (tmp_path / "set").mkdir()
    extract_source(own)
    assert (tmp_path / "set" / "a.txt").exists()


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(
        UserError,
        match=r"nothing to extract: .*set\.tar is missing; `omniad fetch` gets it, or put its files ",
    ):
        extract_source(source(tmp_path, "set.tar"))


def test_a_full_disk_leaves_nothing_half_made(small_disk):
    own = tar(small_disk, ("a", os.urandom(1_500_000)), ("b", os.urandom(1_500_000)))
    with pytest.raises(UserError, match="No space left on device; free some space"):
        extract_source(own)
    assert left(small_disk) == []
    assert (small_disk / "set.tar").exists()


def test_kill_in_the_middle_then_the_same_command_ends_right(tmp_path):
    tar(tmp_path, *((f"{number // 100}/{number}.txt", b"x" * 100) for number in range(10_000)))
    overlay = {"title": "Set", "layout": "mvtec", "folder": "set", "archive": "set.tar"}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"sources": {"own": overlay}, "datasets": ["own"]}))
    command = [sys.executable, "-m", "omniad", "extract", "own", "--config", "own.yaml", "--stamp", "extracted.json"]
    process = subprocess.Popen(command, cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / ".set.extracting" / "10").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "set").exists()
    assert not (tmp_path / "extracted.json").exists()
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert len(list((tmp_path / "set").glob("*/*.txt"))) == 10_000
    assert left(tmp_path) == ["extracted.json", "own.yaml", "set"]


def test_an_archive_is_what_is_published_or_was_recorded(tmp_path):
    own = tar(tmp_path, ("a", b"one"))
    archive = tmp_path / "set.tar"
    sha256, size = hashlib.sha256(archive.read_bytes()).hexdigest(), archive.stat().st_size
    known = own.model_copy(update={"sha256": sha256, "size_bytes": size})
    change(archive, 512, b"two")  # content of a plain tar has no checksum of its own
    with pytest.raises(UserError, match=f"instead of {sha256}; remove it and fetch it again"):
        extract_source(known)
    (tmp_path / "set.tar.json").write_text(json.dumps({"sha256": sha256}))
    with pytest.raises(UserError, match="recorded"):
        extract_source(own)
    assert not (tmp_path / "set").exists()
    change(archive, 512, b"one")
    extract_source(known)


def test_a_name_too_long_for_the_disk_is_told(tmp_path):
    with pytest.raises(UserError, match="a name too long for this file system"):
        extract_source(tar(tmp_path, ("x" * 300, b"one")))
