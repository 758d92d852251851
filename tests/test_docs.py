"""The documents: every command in them is one that exists, every link leads somewhere."""

import argparse
import importlib.metadata
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from omniad.cli import main, make_parser
from omniad.config import load_settings
from omniad.runs.targets import target_runs

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), REPOSITORY / "results/README.md"]


def commands(program: str) -> list[str]:
    """Every line of a code block, in all documents, that calls a program; without what stands behind a `#`."""
    blocks = [block for file in DOCUMENTS for block in re.findall(r"```\w*\n(.*?)```", file.read_text(), re.DOTALL)]
    lines = {line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()}
    return sorted(line for line in lines if line.startswith(program + " "))


@pytest.mark.parametrize("line", commands("omniad"))
def test_every_omniad_command_is_understood(line):
    make_parser().parse_args(shlex.split(line)[1:])


@pytest.mark.parametrize("line", commands("snakemake"))
def test_every_snakemake_command_names_targets_that_exist(line):
    words = shlex.split(line)[1:]
    targets = {"data", "complexity", "report", *target_runs(load_settings())}
    bare = [word for word in words if re.fullmatch(r"[a-z]\w*", word) and word not in ("all", "slurm")]
    assert set(bare) <= targets, line


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_links_to_files_of_the_project_lead_somewhere(file):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", file.read_text())
    assert [target for target in targets if not (file.parent / target).exists()] == []


def test_the_example_report_is_small_and_whole():
    folder = REPOSITORY / "docs" / "example-report"
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 600_000
    text = (folder / "report.md").read_text()
    assert "miniature" in text.splitlines()[0]
    for part in ("## Verdicts", "## Table VII", "## What the paper claims", "## Figure 3", "## The runs"):
        assert part in text


def test_a_mistake_is_one_line_and_a_traceback_on_request(capsys):
    arguments = ["train", "--dataset", "mvtek", "--run", "default", "--seed", "0", "--out", "never"]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "unknown 'mvtek'; choose from: mvtec, mvtec_ad_2, mvtec_loco, visa, realiad" in error
    assert error.count("\n") == 1
    with pytest.raises(Exception, match="mvtek"):
        main([*arguments, "--debug"])


def test_a_bug_is_one_line_too(monkeypatch, capsys):
    monkeypatch.setattr("omniad.commands.settings.snapshot_text", lambda settings: 1 / 0)
    assert main(["settings"]) == 1
    assert capsys.readouterr().err == (
        "omniad: unexpected ZeroDivisionError: division by zero; this is a bug: repeat with --debug and report the "
        "traceback\n"
    )
    with pytest.raises(ZeroDivisionError):
        main(["settings", "--debug"])


def test_an_interrupted_command_says_nothing_and_ends_with_130(monkeypatch, capsys):
    def interrupted(settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("omniad.commands.settings.snapshot_text", interrupted)
    assert main(["settings"]) == 130
    assert capsys.readouterr().err == ""


def all_commands() -> dict[str, argparse.ArgumentParser]:
    return next(action.choices for action in make_parser()._actions if isinstance(action.choices, dict))


@pytest.mark.parametrize("command", all_commands())
def test_help_says_what_goes_in_what_comes_out_and_an_example_that_is_understood(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert re.search(r"^  reads   \S", text, re.MULTILINE)
    assert re.search(r"^  writes  \S", text, re.MULTILINE)
    example = re.search(rf"^Example: omniad ({command}.*)$", text, re.MULTILINE)
    assert example
    make_parser().parse_args(shlex.split(example[1]))


@pytest.mark.parametrize("command", all_commands())
def test_every_option_says_what_it_is(command):
    assert [action.dest for action in all_commands()[command]._actions if not action.help] == []


@pytest.mark.parametrize("command", ["--help", "train --help", "metrics --help", "import-released --help"])
def test_help_needs_no_heavy_import(command):
    """`--help` answers at once: torch alone would take seconds."""
    code = (
        "import atexit, sys; from omniad.cli import make_parser;"
        " atexit.register(lambda: print('torch' in sys.modules)); make_parser().parse_args(sys.argv[1:])"
    )
    answer = subprocess.run([sys.executable, "-c", code, *command.split()], capture_output=True, text=True, check=True)
    assert answer.stdout.endswith("False\n")
    assert "Example" in answer.stdout or command == "--help"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("fit bolts --out run --epochs two", "omniad fit: argument --epochs: must be a whole number, not 'two'"),
        ("fit bolts --out run --quantile high", "omniad fit: argument --quantile: must be a number, not 'high'"),
        ("fit bolts --out run --preset fats", "omniad fit: argument --preset: invalid choice: 'fats'"),
        (
            "miniature --layout mvtec --folder mini --seed -1",
            "omniad miniature: argument --seed: must be between 0",
        ),
        ("fit bolts", "omniad fit: the following arguments are required: --out (see `omniad fit --help`)"),
        ("fitt bolts", "omniad: argument COMMAND: invalid choice: 'fitt'"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(command, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(shlex.split(command))
    error = capsys.readouterr().err
    assert error.startswith(message) and error.count("\n") == 1


def test_without_a_command_the_help_is_shown(capsys):
    assert main([]) == 2
    assert "predict" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"omniad {importlib.metadata.version('omniad')}\n"
