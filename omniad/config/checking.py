"""Strict groups of settings, and one line that names every problem in a group."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from omniad.errors import UserError
from omniad.wording import cut, shown

S = TypeVar("S", bound=BaseModel)
KeyPath = tuple[str | int, ...]
MOST_PROBLEMS = 10  # told in one message
Where = str | Callable[[KeyPath], str]  # a file, or a function that tells which file a key is in


class Section(BaseModel):
    """A group of settings: immutable, no unknown keys, no silent conversion ("3" is not 3)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def known(name: str, names: Iterable[str], what: str) -> str:
    """`name` if it is one of `names`. Raises UserError that lists them otherwise."""
    if name not in names:
        raise UserError(f"{what}: unknown '{cut(name)}'; choose from: {', '.join(names) or 'nothing'}")
    return name


def place(where: Where, path: KeyPath) -> str:
    """The file that a key is in."""
    return where if isinstance(where, str) else where(path)


def validate(section: type[S], values: Any, where: Where, prefix: KeyPath = ()) -> S:
    """`values` as a section; every problem in one message, each with its file, its key's path and what is allowed."""
    try:
        return section.model_validate(values)
    except ValidationError as error:
        problems: dict[str, list[str]] = {}
        found = error.errors()
        for problem in found[:MOST_PROBLEMS]:
            path = (*prefix, *problem["loc"])
            name = cut(".".join(map(str, path)))
            problems.setdefault(place(where, path), []).append(_describe(section, problem, name))
        more = f"; and {len(found) - MOST_PROBLEMS:,} more" if len(found) > MOST_PROBLEMS else ""
        raise UserError("; ".join(f"{file}: {'; '.join(told)}" for file, told in problems.items()) + more) from None


def _describe(section: type[BaseModel], problem: Mapping[str, Any], path: str) -> str:
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{path}'; allowed here: {', '.join(_keys_at(section, problem['loc'][:-1]))}"
    if problem["type"] == "missing":
        return f"'{path}' is missing"
    if problem["type"] == "too_short":
        return f"'{path}' must not be empty"
    if problem["type"] == "list_type":
        example = f"[{cut(str(problem['input']))}]" if isinstance(problem["input"], str | int | float) else "[a, b]"
        return f"'{path}' should be a list, as {example}, not {shown(problem['input'])}"
    if problem["type"] == "union_tag_invalid":  # of a group that one of its keys gives a form, with keys of its own
        key, forms, form = (problem["ctx"][name] for name in ("discriminator", "expected_tags", "tag"))
        return f"'{path}.{key[1:-1]}' should be one of {forms}, not {shown(form)}"
    if problem["type"] == "union_tag_not_found":
        return f"'{path}.{problem['ctx']['discriminator'][1:-1]}' is missing"
    hint = " (YAML reads 1e-3 as text: write 1.0e-3 or 0.001)" if _looks_scientific(problem["input"]) else ""
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"'{path}' {message}, not {shown(problem['input'])}{hint}"


def _keys_at(section: Any, path: tuple) -> list[str]:
    """The keys a section allows at a path below it (a step that is no field is a name in a mapping)."""
    for step in path:
        if isinstance(step, int):
            continue  # an index into a list, whose element type `section` already is
        if isinstance(section, type) and issubclass(section, BaseModel) and step in section.model_fields:
            section = section.model_fields[step].annotation
        else:
            parts = [part for part in getattr(section, "__args__", ()) if part is not str]
            section = next((part for part in parts if _has_form(part, step)), parts[-1])
        while getattr(section, "__origin__", None) is list:
            section = section.__args__[0]
    return list(section.model_fields) if hasattr(section, "model_fields") else []


def _has_form(section: Any, name: str) -> bool:
    """Whether one of the section's keys can only be `name`: of several forms it is the one of that name."""
    fields = getattr(section, "model_fields", {}).values()
    return any(getattr(field.annotation, "__args__", None) == (name,) for field in fields)


def _looks_scientific(value: Any) -> bool:
    try:
        return isinstance(value, str) and "e" in value.lower() and math.isfinite(float(value))
    except ValueError:
        return False
