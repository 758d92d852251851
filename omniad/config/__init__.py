"""The configuration: `settings.py` has every setting (those of the report: `shown.py`), `reading.py` reads YAML files
into them, `checking.py` refuses mistakes in them: an unknown key or a wrong type is reported with the key's path, so a
typo never trains the wrong model.

`config/config.yaml` spells out the defaults and adds the data sets, `config/runs.yaml` the trained configurations,
`config/tables.yaml` the tables. An overlay (`--config FILE`, or Snakemake's `--configfile`) changes single keys of it.
"""

from omniad.config.checking import Section, known, validate
from omniad.config.reading import (
    CONFIG_FOLDER,
    PAPER_FOLDER,
    check_settings,
    load_settings,
    merge,
    project_settings,
    results_folder,
    run_settings,
    to_yaml,
)
from omniad.config.settings import (
    VARIANTS,
    DataSettings,
    DownloadSettings,
    Encoder,
    EvaluationSettings,
    Learnable,
    MethodName,
    ModelSettings,
    RunSettings,
    Settings,
    SourceSettings,
    TileSettings,
    TrainingSettings,
)
from omniad.config.shown import RowSettings, TableSettings
from omniad.config.snapshot import snapshot_file, snapshot_text
from omniad.config.yaml_files import read_yaml

__all__ = [
    "CONFIG_FOLDER",
    "PAPER_FOLDER",
    "VARIANTS",
    "DataSettings",
    "DownloadSettings",
    "Encoder",
    "EvaluationSettings",
    "Learnable",
    "MethodName",
    "ModelSettings",
    "RowSettings",
    "RunSettings",
    "Section",
    "Settings",
    "SourceSettings",
    "TableSettings",
    "TileSettings",
    "TrainingSettings",
    "check_settings",
    "known",
    "load_settings",
    "merge",
    "project_settings",
    "read_yaml",
    "results_folder",
    "run_settings",
    "snapshot_file",
    "snapshot_text",
    "to_yaml",
    "validate",
]
