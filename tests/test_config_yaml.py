"""YAML of strangers: refused at once and in a short line, whatever it would grow to."""

import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from omniad.config import load_settings, read_yaml
from omniad.config.yaml_files import DEEPEST
from omniad.errors import UserError
from omniad.wording import shown


def refused(tmp_path, text: str) -> str:
    """The line about a configuration that is laid over the project's; it comes at once."""
    file = tmp_path / "own.yaml"
    file.write_text(text)
    started = time.perf_counter()
    with pytest.raises(UserError) as raised:
        load_settings(file)
    assert time.perf_counter() - started < 5
    told = str(raised.value)
    assert told.startswith(f"{file}: ") and "\n" not in told and len(told) < len(str(file)) + 1000
    return told


def laughs(levels: int) -> str:
    """Each list holds the one before it nine times."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, levels)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "use", ["title: *a9", "seeds: *a9", "sources: *a9", "model: {heads: *a9}", "title: [*a9, *a9]"]
)
def test_a_few_lines_do_not_grow_to_gigabytes(tmp_path, use):
    assert "more than 200,000 values" in refused(tmp_path, laughs(10) + use)


def test_an_alias_of_reasonable_size_is_as_good_as_a_copy(tmp_path):
    (tmp_path / "own.yaml").write_text("a: &a {epochs: 3}\nb: {<<: *a, batch_size: 4}\nc: [*a, *a]\n")
    assert read_yaml(tmp_path / "own.yaml") == {
        "a": {"epochs": 3},
        "b": {"epochs": 3, "batch_size": 4},
        "c": [{"epochs": 3}, {"epochs": 3}],
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("title: a\ntitle: b\n", "'title' appears twice in one group, again in line 2"),
        ("training: {epochs: 1, epochs: 2}", "'epochs' appears twice"),
        ('training: {epochs: 1, "epochs": 2}', "'epochs' appears twice"),
        ("title: &a [*a]", "*a contains itself"),
        ("title: " + "[" * 3000 + "]" * 3000, f"more than {DEEPEST} groups within groups"),
        ("title: " + "{a: " * 60 + "1" + "}" * 60, f"more than {DEEPEST} groups within groups"),
        ("\n".join(f"{'  ' * depth}a:" for depth in range(60)), f"more than {DEEPEST} groups within groups"),
        ("seeds: [" + "9" * 5000 + "]", "not valid YAML"),
        ("seeds: [0x" + "f" * 5000 + "]", "a number with thousands of digits"),
        ("title: 2001-99-99", "not valid YAML"),
        ("title: {[1, 2]: 3}", "not valid YAML"),
        ("title: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("title: *unknown", "not valid YAML (line 1, column 8: found undefined alias)"),
        ("seeds: [0]\ntitle: a\n  epochs: 3\n", "not valid YAML (line 3, column 9: mapping values are not allowed"),
        ("title: [" + ", ".join(["x"] * 5000) + "]", "'title' should be a valid string, not ['x', 'x', 'x', 'x',"),
        ("title: {" + "x" * 1000 + ": 1}", "'title' should be a valid string"),
        ("x" * 1000 + ": 1", "unknown key 'xxxx"),
        ("seeds: [" + ", ".join(["-1"] * 5000) + "]", "4,990 more"),
        ('results: "a\\0b"', "'results' must be a path without control characters, not 'a\\x00b'"),
        ("results: out/{dataset}", "'results' must be a path without braces"),
        ("sources: {'../up': {title: a, layout: mvtec, folder: b}}", "must be a single name without slashes"),
        ("runs: {'/etc/x': {}}", "must be a single name without slashes"),
        ("tables: {'a\\b': {title: a, columns: [], rows: []}}", "must be a single name without slashes"),
        ("figures: {'..': {title: a}}", "must be a single name without slashes"),
        (f"runs: {{{'x' * 300}: {{}}}}", "must have at most 200 bytes"),
        ("data: {image_size: 1048576}", "must be at most 4,096 (larger images do not fit in memory"),
        ("training: {epochs: 99999999999999}", "must be at most 1,000,000 (more would take years), not 99999999999999"),
        ("training: {batch_size: 10000000}", "must be at most 65,536 (more does not fit in memory)"),
        ("model: {tokens: 1000000}", "must be at most 4,096"),
        ("model: {depths: [1, 1, 1, 100000]}", "must be at most 100"),
        ("seeds: [18446744073709551616]", "must be at most 9,223,372,036,854,775,807"),
    ],
)
def test_one_short_line(tmp_path, text, told):
    assert told in refused(tmp_path, text)


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"\xff\xfe", "not valid YAML"), (b"a: \0", "not valid YAML"), (b"# " + b"x" * 5_000_000, "more than 4 MB")],
)
def test_a_file_that_is_no_yaml(tmp_path, content, told):
    (tmp_path / "own.yaml").write_bytes(content)
    with pytest.raises(UserError, match=told):
        read_yaml(tmp_path / "own.yaml")
    with pytest.raises(UserError, match="not a file"):
        read_yaml(tmp_path)


@given(text=st.text("ab:{}[],&*-!'\"\n #<0.", max_size=40))
def test_any_text_is_read_as_yaml_does_or_refused(text, tmp_path_factory):
    """Wherever both read it, with equal values: ours refuses more, but understands nothing differently."""
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(text)
    try:
        values = read_yaml(file)
    except UserError:
        return
    assert values == (yaml.safe_load(text) or {})


@settings(max_examples=50)
@given(st.recursive(st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_a_value_in_a_message_is_short(value):
    assert len(shown(value)) <= 80
