import pytest

from omniad.wording import count, disk_size, duration, listed


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0 s"), (5, "5 s"), (89, "89 s"), (100, "2 min"), (1800, "30 min")),
        *((9000, "2.5 h"), (60 * 3600, "2 days"), (9600 * 3600, "400 days")),
    ],
)
def test_a_time_as_a_person_says_it(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(22_900_000, "22.9 MB"), (5.3e9, "5.3 GB"), (1.2e12, "1,200.0 GB")])
def test_a_size_has_a_unit_that_shows_it(number, text):
    assert disk_size(number) == text


def test_one_is_singular():
    assert count(1, "image") == "1 image"
    assert count(3000, "image") == "3,000 images"
    assert count(2, "class", "classes") == "2 classes"
    assert count("?", "thread") == "? threads"


def test_a_list_ends_with_and():
    assert listed(["a"]) == "a"
    assert listed(["a", "b"]) == "a and b"
    assert listed(["a", "b", "c"]) == "a, b and c"
