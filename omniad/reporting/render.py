"""Tables and report as text: Markdown and LaTeX from the templates, and a CSV with everything in a table."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from omniad.config import VARIANTS
from omniad.reporting.cells import MINUS, NOT_RUN, NOTHING, SIGNS, UNDEFINED
from omniad.reporting.complexity import COUNTS
from omniad.reporting.layout import BEST, SECOND
from omniad.reporting.tables import DEFINITIONS, PRINTED_VARIANT, SHOWN, Ours, Row, Table
from omniad.reporting.verdicts import HIGHER, LOWER, REPRODUCED, Verdict

CSV_COLUMNS = ["table", "dataset", "row", "column", "definition", "variant", "run", "paper", "ours", "std", "seeds"]
CSV_COLUMNS += ["difference", "verdict", "half_width", "seeds_needed", "status", "miniature", "note"]
TEMPLATES = Path(__file__).parent / "templates"
LATEX = {sign: f"\\{sign}" for sign in "&%$#_{}"}
LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {sign: f"${sign}$" for sign in "<>|"}
LATEX |= {"±": r"$\pm$", MINUS: "$-$", NOTHING: "--"}
LATEX |= {SIGNS[REPRODUCED]: r"$\checkmark$", SIGNS[HIGHER]: r"$\uparrow$", SIGNS[LOWER]: r"$\downarrow$"}
MARKDOWN_MARKS = {BEST: "**{}**", SECOND: "*{}*"}
LATEX_MARKS = {BEST: "\\textbf{{{}}}", SECOND: "\\underline{{{}}}"}


def templates() -> jinja2.Environment:
    """The package's templates, with filters that make text safe in Markdown, LaTeX and HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=lambda name: bool(name and name.endswith(".html.j2")),  # neither Markdown nor LaTeX is HTML
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": markdown, "tex": latex, "md_row": markdown_row, "tex_row": latex_row}
    environment.filters |= {"inline": inline, "blocks": blocks, "words": words, "csp_hash": csp_hash}
    return environment


def page_part(name: str) -> Markup:
    """The page's script or style, as it stands between its tags."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def csp_hash(text: str) -> str:
    """What a content security policy calls a script or style by: only this very text is let run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def markdown(text: str) -> str:
    """Text that may stand in Markdown, in a cell of a table too: no HTML and no link in it counts, a newline breaks.

    Bold, italics and code are let be: our own sentences have them, and a stranger's can do no harm with them.
    """
    safe = MARKDOWN.sub(r"\\\g<0>", str(text)).replace("<", "&lt;")
    safe = DATASETS.sub(r"datasets='[\1]'", safe)
    return "<br>".join(safe.splitlines())


def latex(text: str) -> str:
    """Text that LaTeX prints as it is; several lines are stacked."""
    lines = ["".join(LATEX.get(sign, sign) for sign in line) for line in text.split("\n")]
    return lines[0] if len(lines) == 1 else "\\shortstack{" + " \\\\ ".join(lines) + "}"


def markdown_row(cells: list[tuple[str, str]]) -> str:
    """The inside of a line of a Markdown table: the best bold, the second best in italics."""
    return " | ".join(MARKDOWN_MARKS.get(mark, "{}").format(markdown(text)) for text, mark in cells)


def latex_row(cells: list[tuple[str, str]]) -> str:
    """The inside of a line of a LaTeX table: the best bold, the second best underlined."""
    return " & ".join(LATEX_MARKS.get(mark, "{}").format(latex(text)) for text, mark in cells)


def csv_lines(table: Table) -> Iterator[dict[str, Any]]:
    """A line for each printed number, each count and each metric of ours in both definitions.

    Accuracies are in percent, parameters in millions, FLOPs in 10^9. Only the first definition is compared with print.
    """
    for row in table.rows:
        for column in table.columns:
            yield from _count_lines(table, row, column) if column in COUNTS else _accuracy_lines(table, row, column)


def _count_lines(table: Table, row: Row, column: str) -> Iterator[dict[str, Any]]:
    printed = row.printed.get(column)
    for variant in VARIANTS:
        counted = row.counted.get(variant, {}).get(column)
        verdict = row.verdicts.get(column) if variant == PRINTED_VARIANT else None
        yield (
            _line(table, row, column)
            | _verdict(verdict)
            | {
                "variant": variant,
                "ours": "" if counted is None else f"{counted:.6f}",
                "difference": _plain(counted - printed.value, 6) if printed and counted is not None else "",
                "status": NOT_RUN if counted is None else "counted",
            }
        )


def _accuracy_lines(table: Table, row: Row, column: str) -> Iterator[dict[str, Any]]:
    if not row.ours and column in row.printed:
        yield _line(table, row, column) | {"status": "only printed"}
    for ours in row.ours:
        for definition in DEFINITIONS:
            yield _line(table, row, column) | _accuracy(table, row, ours, column, definition)


def _accuracy(table: Table, row: Row, ours: Ours, column: str, definition: str) -> dict[str, Any]:
    printed, measured = row.printed.get(column), ours.measured(column, definition)
    entry: dict[str, Any] = {
        "definition": definition,
        "variant": ours.variant,
        "run": ours.run,
        "seeds": len(ours.seeds),
        "miniature": "yes" if ours.miniature else "no",
        "status": NOT_RUN,
        "note": " ".join(filter(None, [printed.note if printed else "", *ours.notes])),
    }
    if measured is None:
        return entry
    if math.isnan(measured.mean):
        return entry | {"status": UNDEFINED, "note": " ".join(filter(None, [entry["note"], measured.reason]))}
    comparable = table.judged and printed and definition == SHOWN and not ours.miniature
    verdict = ours.verdicts.get(column) if definition == SHOWN else None
    return (
        entry
        | _verdict(verdict)
        | {
            "ours": f"{measured.mean:.4f}",
            "std": "" if measured.std is None else f"{measured.std:.4f}",
            "difference": _plain(measured.mean - printed.value, 4) if printed and comparable else "",
            "status": "measured",
        }
    )


def _plain(value: float, decimals: int) -> str:
    """Without a sign on what rounds to zero."""
    return f"{round(value, decimals) + 0.0:.{decimals}f}"


def _verdict(verdict: Verdict | None) -> dict[str, str]:
    if verdict is None:
        return {}
    width = "" if math.isnan(verdict.half_width) else f"{verdict.half_width:.4f}"
    text = f"{verdict.kind}: {verdict.reason}" if verdict.reason else verdict.kind
    return {"verdict": text, "half_width": width, "seeds_needed": str(verdict.seeds or "")}


def _line(table: Table, row: Row, column: str) -> dict[str, Any]:
    printed = row.printed.get(column)
    values = {"table": table.name, "dataset": row.dataset, "row": row.label, "column": column}
    note = printed.note if printed else ""
    return dict.fromkeys(CSV_COLUMNS, "") | values | {"paper": printed.text if printed else "", "note": note}


DATASETS = re.compile(r"datasets='\\\[([\w,-]+)\\\]'")  # in our commands: in code a backslash would be copied, too
MARKDOWN = re.compile(r"[\\\[\]|]")  # what `markdown` puts a backslash before
SET_ASIDE = {ord(sign): chr(0xE000 + number) for number, sign in enumerate("\\[]|")}
PUT_BACK = {ord(aside): chr(sign) for sign, aside in SET_ASIDE.items()}
INLINE = (
    (re.compile(r"\*\*(.+?)\*\*"), r"<strong>\1</strong>"),
    (re.compile(r"`(.+?)`"), r"<code>\1</code>"),
    (re.compile(r"(?<![\w*])\*(?!\s)(.+?)\*(?!\w)"), r"<em>\1</em>"),
    # Only to neighbours of the report: a run folder's note must not bring in an address, least of all javascript:.
    (re.compile(r"\[([^\]]+)\]\((?!/)([^)\s:\\\ue000]+)\)"), r'<a href="\2">\1</a>'),
    (re.compile(r"&lt;br&gt;|\n"), "<br>"),
)


def inline(text: str) -> Markup:
    """One line of our Markdown as HTML: bold, italics, code, links; all else is escaped. It undoes `markdown`."""
    text = re.sub(r"\\([\\\[\]|])", lambda sign: sign[1].translate(SET_ASIDE), str(text).replace("&lt;", "<"))
    html = str(escape(text))
    for pattern, replacement in INLINE:
        html = pattern.sub(replacement, html)
    return Markup(html.translate(PUT_BACK))


def words(text: str) -> Markup:
    """A cell of the page, whose line may break between words, but not inside "P-AUROC", "± 0.2" or "1 of 3"."""
    lines = [[line] if len(line) <= SHORT else WORD.findall(line) for line in str(text).splitlines()]
    return Markup("<br>").join(Markup(" ").join(map(_whole, line)) for line in lines)


def _whole(word: str) -> Markup:
    return Markup('<span class="whole">{}</span>').format(word) if re.search(r"[\s-]", word) else escape(word)


SHORT = 7  # characters of a cell that never breaks: "1 of 3", "not run"
WORD = re.compile(r"± \S+|\(n = \d+\)|\S+")


def blocks(text: str) -> Markup:
    """Paragraphs and lists of our Markdown as HTML; headings are the template's own."""
    html: list[str] = []
    for block in re.split(r"\n\s*\n", str(text).strip()):
        lines = [line for line in block.splitlines() if line.strip() and not line.startswith("#")]
        items = [line[2:] for line in lines if line.startswith("- ")]
        paragraph = " ".join(line for line in lines if not line.startswith("- "))
        html += [f"<p>{inline(paragraph)}</p>"] if paragraph else []
        html += ["<ul>", *(f"<li>{inline(item)}</li>" for item in items), "</ul>"] if items else []
    return Markup("\n".join(html))
