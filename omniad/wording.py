"""Text for messages: times, counts, lists, and values of any length."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

LONGEST = 80  # characters of a value in a message


def duration(seconds: float) -> str:
    """A time: "45 s", "12 min", "3.5 h", "9 days"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:,.0f} days"


def disk_size(number: float) -> str:
    """Bytes, as disks count them: "0.1 MB", "217.0 GB"."""
    return f"{number / 1e9:,.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


def count(number: int | str, noun: str, plural: str = "") -> str:
    """ "1 image", "3,000 images"; `plural` where an s is not enough."""
    text = f"{number:,}" if isinstance(number, int) else number
    return f"{text} {noun if number == 1 else plural or noun + 's'}"


def listed(items: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def shown(value: Any) -> str:
    """A value as Python writes it, cut at LONGEST characters; without ever writing all of a huge one."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = LONGEST
    try:
        text = short.repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        text = "a number with thousands of digits"
    return cut(text)


def cut(text: str) -> str:
    """A text of at most LONGEST characters."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."
