"""Bundles: the way there and back, and everything that a bundle from a stranger may not do."""

import hashlib
import io
import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from detector_runs import TINY
from reporting_results import paper_settings, write_examples, write_run

from omniad.bundle import bundle, unbundle
from omniad.cli import main
from omniad.config import run_settings
from omniad.detector.detector import Detector
from omniad.detector.threshold import Threshold, make_threshold, write_threshold
from omniad.errors import UserError
from omniad.files import sha256_file
from omniad.models import build_model, save_model
from omniad.reporting.report import write_report
from omniad.runs.artifacts import write_curves, write_scores
from omniad.runs.measurements import write_metrics
from omniad.runs.provenance import save_run_settings

VALUES = {"P-AP": 0.5, "mAD": 0.75}
METRICS = [(metric, definition, value) for metric, value in VALUES.items() for definition in ("exact", "published")]


@pytest.fixture
def run(tmp_path) -> Path:
    """A finished run with everything that it may hold, and what training keeps for itself."""
    folder = write_run(paper_settings(tmp_path / "home"), "mvtec", "default", 0, VALUES)
    write_metrics(folder, [(name, *line, "", math.nan) for name in ("screw", "mean") for line in METRICS])
    write_examples(folder, "bottle")
    settings = paper_settings(tmp_path / "home", model=TINY.model.model_dump())
    save_run_settings(run_settings(settings, "mvtec", "default"), folder)
    save_model(build_model(TINY.model), TINY.model, folder / "model.safetensors")
    write_threshold(folder, Threshold(0.5, 0.99, 3, 0.1, {}, sha256_file(folder / "model.safetensors")))
    (folder / "history.csv").write_text("epoch,loss\n1,2.5\n")
    np.savez(folder / "curves.npz", allow_pickle=False, **{"bottle/pro": np.zeros((2, 3), np.float32)})
    provenance = json.loads((folder / "provenance.json").read_text())
    provenance["model_sha256"] = sha256_file(folder / "model.safetensors")
    (folder / "provenance.json").write_text(json.dumps(provenance))
    (folder / "state").mkdir()
    (folder / "state" / "last.pt").write_bytes(b"private")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_what_was_bundled_comes_back_byte_for_byte(run, tmp_path, capsys):
    file = tmp_path / "default.zip"
    assert main(["bundle", str(run), "--out", str(file)]) == 0
    assert "with mvtec/default/seed0" in capsys.readouterr().out
    assert main(["unbundle", str(file), "--results", str(tmp_path / "away")]) == 0
    there = contents(tmp_path / "away")
    expected = {f"runs/mvtec/default/seed0/{name}": data for name, data in contents(run).items()}
    assert expected.pop("runs/mvtec/default/seed0/state/last.pt")  # stays at home
    assert there == expected


def test_the_threshold_comes_along_so_that_the_recipient_gets_verdicts(run, tmp_path):
    write_threshold(run, make_threshold(np.array([0.25, 0.5]), np.zeros(2), ["screw", "screw"], 1.0))
    bundle([run], tmp_path / "b.zip")
    unbundle(tmp_path / "b.zip", tmp_path / "away")
    assert Detector(tmp_path / "away/runs/mvtec/default/seed0").threshold == 0.5


def test_a_threshold_that_is_none_is_refused(run, tmp_path):
    (run / "threshold.json").write_text('{"threshold": "high"}')
    bundle([run], tmp_path / "b.zip")
    with pytest.raises(UserError, match="not a threshold"):
        unbundle(tmp_path / "b.zip", tmp_path / "away")
    assert not list((tmp_path / "away").iterdir())


def test_a_report_of_a_bundle_says_the_same_and_trains_nothing(run, tmp_path):
    bundle([run], tmp_path / "b.zip")
    unbundle(tmp_path / "b.zip", tmp_path / "away")
    reports = [write_report(paper_settings(tmp_path / name)).read_text() for name in ("home", "away")]
    assert reports[0].replace("/home/", "/away/") == reports[1]
    assert "75.0" in reports[1]


def test_the_same_runs_give_the_same_bundle(run, tmp_path):
    for name in ("a.zip", "b.zip"):
        bundle([run], tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_twice_is_once_and_another_run_in_the_place_is_kept(run, tmp_path):
    bundle([run], tmp_path / "b.zip")
    assert unbundle(tmp_path / "b.zip", tmp_path / "away") == ["mvtec/default/seed0"]
    assert unbundle(tmp_path / "b.zip", tmp_path / "away") == []
    scores = tmp_path / "away/runs/mvtec/default/seed0/scores.csv"
    scores.write_text("mine")
    with pytest.raises(UserError, match="already holds another run"):
        unbundle(tmp_path / "b.zip", tmp_path / "away")
    assert scores.read_text() == "mine"


def test_what_is_no_finished_run_is_told(run, tmp_path):
    (run / "metrics.csv").unlink()
    with pytest.raises(UserError, match=r"it has no metrics\.csv; train it, then run `omniad evaluate`"):
        bundle([run], tmp_path / "b.zip")
    assert not (tmp_path / "b.zip").exists()


def test_a_name_that_unbundle_would_not_take_is_refused(run, tmp_path):
    with pytest.raises(UserError, match=r"b\.omniad: a bundle is a zip; name it b\.omniad\.zip"):
        bundle([run], tmp_path / "b.omniad")


def test_one_run_twice_is_told(run, tmp_path):
    with pytest.raises(UserError, match="name each run once"):
        bundle([run, run], tmp_path / "b.zip")


def repack(run: Path, tmp_path: Path, change) -> Path:
    """A bundle after `change(files)`, with a manifest that fits, as somebody would make it who means ill."""
    bundle([run], tmp_path / "honest.zip")
    with zipfile.ZipFile(tmp_path / "honest.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist() if name != "bundle.json"}
    change(files)
    listed = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    with zipfile.ZipFile(tmp_path / "ill.zip", "w") as archive:
        archive.writestr("bundle.json", json.dumps({"format": 1, "files": listed}))
        for name, data in files.items():
            archive.writestr(name, data)
    return tmp_path / "ill.zip"


BASE = "runs/mvtec/default/seed0/"


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, x=np.array([{"a": 1}], dtype=object))
    return buffer.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def empty_examples() -> bytes:
    """An example of 0 by 0 pixels."""
    facts = {"kind": np.array(["miss"]), "image": np.array(["a.png"]), "label": np.array([1]), "score": np.ones(1)}
    images, masks, maps = (
        np.zeros((1, 0, 0, 3), np.uint8),
        np.zeros((1, 0, 0), np.uint8),
        np.zeros((1, 0, 0), np.float16),
    )
    return npz(images=images, masks=masks, maps=maps, **facts)


def inflated() -> bytes:
    """An archive that says of itself that it unpacks to more than 2 GiB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", b"0" * 100)
    small, large = (100).to_bytes(4, "little"), (2**31 + 1).to_bytes(4, "little")
    return buffer.getvalue().replace(small, large)


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("../outside.txt", b"", "a path outside its folder"),
        ("/etc/outside.txt", b"", "a path outside its folder"),
        (BASE + "run.py", b"print()", "not a file of a run"),
        (BASE + "model.pt", b"", "not a file of a run"),
        (BASE + "examples/../../x.npz", b"", "a path outside its folder"),
        (BASE + "examples/sub/x.npz", b"", "not a file of a run"),
        ("runs/mvtec/.hidden/seed0/metrics.csv", b"", "not a file of a run"),
        ("runs/mvtec/other/seed0/config.yaml", b"", "contains no finished run, or one without metrics"),
        (BASE + "curves.npz", pickled(), r"curves\.npz: not written by `omniad evaluate`"),
        (BASE + "curves.npz", inflated(), r"curves\.npz: .*unpacks to 2 GiB"),
        (BASE + "config.yaml", b"!!python/object/apply:os.system [touch pwned]", "not valid YAML"),
        (BASE + "config.yaml", b"dataset: visa", "config.yaml"),
        (BASE + "provenance.json", b"[1]", "not a JSON object"),
        (BASE + "provenance.json", b'{"training": 5}', "'training': Input should be"),
        (BASE + "metrics.csv", b"class,metric,definition,value,reason\nmean,mAD,exact,7,\n", "not in \\[0, 1\\]"),
        (BASE + "metrics.csv", b"class,metric,definition,value,reason\na,magic,exact,1,\n", "unknown metric 'magic'"),
        (BASE + "metrics.csv", b"class,metric,definition,value,reason\na,mAD,mine,1,\n", "unknown .*definition 'mine'"),
        (BASE + "metrics.csv", b"class,metric,definition,value,reason\nmean,mAD,exact,1,\n", "no mean, or no class"),
        (
            BASE + "metrics.csv",
            b"class,metric,definition,value,reason\na,mAD,exact,0.5,\nb,mAD,exact,0.7,\nmean,mAD,exact,0.9,\n",
            "the mean of mAD .exact. is 0.900000, but the mean of its classes is 0.600000",
        ),
        (
            BASE + "metrics.csv",
            b"class,metric,definition,value,reason\na,mAD,exact,,no\nb,mAD,exact,0.7,\nmean,mAD,exact,0.7,\n",
            "of its classes is nan",
        ),
        (BASE + "scores.csv", b"image,class,label,score\na.png,a,1,nan\n", "nan is not finite"),
        (BASE + "curves.npz", npz(**{"a/pro": np.zeros((2, 0), np.float32)}), "no x and y for a curve"),
        (BASE + "curves.npz", npz(**{"a/pro": np.full((2, 3), np.nan, np.float32)}), r"not in \[0, 1\]"),
        (BASE + "examples/bottle.npz", empty_examples(), "images that are empty, too large"),
        (BASE + "threshold.json", b'{"threshold": "high"}', "not a threshold"),
        (BASE + "model.safetensors", b"other weights", "not the ones that were evaluated"),
    ],
)
def test_a_hostile_bundle_is_refused_and_leaves_nothing(run, tmp_path, name, data, told):
    file = repack(run, tmp_path, lambda files: files.update({name: data}))
    with pytest.raises(UserError, match=told) as error:
        unbundle(file, tmp_path / "away")
    assert "\n" not in str(error.value)
    assert contents(tmp_path / "away") == {}
    assert not (tmp_path / "outside.txt").exists()


def test_a_changed_byte_is_found(run, tmp_path):
    bundle([run], tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files[BASE + "scores.csv"] += b"x,y,0,0.5\n"
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    with pytest.raises(UserError, match=r"scores\.csv' was changed after bundling"):
        unbundle(tmp_path / "b.zip", tmp_path / "away")
    del files[BASE + "scores.csv"]
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    with pytest.raises(UserError, match="is listed but missing, or there but not listed"):
        unbundle(tmp_path / "b.zip", tmp_path / "away")


@pytest.mark.parametrize("data", [b"no zip", b""])
def test_what_is_no_bundle_is_told(tmp_path, data):
    file = tmp_path / "b.zip"
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"b\.zip"):
        unbundle(file, tmp_path / "away")
    with pytest.raises(UserError, match="no such file"):
        unbundle(tmp_path / "none.zip", tmp_path / "away")


def test_a_run_by_hand_has_its_seed_from_its_record(run, tmp_path):
    provenance = json.loads((run / "provenance.json").read_text())
    (run / "provenance.json").write_text(json.dumps(provenance | {"seed": 7}))
    moved = run.rename(tmp_path / "my_run")
    assert bundle([moved], tmp_path / "b.zip") == ["mvtec/default/seed7"]


def test_weights_are_opened_and_compared_with_the_configuration(run, tmp_path):
    def other_weights(files: dict[str, bytes]) -> None:
        model = TINY.model.model_copy(update={"tokens": 9})
        save_model(build_model(model), model, tmp_path / "other.safetensors")
        files[BASE + "model.safetensors"] = (tmp_path / "other.safetensors").read_bytes()
        del_hash(files)

    def no_weights(files: dict[str, bytes]) -> None:
        files[BASE + "model.safetensors"] = b"no weights at all"
        del_hash(files)

    def del_hash(files: dict[str, bytes]) -> None:
        facts = json.loads(files[BASE + "provenance.json"])
        del facts["model_sha256"]
        files[BASE + "provenance.json"] = json.dumps(facts).encode()

    for change, told in ((other_weights, "does not match the model in"), (no_weights, "damaged, or not a file")):
        with pytest.raises(UserError, match=told):
            unbundle(repack(run, tmp_path, change), tmp_path / "away")
    assert contents(tmp_path / "away") == {}


HOSTILE = "$_$ =1+1 <script>alert(1)</script> [x](javascript:alert(1)) `|\\"


def test_whatever_is_accepted_is_reported(run, tmp_path):
    """Dollars, formulas, markup and links in every text that a stranger may write."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["source"]["title"] = config["note"] = HOSTILE
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    facts = json.loads((run / "provenance.json").read_text())
    facts |= {"commit": HOSTILE, "hardware": {"cpu": HOSTILE, "threads": 2}, "versions": {HOSTILE: HOSTILE}}
    facts["training"] |= {"started": HOSTILE}
    (run / "provenance.json").write_text(json.dumps(facts))
    write_metrics(run, [(name, *line, HOSTILE, math.nan) for name in (HOSTILE, "mean") for line in METRICS])
    write_scores(run, [(HOSTILE, HOSTILE, 0, 0.25), (HOSTILE, HOSTILE, 1, 0.75)])
    write_curves(run, {HOSTILE.replace("/", ""): {"pro": np.zeros((2, 1)), "image_pr": np.ones((2, 2))}})
    bundle([run], tmp_path / "b.zip")
    unbundle(tmp_path / "b.zip", tmp_path / "away")
    report = write_report(paper_settings(tmp_path / "away"))
    for text in (report.read_text(), report.with_suffix(".html").read_text()):
        assert "<script>alert" not in text
        assert "mvtec" in text and "75.0" in text and "Left out" not in text
    assert "](javascript" not in report.read_text().replace("\\](javascript", "")
    assert 'href="javascript' not in report.with_suffix(".html").read_text()


def test_a_run_that_cannot_be_read_is_left_out_and_all_others_are_reported(run, tmp_path):
    home = paper_settings(tmp_path / "home")
    bad = write_run(home, "mvtec", "default", 1, VALUES)
    (bad / "history.csv").write_text("epoch,loss\n1,nan\n")
    (run / "examples" / "bottle.npz").write_bytes(empty_examples())
    (run / "scores.csv").write_text("image,class,label,score\na,b,7,0.5\n")
    text = (report := write_report(home)).read_text()
    assert "seed1/history.csv: not written by `omniad train`" in text
    assert "75.0" in text
    assert "Left out: " in text and "scores.csv: not written by `omniad evaluate`" in text
    html = report.with_suffix(".html").read_text()
    assert "bottle.npz: not written by `omniad evaluate`" in html
