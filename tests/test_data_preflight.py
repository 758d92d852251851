"""What is missing is told before anything is fetched or trained, all of it at once."""

import subprocess
from collections.abc import Iterator

import pytest
from file_server import FileServer, serve

from omniad.config import Settings, SourceSettings, load_settings, merge, run_settings
from omniad.data import preflight as preflighting
from omniad.data.preflight import preflight
from omniad.errors import UserError


@pytest.fixture(scope="module")
def server() -> Iterator[FileServer]:
    with serve() as running:
        running.add("/visa.tar", b"an archive")
        yield running


def settings_for(folder, **source):
    """One data set of one's own in a folder, and what preflight is asked about it."""
    own = {"title": "Own", "layout": "mvtec", "folder": str(folder / "own")} | source
    return SourceSettings.model_validate(own), load_settings().data


def test_what_can_be_fetched_is_no_problem(tmp_path, server):
    source, data = settings_for(tmp_path, url=f"{server.url}/visa.tar", archive=str(tmp_path / "own.tar"))
    preflight({"own": source}, [], data)


def test_a_mirror_is_enough_and_a_dead_link_is_told(tmp_path, server):
    dead = {"url": f"{server.url}/none.tar", "archive": str(tmp_path / "own.tar")}
    source, data = settings_for(tmp_path, **dead, mirrors=[f"{server.url}/visa.tar"])
    preflight({"own": source}, [], data)
    source, data = settings_for(tmp_path, **dead)
    with pytest.raises(UserError, match=r"Own: 127\.0\.0\.1 answers 404\. Get it from .*own\.tar in place, or put"):
        preflight({"own": source}, [], data)


def test_what_was_put_there_by_hand_needs_no_network(tmp_path):
    away = {"url": "http://127.0.0.1:9/own.tar", "archive": str(tmp_path / "own.tar"), "size_bytes": 3}
    source, data = settings_for(tmp_path, **away)
    with pytest.raises(UserError, match="127.0.0.1 can't be reached"):  # noqa: RUF043
        preflight({"own": source}, [], data)
    (tmp_path / "own.tar").write_bytes(b"abc")
    preflight({"own": source}, [], data)
    (tmp_path / "own.tar").write_bytes(b"ab")
    with pytest.raises(UserError, match="has 2 bytes instead of 3; remove it"):
        preflight({"own": source}, [], data)
    (tmp_path / "own/a").mkdir(parents=True)
    preflight({"own": source}, [], data)


def test_all_that_is_missing_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(preflighting, "unreachable", lambda url: "can't be reached")
    monkeypatch.setattr(preflighting, "missing_for_hub", lambda: "no token")
    usage = type("usage", (), {"free": 10**9})
    monkeypatch.setattr(preflighting.shutil, "disk_usage", lambda folder: usage)
    monkeypatch.chdir(tmp_path)
    settings = load_settings()
    runs = [run_settings(settings, "mvtec", run) for run in ("default", "default_torchvision", "resnet50", "destseg")]
    with pytest.raises(UserError) as raised:
        preflight({name: settings.sources[name] for name in settings.datasets}, runs, settings.data, settings.downloads)
    told = str(raised.value)
    assert told.startswith("9 things are missing; nothing was started.")
    for part in (
        "1. MVTec-AD: www.mydrive.ch can't be reached. Get it from https://www.mydrive.ch/",
        "put data/archives/VisA_20220922.tar in place, or put its files into data/visa/",
        "Real-IAD: no token; huggingface.co can't be reached",
        "(31 files)",
        "resnet34-b627a593.pth: download.pytorch.org can't be reached",
        "data/weights/resnet34-43635321.pth",
        "data/weights/resnet50-0676ba61.pth",
        "(DTD): www.robots.ox.ac.uk can't be reached. Get it from https://www.robots.ox.ac.uk/",
        "put data/archives/dtd-r1.0.1.tar.gz in place, or put its files into data/dtd/",
        "and 1.0 GB are free",
    ):
        assert part in told
    assert list(tmp_path.iterdir()) == []


def test_an_own_data_set_without_an_address_is_told_by_its_folder(tmp_path):
    absent = {"title": "My parts", "layout": "mvtec", "folder": str(tmp_path / "parts")}
    settings = Settings.model_validate({"datasets": ["parts"], "sources": {"parts": absent}})
    with pytest.raises(UserError, match=r"My parts: \S+/parts/ is missing or empty; put its files into \S+/parts/"):
        preflight(settings.sources, [], settings.data)


def test_a_runs_own_weights_and_textures_are_told_together(tmp_path):
    run = run_settings(load_settings(), "mvtec", "destseg")
    model = run.model.model_copy(update={"encoder_weights": str(tmp_path / "mine.pth")})
    training = run.training.model_copy(update={"textures": str(tmp_path / "mine")})
    run = run.model_copy(update={"model": model, "training": training})
    told = r"2 things are missing(.|\n)*no file \S+mine\.pth(.|\n)*mine/ is missing or empty"
    with pytest.raises(UserError, match=told):
        preflight({}, [run], run.data)


def test_a_folder_that_cannot_be_written_is_told(small_disk, monkeypatch):
    monkeypatch.setattr(preflighting, "unreachable", lambda url: "")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    monkeypatch.chdir(small_disk)
    settings = load_settings()
    with pytest.raises(UserError, match=f"{small_disk}: no permission to write here; change"):
        preflight({"mvtec": settings.sources["mvtec"]}, [], settings.data)


def test_a_smaller_resolution_needs_less_room(tmp_path, monkeypatch):
    monkeypatch.setattr(preflighting, "unreachable", lambda url: "")
    monkeypatch.setattr(preflighting, "missing_for_hub", lambda: "")
    usage = type("usage", (), {"free": 60 * 10**9})
    monkeypatch.setattr(preflighting.shutil, "disk_usage", lambda folder: usage)
    monkeypatch.chdir(tmp_path)
    values = load_settings().model_dump()
    small = merge(values["sources"]["realiad"], {"resolution": 256})
    data = load_settings().data
    with pytest.raises(UserError, match="room on the disk"):
        preflight({"realiad": SourceSettings.model_validate(values["sources"]["realiad"])}, [], data)
    preflight({"realiad": SourceSettings.model_validate(small)}, [], data)
