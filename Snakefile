# The paper as one workflow. Type a target: data, complexity, table1 ... table7, ablations, figures, report, all.
from snakemake.utils import min_version

min_version("9.18")


include: "workflow/rules/internals.smk"
include: "workflow/rules/common.smk"


# Snakemake's own record of them; they are read and checked in common.smk.
configfile: "config/config.yaml"
configfile: "config/runs.yaml"
configfile: "config/tables.yaml"


rule all:
    default_target: True
    input:
        REPORT,
        evaluations("all"),


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/start.smk"


# table1 ... table7, ablations (all tables but the first), figures, table1_released: each trains and evaluates what it
# shows, and updates the report.
for target in sorted(TARGETS.keys() - {"all"}):

    rule:
        name:
            target
        input:
            REPORT,
            evaluations(target),
