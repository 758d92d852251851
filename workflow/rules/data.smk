# From an address to packed arrays. A user's own archives, folders and weights are never declared as output, because
# Snakemake deletes those before it makes them; small stamps stand for them.
from omniad.data.folders import folder_state
from omniad.data.packs import PACK_VERSION
from omniad.data.weights import files_by_place, weights_paths


localrules:
    data,
    fetch,
    extract,
    weights,
    index,


rule data:
    input:
        [f"{PACK}/pack.json".format(dataset=dataset) for dataset in settings.datasets],


if any(source.miniature for source in settings.sources.values()):

    localrules:
        miniature,

    rule miniature:
        output:
            directory(f"{RESULTS}/data/raw/{{dataset}}"),
        params:
            layout=lambda wildcards: settings.sources[wildcards.dataset].layout,
        shell:
            "{OMNIAD} miniature --layout {params.layout:q} --folder {output:q}"


rule fetch:
    output:
        f"{PREPARED}/{{dataset}}/fetched.json",
    shell:
        "{OMNIAD} fetch {wildcards.dataset:q} --config {CONFIG:q} --stamp {output:q}"


rule extract:
    input:
        f"{PREPARED}/{{dataset}}/fetched.json",
    output:
        f"{PREPARED}/{{dataset}}/extracted.json",
    shell:
        "{OMNIAD} extract {wildcards.dataset:q} --config {CONFIG:q} --stamp {output:q}"


rule weights:
    output:
        f"{PREPARED}/weights/{{file}}.json",
    shell:
        "{OMNIAD} fetch {wildcards.file:q} --config {CONFIG:q} --stamp {output:q}"


def raw_folder(wildcards):
    """A miniature is made; a real data set's folder is the user's own, or extracted."""
    source = settings.sources[wildcards.dataset]
    stamp = f"{PREPARED}/{wildcards.dataset}/extracted.json"
    return source.folder if source.miniature else stamp


def own_files(wildcards):
    """Sizes and times of a person's own files: replaced ones are indexed again. Fetched ones are what an archive held."""
    source = settings.sources[wildcards.dataset]
    return "" if source.miniature or source.archive else folder_state(Path(source.folder))


rule index:
    input:
        raw_folder,
    output:
        f"{PREPARED}/{{dataset}}/index.csv",
    params:
        source=lambda wildcards: settings.sources[wildcards.dataset].model_dump(
            include={"layout", "folder", "counts", "classes", "resolution", "views"}
        ),
        files=own_files,
    shell:
        "{OMNIAD} index --config {CONFIG:q} --dataset {wildcards.dataset:q} --out {output:q}"


rule pack:
    input:
        index=f"{PREPARED}/{{dataset}}/index.csv",
    output:
        multiext(f"{PACK}/", "pack.json", "images.npy", "masks.npy"),
    threads: lambda wildcards: cores_here()
    resources:
        mem_mb=8000,
        runtime=at_most_default(240),
    params:
        folder=subpath(output[0], parent=True),
        size=settings.data.image_size,
        version=PACK_VERSION,
    shell:
        "{OMNIAD} pack --config {CONFIG:q} --dataset {wildcards.dataset:q} --index {input.index:q}"
        " --out {params.folder:q}"
