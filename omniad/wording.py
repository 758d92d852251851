"""Numbers as a person says them: times, counts, lists."""

from __future__ import annotations

from collections.abc import Sequence


def duration(seconds: float) -> str:
    """A time: "45 s", "12 min", "3.5 h", "9 days"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:,.0f} days"


def count(number: int | str, noun: str, plural: str = "") -> str:
    """ "1 image", "3,000 images"; `plural` where an s is not enough."""
    text = f"{number:,}" if isinstance(number, int) else number
    return f"{text} {noun if number == 1 else plural or noun + 's'}"


def listed(items: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
