"""Untrusted YAML: nothing is executed, a few lines can't grow to gigabytes, and no key appears twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from omniad.errors import UserError
from omniad.files import read_text, reading

MOST_BYTES = 4_000_000  # of a file
MOST_VALUES = 200_000  # with what aliases (`*name`) stand for
DEEPEST = 50  # groups within groups


SafeLoader: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader  # the former is ten times as fast


class _Loader(SafeLoader):
    """Of two equal keys YAML keeps the last; here the second is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    where = f"line {key.start_mark.line + 1}"
                    raise yaml.YAMLError(f"'{key.value[:80]}' appears twice in one group, again in {where}")
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def read_yaml(file: str | Path) -> dict[str, Any]:
    """A YAML mapping, read without executing anything.

    Raises:
        UserError: it is missing, malformed, too large or too deep, or has a key twice in one group.
    """
    with reading(file, "not valid YAML"):
        text = read_text(file, MOST_BYTES)
        try:
            _check_growth(text)
            values = yaml.load(text, _Loader)
        except yaml.MarkedYAMLError as error:
            raise yaml.YAMLError(_told(error)) from error
    if not isinstance(values or {}, dict):
        raise UserError(f"{file}: must contain keys and values, not {type(values).__name__}")
    return values or {}


def _told(error: yaml.MarkedYAMLError) -> str:
    """Where it is and what it is, without PyYAML's name for a text that is no file."""
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return place + ", ".join(part for part in (error.problem, error.context) if part)


def _check_growth(text: str) -> None:
    """Count values and depth before anything is made of them, with each alias as large as what it stands for."""
    sizes: dict[str, int] = {}  # of what has an anchor (`&name`)
    open_groups: list[tuple[str | None, int]] = []  # the anchor, and the number of values before it
    values = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in (anchor for anchor, _ in open_groups):
                raise ValueError(f"*{event.anchor[:80]} contains itself")
            values += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_groups.append((event.anchor, values))
            values += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_groups.pop()
            if anchor is not None:
                sizes[anchor] = values - before
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        if values > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} values after expanding aliases")
        if len(open_groups) > DEEPEST:
            raise ValueError(f"more than {DEEPEST} groups within groups")
