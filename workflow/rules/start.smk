# Before the first job: check that everything is there, say what it will cost, and write the configuration's snapshot for
# all commands. This runs under Snakemake's lock and not in a dry run, so a second call with other settings can't change
# the configuration of a running workflow.
from collections import Counter
from difflib import get_close_matches

from omniad.files import atomic_write
from omniad.wording import duration
from omniad.slurm import cancel_leftovers, step_name


def cpu_warning(jobs):
    """A warning about training without a GPU, with an estimate for real data sets."""
    text = f"No GPU: {len(jobs)} trainings run on the CPU, {PLACES} at a time."
    hours = 0.0
    for (dataset, run), seeds in Counter((job.wildcards.dataset, job.wildcards.run) for job in jobs).items():
        source = settings.sources[dataset]
        if not source.miniature:
            from omniad.training.cost import cpu_hours
            from omniad.training.plan import training_images

            resolved = run_settings(settings, dataset, run)
            images = training_images(resolved)
            hours += seeds * cpu_hours(resolved, images, scored=0) if images else 0.0
    if not hours:
        return text
    return f"{text} That takes about {duration(3600 * hours)} on this machine (estimated from a few steps)."


onstart:
    from omniad.data.preflight import preflight

    waiting = waiting_jobs()
    unindexed = {job.wildcards.dataset for job in waiting if job.rule.name in ("fetch", "extract", "index")}
    untrained = [settings_of(job.wildcards) for job in waiting if job.rule.name == "train"]
    try:
        preflight(
            {dataset: source for dataset, source in settings.sources.items() if dataset in unindexed},
            untrained,
            settings.data,
            settings.downloads,
        )
        if on_cluster():
            steps = {step_name(job.rule.name, *job.wildcards) for job in waiting}
            for left in cancel_leftovers(Path.cwd(), steps):
                print(
                    f"Slurm job {left.id} left by an earlier, killed call: cancelled ({left.step})", file=sys.stderr
                )
    except UserError as error:
        raise WorkflowError(str(error)) from None
    trainings = [job for job in waiting if job.rule.name == "train"]
    if trainings and not GPUS and not on_cluster():
        print(cpu_warning(trainings), file=sys.stderr)
    with atomic_write(CONFIG) as file:
        file.write(snapshot_text(settings))


def no_such_target(wildcards):
    names = sorted({"all", "complexity", "data", "report", *TARGETS})
    close = get_close_matches(wildcards.target, names, 1)
    guess = f" (did you mean {close[0]}?)" if close else ""
    print(f"unknown target '{wildcards.target}'{guess}; choose from: {', '.join(names)}", file=sys.stderr)
    raise SystemExit(1)  # an error would come with Snakemake's traceback around it


# A typed target is a rule's name; a name without a rule ends up here, as if it were a file.
rule unknown_target:
    input:
        no_such_target,
    output:
        r"{target,[\w-]+}",
