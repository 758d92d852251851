# Complexity, tables, figures and the report. Nothing here trains.
import omniad.config


localrules:
    complexity,
    report,


def shown_runs(wildcards):
    """The evaluations that the targets a person typed need; other finished runs are shown as they are."""
    return sorted({file for target in workflow.dag_settings.targets or ["all"] for file in evaluations(str(target))})


def found_runs(wildcards):
    """The other runs that are there. Their dates are a parameter, not an input: the report must not train them again."""
    shown = set(shown_runs(wildcards))
    found = Path(RESULTS).glob("runs/*/*/seed*/metrics.csv")
    return sorted((str(file), file.stat().st_mtime_ns) for file in found if str(file) not in shown)


def reporting_digest():
    """Of the package's reporting code: an edit there makes the report anew, and only the report."""
    folder = Path(omniad.config.__file__).parent / "reporting"
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".j2"))
    return digest("".join(path.read_text(encoding="utf-8") for path in files))


rule complexity:
    output:
        f"{RESULTS}/complexity.csv",
    params:
        models=digest(to_yaml(load_settings())),  # the full-size models, whatever an overlay shrinks
    shell:
        "{OMNIAD} complexity --out {output}"


rule report:
    input:
        shown_runs,
        complexity=f"{RESULTS}/complexity.csv",
    output:
        REPORT,
        f"{RESULTS}/measurements.csv",
        directory(f"{RESULTS}/tables"),
        directory(f"{RESULTS}/figures"),
    params:
        settings=digest(to_yaml(settings)),
        others=found_runs,
        code=reporting_digest(),
    shell:
        "{OMNIAD} report --config {CONFIG}"
