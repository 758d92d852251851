"""A file is whole or not there, and a refused write says so."""

import errno
import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from omniad.errors import UserError
from omniad.files import TEMPORARY, atomic_write, read_csv, read_text, reading, sha256_file, sweep, write_csv


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


def test_threads_that_write_leave_the_processs_umask_alone(tmp_path, monkeypatch):
    """It is the whole process's: read by setting it, it may be lost where two threads do so at once."""
    before, real = os.umask(0o027), os.umask

    def slow(mask: int) -> int:
        found = real(mask)
        time.sleep(0.01)
        return found

    def write(number: int) -> None:
        with atomic_write(tmp_path / str(number)) as out:
            out.write("")

    monkeypatch.setattr(os, "umask", slow)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, range(8)))
    finally:
        after = real(before)
    assert after == 0o027
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o640}


def test_sha256_is_the_standard_one(tmp_path):
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_table_for_people_has_no_formulas_and_one_for_programs_is_exact(tmp_path):
    rows = [
        {"text": text, "number": -1.5} for text in ("=1+1", "+a", "-a", "@a", "\t=1", "a=1", "-0.5", "+1e3", "", None)
    ]
    write_csv(tmp_path / "people.csv", ["text", "number"], rows, for_people=True)
    write_csv(tmp_path / "programs.csv", ["text", "number"], rows)
    shown, exact = (
        [row["text"] for row in read_csv(tmp_path / name, ["text", "number"])]
        for name in ("people.csv", "programs.csv")
    )
    assert shown == ["'=1+1", "'+a", "'-a", "'@a", "'\t=1", "a=1", "-0.5", "+1e3", "", ""]
    assert exact == ["=1+1", "+a", "-a", "@a", "\t=1", "a=1", "-0.5", "+1e3", "", ""]
    assert {row["number"] for row in read_csv(tmp_path / "people.csv", [])} == {"-1.5"}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("a\n\x1b[31mb"), r"x\.csv: not ours \(a \[31mb\)"),
        (RecursionError(), r"x\.csv: not ours \(RecursionError\)"),
        (MemoryError(), r"x\.csv: not ours \(MemoryError\)"),
        (PermissionError(errno.EACCES, "Permission denied"), r"x\.csv: can't be read: Permission denied"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), r"x\.csv: no such file"),
        (UserError("told already"), "told already"),
    ],
)
def test_whatever_a_reader_raises_is_one_line(error, told):
    with pytest.raises(UserError, match=f"^{told}$"), reading("x.csv", "not ours"):
        raise error


def test_what_is_no_file_or_too_large_is_not_read(tmp_path):
    with pytest.raises(ValueError, match="not a file"):
        read_text(tmp_path)
    (tmp_path / "a").write_text("12345")
    with pytest.raises(ValueError, match="more than"):
        read_text(tmp_path / "a", most=4)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a file"):  # reading it would wait for ever
        read_text(tmp_path / "pipe")


def test_what_a_killed_write_left_is_swept_and_nothing_else(tmp_path):
    kept = [".lock", ".images.npy.part", "metrics.csv", ".progress.json", ".config.yaml.lock", ".a.ABCDEFGH"]
    for name in (*kept, ".metrics.csv.k3j_x9az", ".model.safetensors.abcdefgh"):
        (tmp_path / name).touch()
    with atomic_write(tmp_path / "a.txt"):
        (left,) = set(tmp_path.glob(".a.txt.*"))  # as a kill at this moment would leave it
        assert TEMPORARY.fullmatch(left.name)
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "a.txt"}
