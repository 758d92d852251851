"""The few signs of our Markdown as HTML, so that what is written once stands in both reports."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

INLINE = (
    (re.compile(r"\*\*(.+?)\*\*"), r"<strong>\1</strong>"),
    (re.compile(r"`(.+?)`"), r"<code>\1</code>"),
    (re.compile(r"(?<![\w*])\*(?!\s)(.+?)\*(?!\w)"), r"<em>\1</em>"),
    # Only to neighbours of the report: a run folder's note must not bring in an address, least of all javascript:.
    (re.compile(r"\[([^\]]+)\]\(([^)\s:]+)\)"), r'<a href="\2">\1</a>'),
    (re.compile(r"&lt;br&gt;|\n"), "<br>"),
)


def inline(text: str) -> Markup:
    """One line of our Markdown as HTML: bold, italics, code, links; all else is escaped."""
    html = str(escape(str(text)))
    for pattern, replacement in INLINE:
        html = pattern.sub(replacement, html)
    return Markup(html)


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
