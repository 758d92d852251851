"""Counts that tables and figures show: `complexity.csv`, a line a table row and variant, and `resolution.csv`.

`omniad complexity` counts and writes them; a report reads them, which needs no torch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omniad.config import PAPER_FOLDER, VARIANTS, Settings, run_settings
from omniad.errors import NotInstalled
from omniad.files import read_csv, reading, write_csv
from omniad.reporting.paper import read_paper

COLUMNS = ["table", "row", "variant", "parameters", "macs", "reported_parameters_m", "reported_flops_g", "note"]
# The tables' name of a count -> its column here, and the number that is one of the table's units.
COUNTS = {"parameters": ("parameters", 1e6), "FLOPs": ("macs", 1e9)}
NOT_OURS = "not written by `omniad complexity`; delete it and run the command again"
RESOLUTION_COLUMNS = ["attention", "image_size", "parameters", "macs"]
OTHERS = "other_methods.csv"  # costs that other papers print of Table I's other methods
SIZES = (256, 384, 512, 640, 768, 896, 1024)  # pixels
log = logging.getLogger(__name__)

Resolutions = Mapping[str, Mapping[int, int]]  # attention (learnable, plain) -> image size -> multiply-adds


def complexity_rows(settings: Settings) -> list[dict[str, Any]]:
    """Parameters and multiply-adds of every table row that has a run, by COLUMNS.

    Omni-AD's rows are counted in both readings; another method has none, and its name stands for the variant.
    `reported_...` are the printed numbers (None where none is printed), `note` is on the printed FLOPs. A row that
    is in a table for several data sets is the same model and listed once.
    """
    from omniad.models.complexity import complexity  # imports torch, which takes seconds

    counted: dict[str, tuple[int, int]] = {}
    others = read_paper(PAPER_FOLDER / OTHERS)
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for table, entry in settings.tables.items():
        printed = others | (read_paper(PAPER_FOLDER / entry.paper) if entry.paper else {})
        for row in entry.rows:
            if not row.run:
                continue
            configured = run_settings(settings, row.dataset, row.run).model
            ours = configured.method == "omni-ad"
            parameters, flops = (printed.get((row.dataset, row.label, count)) for count in COUNTS)
            for variant in VARIANTS if ours else (configured.method,):
                model = configured.model_copy(update={"variant": variant}) if ours else configured
                key = model.model_dump_json()
                if key not in counted:
                    try:
                        counted[key] = complexity(model, settings.data.image_size)
                    except NotInstalled as error:
                        log.warning("%s is not counted: %s", row.label, error)
                        continue
                line = {
                    "table": table,
                    "row": row.label,
                    "variant": variant,
                    "parameters": counted[key][0],
                    "macs": counted[key][1],
                    "reported_parameters_m": parameters and parameters.value,
                    "reported_flops_g": flops and flops.value,
                    "note": flops.note if flops else "",
                }
                rows.setdefault((table, row.label, variant), line)
    return list(rows.values())


def resolution_rows(settings: Settings, sizes: Iterable[int] = SIZES) -> list[dict[str, Any]]:
    """What the model costs at several image sizes, with its learnable tokens and with two plain self-attentions."""
    from omniad.models.complexity import complexity

    models = {
        "learnable": settings.model,
        "plain": settings.model.model_copy(update={"first_attention": "none", "second_attention": "none"}),
    }
    return [
        dict(zip(RESOLUTION_COLUMNS, (attention, size, *complexity(model, size)), strict=True))
        for attention, model in models.items()
        for size in sizes
    ]


def write_complexity(rows: Iterable[Mapping[str, Any]], out: str | Path) -> None:
    """Write the rows of `complexity_rows`; what the paper does not print stays empty."""
    write_csv(out, COLUMNS, rows)


def read_complexity(file: str | Path) -> dict[tuple[str, str, str], dict[str, float]]:
    """Counts by (table, row, variant): {"parameters": millions, "FLOPs": 10^9}; empty when there is no such file.

    Raises:
        UserError: a line of the file does not hold whole numbers.
    """
    if not Path(file).exists():
        return {}
    with reading(file, NOT_OURS):
        return {
            (line["table"], line["row"], line["variant"]): {
                name: _number(line[column]) / unit for name, (column, unit) in COUNTS.items()
            }
            for line in read_csv(file, COLUMNS)
        }


def write_resolutions(rows: Iterable[Mapping[str, Any]], out: str | Path) -> None:
    """Write the rows of `omniad.reporting.complexity.resolution_rows`."""
    write_csv(out, RESOLUTION_COLUMNS, rows)


def read_resolutions(file: str | Path) -> Resolutions:
    """Multiply-adds by attention and image size; empty when there is no such file.

    Raises:
        UserError: a line of the file does not hold whole numbers.
    """
    found: dict[str, dict[int, int]] = {}
    if not Path(file).exists():
        return found
    with reading(file, NOT_OURS):
        for line in read_csv(file, RESOLUTION_COLUMNS):
            found.setdefault(line["attention"], {})[_number(line["image_size"])] = _number(line["macs"])
    return found


def _number(text: str) -> int:
    """A count. Raises ValueError."""
    number = int(text)
    if not 0 < number < 10**18:
        raise ValueError("a count out of range")
    return number
