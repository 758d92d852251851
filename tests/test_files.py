"""A file is whole or not there, and a refused write says so."""

import errno
import hashlib

import pytest

from omniad.errors import UserError
from omniad.files import TEMPORARY, atomic_write, sha256_file, sweep


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    file = tmp_path / "new" / "table.csv"
    with atomic_write(file) as out:
        out.write("a,b\n")
        assert not file.exists()
    assert file.read_text() == "a,b\n"
    assert [path.name for path in file.parent.iterdir()] == ["table.csv"]


def test_an_error_leaves_the_old_content_and_no_litter(tmp_path):
    file = tmp_path / "table.csv"
    file.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(file, "wb") as out:
        out.write(b"half")
        raise RuntimeError
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_is_one_clear_line(tmp_path):
    told = pytest.raises(UserError, match=r"table.csv: cannot write: No space left on device.*free some space")
    with told, atomic_write(tmp_path / "table.csv"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_one_clear_line(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(UserError, match="cannot write"), atomic_write(tmp_path / "results" / "table.csv"):
        pass


def test_written_files_are_readable_as_others_are(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    with atomic_write(tmp_path / "atomic") as out:
        out.write("")
    assert (tmp_path / "atomic").stat().st_mode == plain.stat().st_mode


def test_sha256_is_the_standard_one(tmp_path):
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_what_a_killed_write_left_is_swept_and_nothing_else(tmp_path):
    kept = [".lock", ".images.npy.part", "metrics.csv", ".progress.json", ".config.yaml.lock", ".a.ABCDEFGH"]
    for name in (*kept, ".metrics.csv.k3j_x9az", ".model.safetensors.abcdefgh"):
        (tmp_path / name).touch()
    with atomic_write(tmp_path / "a.txt"):
        (left,) = set(tmp_path.glob(".a.txt.*"))  # as a kill at this moment would leave it
        assert TEMPORARY.fullmatch(left.name)
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "a.txt"}
