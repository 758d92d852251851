# A checkpoint's scores and metrics on the test images.
from omniad.job_size import evaluation_minutes, memory_mb


rule evaluate:
    input:
        model=f"{RUN}/{files.MODEL}",
        pack=f"{PACK}/pack.json",
    output:
        multiext(f"{RUN}/", files.METRICS, files.SCORES, files.CURVES),
        examples=directory(f"{RUN}/{files.EXAMPLES}"),
    log:
        f"{RESULTS}/logs/evaluate/{{dataset}}-{{run}}-seed{{seed}}.log",
    threads: threads_of_a_place
    resources:
        gpu=1,
        mem_mb=lambda wildcards, attempt: memory_mb(settings_of(wildcards), attempt),
        runtime=lambda wildcards, attempt: at_most_default(evaluation_minutes(settings_of(wildcards), attempt)),
    params:
        folder=subpath(input.model, parent=True),
    shell:
        "{OMNIAD} evaluate {params.folder:q} 2>&1 | tee {log:q}"
