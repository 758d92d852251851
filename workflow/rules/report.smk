# Complexity, tables, figures and the report. Nothing here trains.
import omniad
from omniad.config import PAPER_FOLDER
from omniad.runs.finished import evaluated_folders


localrules:
    complexity,
    report,


def shown_runs(wildcards):
    """The evaluations that the typed targets need; other finished runs are shown as they are."""
    return sorted({file for target in typed_targets() for file in evaluations(target)})


def found_runs(wildcards):
    """The other finished runs. Their dates are a parameter, not an input: the report must not retrain them."""
    shown = set(shown_runs(wildcards))
    found = [folder / files.METRICS for folder in evaluated_folders(RESULTS)]
    return sorted((str(file), file.stat().st_mtime_ns) for file in found if str(file) not in shown)


def reporting_digest():
    """Digest of the reporting code and the printed numbers: an edit there remakes the report, and only the report."""
    folders = [Path(omniad.__file__).parent / "reporting", PAPER_FOLDER]
    endings = (".py", ".j2", ".css", ".js", ".csv", ".yaml")
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in endings)
    return digest("".join(path.read_text(encoding="utf-8") for path in files))


rule complexity:
    output:
        rows=f"{RESULTS}/complexity.csv",
        resolutions=f"{RESULTS}/resolution.csv",
    params:
        models=digest(snapshot_text(load_settings())),  # the full-size models, whatever an overlay shrinks
    shell:
        "{OMNIAD} complexity --out {output.rows:q} --resolutions {output.resolutions:q}"


rule report:
    input:
        shown_runs,
        rules.complexity.output,
    output:
        REPORT,
        report(f"{RESULTS}/report.html", category="Report", caption="../report/report.rst"),
        report(f"{RESULTS}/measurements.csv", category="Report", caption="../report/measurements.rst"),
        f"{RESULTS}/runs.csv",
        report(
            directory(f"{RESULTS}/tables"),
            patterns=["table{table}.csv"],
            category="Tables",
            caption="../report/tables.rst",
        ),
        report(
            directory(f"{RESULTS}/figures"),
            patterns=["{figure}.png"],
            category="Figures",
            caption="../report/figures.rst",
        ),
    params:
        settings=digest(snapshot_text(settings)),
        others=found_runs,
        code=reporting_digest(),
    shell:
        "{OMNIAD} report --config {CONFIG:q}"
