"""Files with something changed, and texts that break readers."""

from __future__ import annotations

import numpy as np

TEXTS = [
    *(
        "nan",
        "inf",
        "-inf",
        "1e999",
        "-1",
        "1e400",
        "9" * 5000,
        "0x10",
        "1_0",
        "",
        " ",
        "\0",
        "\x1b[31m",
        "é",
        "\ud800",
    ),
    *("[" * 3000, "{" * 3000, '{"a":' * 3000, "null", "true", "[]", "{}", '"text"', "- a\n- b", "a: *a", "&a [*a, *a]"),
    *("!!python/object/apply:os.system [x]", "2026-13-45", "<<: 5", "? [a]", "%TAG", ",,,,", '"', "'", "\n", "\r", ","),
]


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """A file with one or a few changes: bytes, pieces, and what breaks readers of text."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(len(data) + 1))
        end = place + int(rng.integers(1, 40))
        match rng.integers(7):
            case 0:
                data[place : place + 1] = rng.bytes(1)
            case 1:
                del data[place:]
            case 2:
                del data[place:end]
            case 3:
                data[place:place] = data[place:end] * 3
            case 4:
                data[place:place] = rng.bytes(8)
            case 5:
                data[place:end] = rng.choice(np.array(TEXTS, object)).encode("utf-8", "surrogatepass")
            case 6:
                data = bytearray(_other_field(bytes(data), rng))
    return bytes(data)


def _other_field(content: bytes, rng: np.random.Generator) -> bytes:
    """One field, between separators of CSV, JSON or YAML, replaced by a text that it should not be."""
    parts = content.replace(b"\n", b",\0").replace(b": ", b",\1").split(b",")
    parts[rng.integers(len(parts))] = rng.choice(np.array(TEXTS, object)).encode("utf-8", "surrogatepass")
    return b",".join(parts).replace(b",\0", b"\n").replace(b",\1", b": ")
