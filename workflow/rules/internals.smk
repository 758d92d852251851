# Everything the workflow uses of Snakemake's undocumented internals. Tested with Snakemake 9.18 and 9.27;
# tests/test_workflow.py calls each of these, so that a change in another version shows up there.
def overlay_files():
    """The files of --configfile."""
    return workflow.overwrite_configfiles


def command_line_settings():
    """What --config KEY=VALUE set, as Snakemake reads it."""
    return workflow.config_settings.config


def typed_targets():
    """The targets that a person typed."""
    return [str(target) for target in workflow.dag_settings.targets or ["all"]]


def waiting_jobs():
    """The jobs that are about to run."""
    return list(workflow.dag.needrun_jobs())


def is_cluster_job():
    """Whether this process is a job that another Snakemake gave to a cluster."""
    return workflow.remote_exec


def on_cluster():
    """Whether this process gives jobs to a cluster, or is one of those jobs."""
    return workflow.remote_exec or not workflow.local_exec


def cores_given():
    """--cores; 0 where the number is not known."""
    return workflow.resource_settings.cores or 0


def gpu_places(default):
    """How many jobs with `gpu=1` may run at once: --resources gpu=N or the profile's number, else `default`."""
    # Snakemake leaves an unnamed resource unlimited: two trainings would share a GPU, or the CPU.
    workflow.global_resources.setdefault("gpu", default)
    return getattr(workflow.global_resources["gpu"], "value", workflow.global_resources["gpu"])


def default_runtime():
    """The profile's default `runtime`, minutes; None where it sets none."""
    default = (workflow.resource_settings.default_resources or {}).get("runtime")
    return None if default is None else default.value
