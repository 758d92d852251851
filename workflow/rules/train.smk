# One run, one device: everything that changes a run's numbers is in its params, and nothing else is, so that a run is
# trained again exactly when it must be. Settings of the evaluation are among them, because evaluation reads the
# config.yaml that is written here; if nothing else changed, the files of a finished run are rewritten.
from omniad.job_size import memory_mb, training_minutes


def weights_input(wildcards):
    """Published weights are fetched; others come with a package or are the user's own file."""
    model = settings_of(wildcards).model
    try:
        paths = weights_paths(model, settings.data)
    except UserError as error:
        raise WorkflowError(str(error)) from None
    fetched = files_by_place(settings.data)
    return [f"{PREPARED}/weights/{path.name}.json" for path in paths if path in fetched]


def textures_input(wildcards):
    """Textures that are a download's are fetched; any other folder is the user's own."""
    folder = settings_of(wildcards).training.textures
    return [
        f"{PREPARED}/{name}/extracted.json"
        for name, download in settings.downloads.items()
        if folder and Path(folder) == Path(download.folder)
    ]


rule train:
    input:
        weights_input,
        textures_input,
        pack=f"{PACK}/pack.json",
    output:
        multiext(f"{RUN}/", files.MODEL, files.HISTORY, files.CONFIG),
    log:
        f"{RESULTS}/logs/train/{{dataset}}-{{run}}-seed{{seed}}.log",
    threads: threads_of_a_place
    resources:
        gpu=1,
        mem_mb=lambda wildcards, attempt: memory_mb(settings_of(wildcards), attempt),
        runtime=lambda wildcards, attempt: at_most_default(training_minutes(settings_of(wildcards), attempt)),
    params:
        folder=subpath(output[0], parent=True),
        model=lambda wildcards: settings_of(wildcards).model.model_dump(),
        training=lambda wildcards: settings_of(wildcards).numbers()["training"],
        evaluation=lambda wildcards: settings_of(wildcards).numbers()["evaluation"],
        version=TRAINING_VERSION,
    shell:
        "{OMNIAD} train --config {CONFIG:q} --dataset {wildcards.dataset:q} --run {wildcards.run:q}"
        " --seed {wildcards.seed:q} --out {params.folder:q} 2>&1 | tee {log:q}"
