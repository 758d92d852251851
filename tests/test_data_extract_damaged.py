"""Damaged archives: whatever byte is wrong, other files than the archived ones never appear."""

import io
import random
import shutil
import tarfile
import zipfile

import pytest
from archive_files import change, left, source, special, tar, zipped

from omniad.data import extract as extracting
from omniad.data.extract import extract_source
from omniad.errors import UserError


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("ending", ["gz", "xz", "bz2"])
def test_no_flipped_bit_gives_other_files(tmp_path, ending):
    """Refused, or (in a time or a name of gzip's own) harmless."""
    draw = random.Random(0)
    files = [(f"{number}.bin", draw.randbytes(90) * 3) for number in range(6)]
    own = tar(tmp_path, *files, mode=f"w:{ending}", name=f"set.tar.{ending}")
    archive, harmless = tmp_path / f"set.tar.{ending}", 0
    whole = archive.read_bytes()
    for bit in range(0, 8 * len(whole), max(1, len(whole) // 25)):
        archive.write_bytes(flipped(whole, bit))
        try:
            extract_source(own)
        except UserError:
            assert left(tmp_path) in ([], [archive.name])
            continue
        harmless += 1
        assert {path.name: path.read_bytes() for path in (tmp_path / "set").glob("*.bin")} == dict(files)
        shutil.rmtree(tmp_path / "set")
    assert harmless <= 10


@pytest.mark.parametrize("end", [1, 4, 9, 30])
@pytest.mark.parametrize("ending", ["gz", "xz", "bz2"])
def test_an_archive_without_its_last_bytes_is_cut_off(tmp_path, ending, end):
    own = tar(tmp_path, ("a", b"one"), mode=f"w:{ending}", name=f"set.tar.{ending}")
    archive = tmp_path / f"set.tar.{ending}"
    archive.write_bytes(archive.read_bytes()[:-end])
    with pytest.raises(UserError, match="damaged or cut off"):
        extract_source(own)


@pytest.mark.parametrize(
    ("position", "content", "told"),
    [
        (1024, b"X", "bad checksum, at byte 1,024"),  # the second member's header
        (1024, bytes(512), "data follows after its end"),  # the same, wiped out
        (0, b"X", "bad checksum, at byte 0"),
        (1024 + 124, b"99999999999", "bad checksum"),
    ],
)
def test_a_damaged_header_does_not_end_a_tar(tmp_path, position, content, told):
    own = tar(tmp_path, ("a", b"one"), ("b", b"two"))
    change(tmp_path / "set.tar", position, content)
    with pytest.raises(UserError, match=told):
        extract_source(own)
    assert left(tmp_path) == []


def test_a_tar_without_its_end_is_cut_off(tmp_path):
    own = tar(tmp_path, ("a", b"one"), ("b", b"two"))
    archive = tmp_path / "set.tar"
    archive.write_bytes(archive.read_bytes()[:2048])  # both members, whole
    with pytest.raises(UserError, match="empty header"):
        extract_source(own)


@pytest.mark.parametrize("size", ["-512", "-1"])
def test_a_size_below_zero_is_refused(tmp_path, size):
    info = tarfile.TarInfo("a")
    info.pax_headers = {"size": size}
    with tarfile.open(tmp_path / "set.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info)
    with pytest.raises(UserError, match="has a negative size"):
        extract_source(source(tmp_path, "set.tar"))


def test_a_header_of_gigabytes_is_refused(tmp_path):
    info = special("a", b"x")
    info.size = 2**31
    (tmp_path / "set.tar").write_bytes(info.tobuf() + bytes(1024))
    with pytest.raises(UserError, match="a header of 2,147,483,648 bytes"):
        extract_source(source(tmp_path, "set.tar"))


def test_one_limit_for_an_archive_and_all_inside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(extracting, "SMALL_BYTES", 2**20)
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(2**20 - 2**14))
    with pytest.raises(UserError, match="unpacks to more than"):
        extract_source(zipped(tmp_path, *((f"{number}.ZIP", inner.getvalue()) for number in range(3))))
    assert left(tmp_path) == []
    extract_source(zipped(tmp_path, ("0.zip", inner.getvalue())))
