"""Files that other programs read at their usual places: citation, GitHub, pre-commit, the package's metadata."""

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
PAPER = "Omni-AD: Learning to Reconstruct Global and Local Features for Multi-class Anomaly Detection"


def load(name: str) -> Any:
    return yaml.safe_load((REPOSITORY / name).read_text())


def test_the_citation_names_the_paper():
    citation = load("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what the format asks for
    (paper,) = citation["references"]
    assert paper["title"] == PAPER
    assert [author["family-names"] for author in paper["authors"]] == ["Quan", "Tong", "Cai", "He", "Wang", "Zhou"]


def test_the_workflow_calls_what_every_change_must_pass():
    workflow = load(".github/workflows/ci.yml")
    assert workflow["permissions"] == {"contents": "read"}
    assert ".ci/run" in [step.get("run") for job in workflow["jobs"].values() for step in job["steps"]]
    assert os.access(REPOSITORY / ".ci" / "run", os.X_OK)


def test_pre_commit_runs_the_linters_of_make_lint():
    hooks = [hook for repo in load(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    (recipe,) = re.findall(r"^lint:.*\n((?:\t.*\n)+)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    linters = {line.split("/")[1].split()[0] for line in recipe.splitlines()}
    assert {Path(hook["entry"].split()[0]).name for hook in hooks} == linters
    assert {hook["language"] for hook in hooks} == {"system"}  # .venv's: the versions of the lock


def test_a_bug_report_asks_for_doctors_output():
    form = load(".github/ISSUE_TEMPLATE/bug.yml")
    (doctor,) = (part for part in form["body"] if "`omniad doctor`" in part["attributes"].get("label", ""))
    assert doctor["validations"] == {"required": True}


@pytest.mark.parametrize("key", ["description", "readme", "license", "keywords", "classifiers", "urls"])
def test_the_package_describes_itself(key):
    assert tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"][key]
