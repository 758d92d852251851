# The configuration, checked, and which runs each target needs.
import hashlib
import re
import shlex
import sys

from snakemake.exceptions import WorkflowError

import yaml

from omniad.config import load_settings, results_folder, run_settings, snapshot_file, snapshot_text
from omniad.data.counts import expected_counts
from omniad.devices import count_gpus
from omniad.errors import UserError
from omniad.reporting.claims.forms import read_claims
from omniad.reporting.paper_check import check_paper
from omniad.runs import files
from omniad.runs.targets import run_folders, target_runs
from omniad.training import TRAINING_VERSION


def typed(value):
    """A value of `--config KEY=VALUE` as YAML: Snakemake passes what is inside brackets as text."""
    if isinstance(value, dict):
        return {key: typed(part) for key, part in value.items()}
    if isinstance(value, list):
        return [typed(part) for part in value]
    return yaml.safe_load(value) if isinstance(value, str) else value


def resolved_settings():
    """The configuration. A cluster job uses its workflow's snapshot, because config/ may have been edited since."""
    overlays, command_line = overlay_files(), typed(command_line_settings())
    if is_cluster_job():
        return load_settings(snapshot_file(results_folder(*overlays, command_line=command_line)))
    return load_settings(*overlays, command_line=command_line)


# omniad reads the files itself, so that an error names the file with the mistake.
try:
    settings = resolved_settings()
    read_claims(settings)  # a claim may name a row that a table lost: found now, not by the report after all trainings
    if not is_cluster_job():  # it reads config/ itself, which may have been edited since
        check_paper(settings)
    for dataset in settings.datasets:
        expected_counts(settings.sources[dataset])  # `classes` may name a class that the table of counts lacks
except UserError as error:
    raise WorkflowError(str(error)) from None

# Before Slurm kills a job it sends SIGTERM to all its processes. A shell that died from it would end the job with an
# error, and such a job is not requeued; so shells (and tee, for a log's last lines) wait to be killed.
shell.prefix('set -euo pipefail; [ -z "${{SLURM_JOB_ID:-}}" ] || trap "" TERM; ')

OMNIAD = f"{shlex.quote(sys.executable)} -m omniad"
RESULTS = settings.results
CONFIG = snapshot_file(RESULTS)
REPORT = f"{RESULTS}/report.md"
RUN = f"{RESULTS}/runs/{{dataset}}/{{run}}/seed{{seed}}"
PREPARED = settings.data.prepared
PACK = f"{PREPARED}/{{dataset}}/{settings.data.image_size}"
GPUS = count_gpus()

PLACES = gpu_places(max(GPUS, 1))


def cores_here():
    """Cores of a job that has this machine to itself; on a cluster (or in a dry run for one) eight."""
    return 8 if on_cluster() else cores_given() or 8


def threads_of_a_place(wildcards):
    """A job with a GPU needs few. Without one a "gpu" is a place on the CPU: one by default; several share the cores."""
    if on_cluster():
        return 4
    return 1 if GPUS else max(1, cores_here() // PLACES)


def at_most_default(minutes):
    """No job asks for more time than the profile's default: a training that needs more resumes in its next attempt."""
    default = default_runtime()
    return minutes if default is None else min(minutes, default)


wildcard_constraints:
    dataset="|".join(map(re.escape, [*settings.sources, *settings.downloads])),
    run="|".join(map(re.escape, settings.runs)),
    seed=r"\d+",


def digest(text):
    """A short substitute for a long parameter: Snakemake prints the old and the new value when one changes."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def settings_of(wildcards):
    """The resolved settings of the run that a job's wildcards name."""
    return run_settings(settings, wildcards.dataset, wildcards.run)


TARGETS = target_runs(settings)


def evaluations(target):
    """metrics.csv of every run and seed that a target shows; none for a target that trains nothing."""
    return [f"{folder}/{files.METRICS}" for folder in run_folders(settings, target)] if target in TARGETS else []
