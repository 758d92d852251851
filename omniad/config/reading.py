"""From YAML files to settings: the project's configuration, overlays on it, and the resolved settings of one run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from omniad.config.checking import KeyPath, Section, Where, known, place, validate
from omniad.config.settings import Change, RunSettings, Settings
from omniad.config.snapshot import is_snapshot, snapshot_values
from omniad.config.yaml_files import read_yaml
from omniad.errors import UserError

CONFIG_FOLDER = Path(__file__).resolve().parent.parent.parent / "config"
PAPER_FOLDER = CONFIG_FOLDER / "paper"
DEFAULT_FILES = ("config.yaml", "runs.yaml", "tables.yaml")


def load_settings(
    *overlays: str | Path,
    command_line: Mapping[str, Any] | None = None,
    under: tuple[str, Mapping[str, Any]] | None = None,
) -> Settings:
    """The project's configuration, with each overlay file and then the command line's settings applied in turn.

    `under` is an overlay below all of them, with a name for messages: a preset.

    A snapshot (snapshot.py) replaces the project's configuration: nothing in `config/` is then read. Outside
    a checkout there is no `config/` folder; then only the class defaults apply, and no data set is known.

    Raises:
        UserError: a file is missing or not YAML, a key is unknown, a value has the wrong type or names what
            does not exist; a snapshot is of another version or not the first file.
    """
    files = [(str(file), read_yaml(file)) for file in overlays]
    if files and is_snapshot(files[0][1]):
        files[0] = (files[0][0], snapshot_values(files[0][1], files[0][0]))
    else:
        files = _project_files() + ([(under[0], dict(under[1]))] if under else []) + files
    for name, values in files[1:]:
        if is_snapshot(values):
            raise UserError(f"{name}: a snapshot is a complete configuration: name it before any overlay")
    files += [("--config", command_line)] if command_line else []
    merged: dict[str, Any] = {}
    for _, values in files:
        merged = merge(merged, values)
    merged = _classes_of_all(merged)
    return check_settings(merged, lambda path: _file_of(path, files))


def _classes_of_all(values: dict[str, Any]) -> dict[str, Any]:
    """`classes` at the top level applies to every data set in use, so `--config classes='[bottle]'` is enough."""
    if "classes" not in values or not isinstance(values.get("sources"), Mapping):
        return values
    chosen, used = {"classes": values["classes"]}, values.get("datasets", Settings().datasets)
    used = used if isinstance(used, list) else []  # else of a wrong type, which the check reports
    sources = {
        name: merge(source, chosen) if name in used and isinstance(source, Mapping) else source
        for name, source in values["sources"].items()
    }
    return {key: value for key, value in values.items() if key != "classes"} | {"sources": sources}


def results_folder(*overlays: str | Path, command_line: Mapping[str, Any] | None = None) -> str:
    """`results` of that configuration, unchecked: where a snapshot of it lies, whatever became of config/ since."""
    values = [values for _, values in _project_files()] + [read_yaml(file) for file in overlays]
    named = [each["results"] for each in (*values, command_line or {}) if "results" in each]
    return str(named[-1]) if named else Settings().results


def _project_files() -> list[tuple[str, dict[str, Any]]]:
    """The files of config/, in a checkout: beside an installed package another one may have a folder of this name."""
    if not ((CONFIG_FOLDER.parent / "pyproject.toml").is_file() and CONFIG_FOLDER.is_dir()):
        return []
    return [(f"{CONFIG_FOLDER.name}/{name}", read_yaml(CONFIG_FOLDER / name)) for name in DEFAULT_FILES]


def _file_of(path: KeyPath, files: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """The file that a key is in: the last one that has it, or the one with most of its path if the key is missing."""

    def depth(values: Any) -> int:
        for number, step in enumerate(path):
            if not isinstance(values, Mapping) or step not in values:
                return number
            values = values[step]
        return len(path)

    return max(reversed(files), key=lambda file: depth(file[1]))[0]


def project_settings(*overlays: str | Path) -> Settings:
    """`load_settings` for commands that work on the project's data sets, runs or tables.

    Raises:
        UserError: also when none are configured, as outside a checkout.
    """
    settings = load_settings(*overlays)
    if not settings.sources:
        raise UserError(
            "no data set, run or table is configured here: run this in a checkout of omniad, or give a complete "
            "configuration with --config FILE (`omniad fit` and `omniad predict` do not need one)"
        )
    return settings


def check_settings(values: Mapping[str, Any], where: Where) -> Settings:
    """Validate a merged configuration; `where` names its origin in an error."""
    settings = validate(Settings, values, where)
    if not settings.sources:
        return settings

    def check(name: str, names: Iterable[str], *path: str, what: str = "") -> None:
        known(name, names, f"{place(where, path)}: {'.'.join(path)}{what}")

    for name in settings.datasets:
        check(name, settings.sources, "datasets")
    for run, change in settings.runs.items():
        for dataset in change.per_dataset:
            check(dataset, settings.sources, "runs", run, "per_dataset")
        for dataset in change.per_dataset or settings.datasets[:1]:
            run_settings(settings, dataset, run, where)
    for table, entry in settings.tables.items():
        if entry.paper and not (PAPER_FOLDER / entry.paper).is_file():
            printed = sorted(file.name for file in PAPER_FOLDER.glob("*.csv"))
            check(entry.paper, printed, "tables", table, "paper")
        for row in entry.rows:
            check(row.dataset, settings.sources, "tables", table, "rows", what=f", row '{row.label}': dataset")
            if row.run:
                check(row.run, settings.runs, "tables", table, "rows", what=f", row '{row.label}': run")
            if row.target:
                what = f", row '{row.label}': target (tables.{table}.targets names them)"
                check(row.target, entry.targets, "tables", table, "rows", what=what)
        for run in entry.extra_runs:
            check(run, settings.runs, "tables", table, "extra_runs")
    for name, figure in settings.figures.items():
        check(figure.run, settings.runs, "figures", name, "run")
        for dataset in figure.datasets:
            check(dataset, settings.sources, "figures", name, "datasets")
    return settings


def run_settings(settings: Settings, dataset: str, run: str, where: Where = "configuration") -> RunSettings:
    """The settings of one run on one data set: the defaults, the run's changes, its changes on that data set."""
    source = settings.sources[known(dataset, settings.sources, f"{place(where, ('sources',))}: data set")]
    change = settings.runs[known(run, settings.runs, f"{place(where, ('runs',))}: run")]
    groups: dict[str, Any] = {}
    for group in ("model", "training", "evaluation"):
        section = getattr(settings, group)
        there = getattr(change.per_dataset.get(dataset, Change()), group)
        for values, path in ((getattr(change, group), (group,)), (there, ("per_dataset", dataset, group))):
            section = validate(type(section), merge(section.model_dump(), values), where, ("runs", run, *path))
        groups[group] = section
    return RunSettings(dataset=dataset, run=run, source=source, data=settings.data, note=change.note, **groups)


def to_yaml(section: Section) -> str:
    """Settings as YAML, keys in the order of settings.py."""
    return yaml.safe_dump(section.model_dump(), sort_keys=False, allow_unicode=True, width=120)


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `change` applied, mapping by mapping; lists are replaced whole."""
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
