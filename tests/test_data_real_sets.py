"""The way of the real data sets, gone by the miniatures: address, archive, folder, index, pack, in one workflow."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from file_server import serve
from PIL import Image
from project_copy import REPOSITORY, copy_project

from omniad.cli import main
from omniad.config import SourceSettings
from omniad.data.index import read_index, write_index
from omniad.data.packs import open_pack
from omniad.miniature import write_miniature, writers

SIZE = 64
TOKEN = "hf_the-users-own-token"
LAYOUTS = ("mvtec", "visa", "realiad")


@pytest.fixture(scope="module")
def miniatures(tmp_path_factory):
    """The three miniatures with a few images a class."""
    folder = tmp_path_factory.mktemp("miniatures")
    with pytest.MonkeyPatch.context() as patch:
        for counts in (writers.MVTEC_COUNTS, writers.VISA_COUNTS):
            for kind, count in {"train": 3, "good": 2, "defective": 3}.items():
                patch.setitem(counts, kind, count)
        for kind, count in {"train": 1, "good": 1, "defective": 2}.items():
            patch.setitem(writers.REALIAD_COUNTS, kind, count)
        for layout in LAYOUTS:
            write_miniature(layout, folder / layout)
    return folder


@pytest.fixture(scope="module")
def indexes(miniatures):
    """The index of each miniature, made straight from its folder."""
    made = {}
    for layout in LAYOUTS:
        source = SourceSettings(title=layout, layout=layout, folder=str(miniatures / layout))
        write_index(source, miniatures / f"{layout}.csv")
        made[layout] = read_index(miniatures / f"{layout}.csv")
        counts = made[layout].groupby(["class", "split", "defect"]).size().reset_index(name="images")
        counts.to_csv(miniatures / f"{layout}-counts.csv", index=False)
    return made


@pytest.fixture(scope="module")
def server(miniatures, indexes):
    """Archives as their distributors give them out: tar.xz, tar, and on the hub one zip a class."""
    with serve() as running:
        modes: Any = (("mvtec.tar.xz", "w:xz"), ("visa.tar", "w"))
        for name, mode in modes:
            folder = miniatures / name.partition(".")[0]
            with tarfile.open(miniatures / name, mode) as archive:
                for path in sorted(folder.iterdir()):
                    archive.add(path, path.name)
            running.add(f"/{name}", (miniatures / name).read_bytes(), break_after=2**18, breaks=1)
        parts = {"realiad_jsons.zip": "realiad_jsons/realiad_jsons"}
        parts |= {f"realiad_1024/{name}.zip": f"realiad_1024/{name}" for name in set(indexes["realiad"]["class"])}
        for name, part in parts.items():
            root = miniatures / "realiad"
            base = root if name == "realiad_jsons.zip" else root / "realiad_1024"
            with zipfile.ZipFile(miniatures / "part.zip", "w") as archive:
                for path in sorted((root / part).rglob("*.*")):
                    archive.write(path, path.relative_to(base))
            running.add_hub_file("Real-IAD/Real-IAD", name, (miniatures / "part.zip").read_bytes())
        running.add("/page", b"")
        yield running


@pytest.fixture(scope="module")
def clone(tmp_path_factory, miniatures, server):
    """The project as a fresh clone has it, with the addresses of the test's server."""
    folder = copy_project(tmp_path_factory.mktemp("clone"))
    sources = {"realiad": {"url": server.url + "/page", "counts": str(miniatures / "realiad-counts.csv")}}
    for name, file in (("mvtec", "mvtec.tar.xz"), ("visa", "visa.tar")):
        content = (miniatures / file).read_bytes()
        sources[name] = {
            "url": f"{server.url}/{file}",
            "size_bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "counts": str(miniatures / f"{name}-counts.csv"),
        }
    sources["realiad"]["size_bytes"] = 10**6
    overlay = {"sources": sources, "data": {"image_size": SIZE}}
    (folder / "small.yaml").write_text(yaml.safe_dump(overlay))
    return folder


def snakemake(clone, *arguments, endpoint="http://127.0.0.1:9", expect=0) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": str(clone),
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(clone / "hub"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    command = [sys.executable, "-m", "snakemake", "--cores", "all", *arguments, "--configfile", "small.yaml"]
    answer = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    output = answer.stdout + answer.stderr
    assert answer.returncode == expect, output
    return output


def tree(folder):
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_from_an_address_to_packed_arrays_and_never_again_without_need(clone, server, miniatures, indexes):
    pytest.importorskip("huggingface_hub", reason="Real-IAD's way needs the extra `realiad`")
    output = snakemake(clone, "data", endpoint=server.url)
    for layout in LAYOUTS:
        index = read_index(clone / f"data/prepared/{layout}/index.csv")
        pd.testing.assert_frame_equal(index, indexes[layout])
        pack = open_pack(clone / f"data/prepared/{layout}/{SIZE}")
        for row in range(0, len(index), 7):
            with Image.open(miniatures / layout / index["image"][row]) as image:
                expected = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(pack.images[row], np.asarray(expected))
        assert pack.mask_bits[(index["mask"] == "").to_numpy()].sum() == 0
    for told in ("CC BY-NC-SA 4.0", "CC BY 4.0", "on the conditions accepted at its page"):
        assert told in output
    record = json.loads((clone / "data/archives/mvtec_anomaly_detection.tar.xz.json").read_text())
    assert (record["licence"], record["verified_by"]) == ("CC BY-NC-SA 4.0 (no commercial use)", "published sha256")
    assert TOKEN not in output
    kept = [file for file in clone.rglob("*") if file.is_file() and TOKEN.encode() in file.read_bytes()]
    assert kept == []
    assert any(authorization == f"Bearer {TOKEN}" for *_, authorization in server.requests)
    assert not list((clone / "data").glob("**/.*.part"))

    assert "Nothing to be done" in snakemake(clone, "data")
    # Even when all is made anew, a folder that is there is used: nothing is fetched, and none of its files is touched.
    shutil.rmtree(clone / "data/archives")
    before = tree(clone / "data/mvtec")
    snakemake(clone, "data", "-F", "--config", "datasets=[mvtec]")
    assert tree(clone / "data/mvtec") == before
    shutil.rmtree(clone / "data/visa")  # the packs are all that runs need
    assert not {"fetch", "extract", "index", "pack"} & set(re.findall(r"rule (\w+):", snakemake(clone, "data")))


@pytest.mark.parametrize(
    ("headers", "status", "told"),
    [
        (
            {"X-Error-Code": "GatedRepo"},
            403,
            "accept its conditions at https://huggingface.co/datasets/Real-IAD/Real-IAD",
        ),
        ({"X-Error-Code": "RepoNotFound"}, 401, "accept its conditions"),
        ({"X-Error-Code": "EntryNotFound"}, 404, "has no file realiad_jsons.zip"),
        ({}, 503, "could not be fetched"),
    ],
)
@pytest.mark.slow
def test_the_hubs_refusals_are_told_without_the_token(tmp_path, headers, status, told):
    pytest.importorskip("huggingface_hub")
    command = "from pathlib import Path; from omniad.data.hub import fetch_from_hub as f; " + (
        "f('Real-IAD/Real-IAD', 'realiad_jsons.zip', Path('archives/realiad_jsons.zip'))"
    )
    with serve() as server:
        server.add_hub_file("Real-IAD/Real-IAD", "realiad_jsons.zip", b"x")
        served = server.files["/datasets/Real-IAD/Real-IAD/resolve/main/realiad_jsons.zip"]
        served.status, served.headers = status, headers
        environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hub"), "HF_TOKEN": TOKEN}
        answer = subprocess.run(
            [sys.executable, "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
    assert told in answer.stderr
    assert "omniad.errors.UserError" in answer.stderr
    assert TOKEN not in answer.stdout + answer.stderr


def test_a_data_set_of_ones_own_as_the_documentation_shows_it(tmp_path, monkeypatch):
    text = (REPOSITORY / "docs/data.md").read_text().partition("# parts.yaml\n")[2].partition("```")[0]
    (tmp_path / "parts.yaml").write_text(text.replace("/data/parts", str(tmp_path / "parts")))
    for path in ("train/good/1.png", "test/good/1.png", "test/scratch/1.jpg", "ground_truth/scratch/1.png"):
        file = tmp_path / "parts/bolt" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L" if "ground" in path else "RGB", (70, 70), 255).save(file)
    monkeypatch.chdir(tmp_path)
    index, out = "data/prepared/parts/index.csv", "data/prepared/parts/256"
    for command in (
        ["index", "--dataset", "parts", "--out", index],
        ["pack", "--dataset", "parts", "--index", index, "--out", out],
    ):
        assert main([*command, "--config", "parts.yaml"]) == 0
    pack = open_pack(tmp_path / out)
    assert pack.index["label"].tolist() == [0, 1, 0]
    assert pack.mask_bits.any(axis=(1, 2)).tolist() == [False, True, False]
