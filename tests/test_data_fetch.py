"""Fetching from a server that breaks off, lies, is busy or gives wrong bytes: the right file, or one clear message."""

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import yaml
from file_server import serve

from omniad.config import DownloadSettings, Settings, load_settings
from omniad.data import download
from omniad.data.download import unreachable
from omniad.data.fetch import fetch, fetch_archives, fetch_named
from omniad.data.remote import RemoteFile
from omniad.errors import UserError
from omniad.locks import locked

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "BACKOFF_S", 0.0)
    with serve() as running:
        yield running


@pytest.fixture
def place(tmp_path):
    return tmp_path / "archives" / "set.tar"


def remote(place, *urls, size=300_000, sha256=SHA256):
    return RemoteFile(place, "Set", "CC BY 4.0", urls, size, sha256)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_comes_with_a_record_beside_it(server, place):
    url = server.add("/set.tar", CONTENT)
    facts = fetch(remote(place, url))
    assert place.read_bytes() == CONTENT
    assert facts == {"file": "set.tar", "bytes": 300_000, "sha256": SHA256}
    record = json.loads((place.parent / "set.tar.json").read_text())
    assert (record["from"], record["licence"], record["sha256"]) == (url, "CC BY 4.0", SHA256)
    assert names(place.parent) == ["set.tar", "set.tar.json"]


def test_a_broken_transfer_goes_on_where_it_was(server, place):
    url = server.add("/set.tar", CONTENT, break_after=2**17)
    fetch(remote(place, url))
    assert place.read_bytes() == CONTENT
    assert server.ranges("/set.tar") == ["", f"bytes={2**17}-", f"bytes={2**18}-"]


def test_a_server_without_range_starts_anew(server, place):
    url = server.add("/set.tar", CONTENT, ignores_range=True, break_after=2**17, breaks=2)
    fetch(remote(place, url))
    assert place.read_bytes() == CONTENT


def test_without_a_hash_nothing_is_resumed(server, place):
    url = server.add("/set.tar", CONTENT, break_after=2**17, breaks=1)
    fetch(remote(place, url, sha256=""))
    assert server.ranges("/set.tar") == ["", ""]
    assert "nothing published" in json.loads((place.parent / "set.tar.json").read_text())["verified_by"]


@pytest.mark.parametrize("here", [CONTENT, b"x" * 400_000])
def test_a_part_with_nothing_left_to_ask_for_is_fetched_anew(server, place, here):
    """Of unknown size, as most weights; a kill after its last byte left it whole, or it is of another file."""
    url = server.add("/set.tar", CONTENT)
    place.parent.mkdir()
    (place.parent / ".set.tar.part").write_bytes(here)
    fetch(remote(place, url, size=0))
    assert place.read_bytes() == CONTENT
    assert server.ranges("/set.tar") == [f"bytes={len(here)}-", ""]


def test_a_server_that_always_breaks_off_at_the_same_place_is_given_up(server, place):
    url = server.add("/set.tar", CONTENT, ignores_range=True, break_after=2**17)
    with pytest.raises(UserError, match=r"broke off.*put it at .*set\.tar"):
        fetch(remote(place, url))
    assert not place.exists()


def test_a_busy_server_is_asked_again_and_its_hour_is_not_waited_for(server, place):
    url = server.add("/set.tar", CONTENT, busy=4)
    fetch(remote(place, url))
    assert place.read_bytes() == CONTENT


def test_a_server_that_stays_busy_is_named(server, place):
    url = server.add("/set.tar", CONTENT, status=503)
    with pytest.raises(UserError, match=r"127\.0\.0\.1/set\.tar: answers 503"):
        fetch(remote(place, url))


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [({"status": 404}, "answers 404"), ({"announced": 500_000}, "offers 500,000 bytes instead of 300,000")],
)
def test_the_next_mirror_is_taken(server, place, caplog, behaviour, told):
    caplog.set_level("INFO")
    bad, good = server.add("/bad.tar", CONTENT, **behaviour), server.add("/good.tar", CONTENT)
    fetch(remote(place, bad, good))
    assert place.read_bytes() == CONTENT
    assert told in caplog.text
    assert json.loads((place.parent / "set.tar.json").read_text())["from"] == good


def test_wrong_bytes_are_thrown_away_and_the_next_mirror_is_taken(server, place):
    bad, good = server.add("/bad.tar", bytes(300_000)), server.add("/good.tar", CONTENT)
    fetch(remote(place, bad, good))
    assert place.read_bytes() == CONTENT
    assert server.ranges("/good.tar") == [""]


def test_wrong_bytes_alone_end_in_a_message_and_nothing_is_left(server, place):
    url = server.add("/set.tar", bytes(300_000))
    with pytest.raises(UserError, match=f"has sha256 {hashlib.sha256(bytes(300_000)).hexdigest()} instead of {SHA256}"):
        fetch(remote(place, url))
    assert names(place.parent) == []


def test_a_part_of_wrong_bytes_does_not_spoil_the_right_address(server, place):
    place.parent.mkdir()
    (place.parent / ".set.tar.part").write_bytes(bytes(100_000))
    url = server.add("/set.tar", CONTENT)
    fetch(remote(place, url))
    assert place.read_bytes() == CONTENT
    assert server.ranges("/set.tar") == ["bytes=100000-", ""]


def test_a_size_too_small_in_the_header_is_not_believed(server, place):
    url = server.add("/set.tar", CONTENT, announced=100_000)
    with pytest.raises(UserError, match="offers 100,000 bytes instead of 300,000"):
        fetch(remote(place, url))


def test_more_bytes_than_the_file_has_are_refused(server, place):
    url = server.add("/set.tar", CONTENT + b"more", announced=300_000)
    fetch(remote(place, url))  # HTTP ends at the announced length
    assert place.read_bytes() == CONTENT
    place.unlink()
    longer = server.add("/longer.tar", CONTENT + b"more")
    with pytest.raises(UserError, match="offers 300,004 bytes"):
        fetch(remote(place, longer))


def test_another_part_than_asked_for_is_refused(server, place):
    url = server.add("/set.tar", CONTENT, break_after=2**17, wrong_part=True)
    with pytest.raises(UserError, match="a different part"):
        fetch(remote(place, url))
    assert not place.exists()


def test_a_file_put_there_by_hand_is_verified_the_same_way(server, place):
    place.parent.mkdir()
    place.write_bytes(CONTENT)
    assert fetch(remote(place))["sha256"] == SHA256
    assert json.loads((place.parent / "set.tar.json").read_text())["from"] == "put in place by hand"
    place.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=r"set\.tar: has 299,999 bytes instead of 300,000; remove it"):
        fetch(remote(place))
    place.write_bytes(bytes(300_000))
    with pytest.raises(UserError, match="instead of " + SHA256):
        fetch(remote(place))
    assert place.read_bytes() == bytes(300_000)  # a user's file is never removed
    assert server.requests == []


def test_without_a_published_hash_the_first_one_is_recorded_and_holds(place):
    place.parent.mkdir()
    place.write_bytes(CONTENT)
    fetch(remote(place, size=0, sha256=""))
    place.write_bytes(CONTENT + b"x")
    with pytest.raises(UserError, match="recorded " + SHA256):
        fetch(remote(place, size=0, sha256=""))


def test_the_start_of_a_hash_is_enough_for_weights(server, tmp_path):
    settings = Settings.model_validate({"data": {"weights": str(tmp_path)}, "datasets": ["x"], "sources": {}})
    with pytest.raises(UserError, match=r"unknown 'resnet34.*; choose from: .*resnet34-b627a593\.pth"):
        fetch_named(settings, "resnet34")
    (tmp_path / "resnet34-b627a593.pth").write_bytes(b"not the weights")
    with pytest.raises(UserError, match="instead of b627a593; remove it"):
        fetch_named(settings, "resnet34-b627a593.pth")
    name = tmp_path / "net.pth"
    fetch(remote(name, server.add("/net.pth", CONTENT), size=0, sha256=SHA256[:8]))
    assert name.read_bytes() == CONTENT


def test_an_extracted_folder_needs_no_archive(tmp_path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "set" / "part").mkdir(parents=True)
    source = DownloadSettings(title="Set", folder=str(tmp_path / "set"), url="http://127.0.0.1:9/x", archive="x.tar")
    assert fetch_archives(source) == []
    assert "used as it is" in caplog.text


def test_the_licence_is_told(server, tmp_path, caplog):
    caplog.set_level("INFO")
    archive = str(tmp_path / "set.tar")
    url = server.add("/set.tar", CONTENT)
    source = DownloadSettings(title="Set", folder=str(tmp_path / "set"), url=url, archive=archive, licence="CC BY 4.0")
    fetch_archives(source)
    assert f"licence: CC BY 4.0. See {url}" in caplog.text


def test_a_query_with_a_key_is_never_shown(server, place, caplog):
    caplog.set_level("INFO")
    with pytest.raises(UserError) as raised:
        fetch(remote(place, server.url + "/none?key=secret"))
    assert "secret" not in str(raised.value) + caplog.text


def test_a_second_process_is_refused(place):
    with locked(place), pytest.raises(UserError, match="another process"), locked(place):
        pass
    with locked(place):
        pass
    assert names(place.parent) == []


def test_a_full_disk_is_told_and_the_part_stays(server, place, monkeypatch):
    url = server.add("/set.tar", CONTENT)
    opened = type(place).open

    def full(self, mode="r", *arguments, **options):
        if mode == "ab" and self.name.endswith(".part"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(self, mode, *arguments, **options)

    place.parent.mkdir()
    (place.parent / ".set.tar.part").write_bytes(CONTENT[:100_000])
    monkeypatch.setattr(type(place), "open", full)
    with pytest.raises(UserError, match="No space left on device; free some space"):
        fetch(remote(place, url))
    assert (place.parent / ".set.tar.part").read_bytes() == CONTENT[:100_000]


def test_an_address_that_nothing_answers_at_is_told_at_once(server):
    assert unreachable(server.add("/set.tar", CONTENT)) == ""
    assert unreachable(server.url + "/none") == "answers 404"
    started = time.monotonic()
    assert unreachable("http://127.0.0.1:9/") == "can't be reached"
    assert time.monotonic() - started < 5


def test_kill_in_the_middle_then_the_same_command_goes_on(server, tmp_path):
    content = random.Random(1).randbytes(4_000_000)
    url = server.add("/set.tar", content, piece_s=0.02)
    source = {"title": "Set", "layout": "mvtec", "folder": "set", "url": url, "archive": "set.tar"}
    overlay = {"sources": {"own": source | {"sha256": hashlib.sha256(content).hexdigest()}}, "datasets": ["own"]}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(overlay))
    command = [sys.executable, "-m", "omniad", "fetch", "own", "--config", "own.yaml", "--stamp", "fetched.json"]
    process = subprocess.Popen(command, cwd=tmp_path)
    part = tmp_path / ".set.tar.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 1_000_000):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "set.tar").exists()
    server.files["/set.tar"].piece_s = 0
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "set.tar").read_bytes() == content
    assert int(server.ranges("/set.tar")[1].removeprefix("bytes=").removesuffix("-")) > 1_000_000
    assert names(tmp_path) == ["fetched.json", "own.yaml", "set.tar", "set.tar.json"]


def test_the_shipped_addresses_are_those_of_the_data_sets():
    """Sizes and hashes from the data sets' distributors; Real-IAD's from its hub, which publishes none."""
    sources = load_settings().sources
    assert (sources["mvtec"].size_bytes, sources["mvtec"].sha256[:8]) == (5_264_982_680, "cf4313b1")
    assert (sources["visa"].size_bytes, sources["visa"].sha256[:8]) == (1_929_840_640, "2eb8690c")
    assert sources["realiad"].hub == "Real-IAD/Real-IAD"
