"""From YAML files to settings: the project's configuration, overlays on it, and what they make of one run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from omniad.config.checking import Section, known, validate
from omniad.config.settings import RunSettings, Settings
from omniad.errors import UserError

CONFIG_FOLDER = Path(__file__).resolve().parent.parent.parent / "config"
DEFAULT_FILES = ("config.yaml", "runs.yaml", "tables.yaml")


def load_settings(*overlays: str | Path) -> Settings:
    """The project's configuration with each overlay file laid over it in turn.

    Outside a checkout there is no `config/` folder; then the class defaults stand alone, and no data set is known.

    Raises:
        UserError: a file is missing or not YAML, a key is unknown, a value has the wrong type.
    """
    merged: dict[str, Any] = {}
    defaults = [CONFIG_FOLDER / name for name in DEFAULT_FILES]
    # Beside an installed package another one may have put a folder of this name.
    in_checkout = (CONFIG_FOLDER.parent / "pyproject.toml").is_file() and CONFIG_FOLDER.is_dir()
    for file in (*(defaults if in_checkout else ()), *map(Path, overlays)):
        merged = merge(merged, read_yaml(file))
    places = [f"{CONFIG_FOLDER.name}/*.yaml"] if in_checkout else []
    return check_settings(merged, " + ".join([*places, *map(str, overlays)]))


def project_settings(*overlays: str | Path) -> Settings:
    """`load_settings` for what works on the project's data sets, runs or tables.

    Raises:
        UserError: also when none are configured, as outside a checkout.
    """
    settings = load_settings(*overlays)
    if not settings.sources:
        raise UserError(
            "no data set, run or table is configured here: call this in a checkout of omniad, or name a whole "
            "configuration with --config FILE (`omniad fit` and `omniad predict` need none)"
        )
    return settings


def check_settings(values: Mapping[str, Any], where: str) -> Settings:
    """Validate a merged configuration; `where` names its origin in an error."""
    settings = validate(Settings, values, where)
    if not settings.sources:
        return settings
    for name in settings.datasets:
        known(name, settings.sources, f"{where}: datasets")
    for run, change in settings.runs.items():
        for dataset in change.per_dataset:
            known(dataset, settings.sources, f"{where}: runs.{run}.per_dataset")
        for dataset in change.per_dataset or settings.datasets[:1]:
            run_settings(settings, dataset, run, where)
    for table, entry in settings.tables.items():
        for row in entry.rows:
            known(row.dataset, settings.sources, f"{where}: tables.{table}, row '{row.label}': dataset")
            if row.run:
                known(row.run, settings.runs, f"{where}: tables.{table}, row '{row.label}': run")
        for run in entry.extra_runs:
            known(run, settings.runs, f"{where}: tables.{table}.extra_runs")
    return settings


def run_settings(settings: Settings, dataset: str, run: str, where: str = "configuration") -> RunSettings:
    """The settings of one run on one data set: the defaults, the run's changes, its changes on that data set."""
    source = settings.sources[known(dataset, settings.sources, f"{where}: data set")]
    change = settings.runs[known(run, settings.runs, f"{where}: run")]
    groups: dict[str, Any] = {}
    for group in ("model", "training", "evaluation"):
        values = merge(getattr(settings, group).model_dump(), getattr(change, group))
        values = merge(values, change.per_dataset.get(dataset, {}).get(group, {}))
        groups[group] = validate(type(getattr(settings, group)), values, where, f"runs.{run}.{group}")
    return RunSettings(dataset=dataset, run=run, source=source, data=settings.data, note=change.note, **groups)


def load_run_settings(run_dir: str | Path) -> RunSettings:
    """The resolved settings of a finished run, from its folder."""
    file = Path(run_dir) / "config.yaml"
    return validate(RunSettings, read_yaml(file), str(file))


def read_yaml(file: str | Path) -> dict[str, Any]:
    """A YAML mapping, read without executing anything. Raises UserError when it is missing or malformed."""
    try:
        values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values or {}, dict):
        raise UserError(f"{file}: must hold keys and values, not {type(values).__name__}")
    return values or {}


def to_yaml(section: Section) -> str:
    """Settings as YAML text, keys in the order of settings.py."""
    return yaml.safe_dump(section.model_dump(), sort_keys=False, allow_unicode=True, width=120)


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`change` laid over `base`, mapping by mapping; lists are replaced as a whole."""
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
