"""The tables of published counts in config/counts/."""

import pytest

from omniad.config import load_settings
from omniad.data.counts import read_counts
from omniad.errors import UserError


@pytest.mark.parametrize(
    ("name", "views", "totals"),
    [
        ("mvtec", [], (3629, 467, 1258)),
        ("visa", [], (8659, 962, 1200)),
        ("realiad", [], (36465, 63256, 51329)),
        ("realiad", ["C1"], (7293, 13502, 9415)),
    ],
)
def test_the_shipped_counts_add_up_to_the_papers(name, views, totals):
    table = read_counts(name, views)
    assert table is not None
    train = sum(images for (_, split, _), images in table.items() if split == "train")
    good = sum(images for (_, split, defect), images in table.items() if (split, defect) == ("test", "good"))
    assert (train, good, sum(table.values()) - train - good) == totals


def test_no_counts_for_other_views_and_a_wrong_table_is_told(tmp_path):
    assert read_counts("realiad", ["C2", "C3"]) is None
    with pytest.raises(UserError, match="no such table of counts"):
        read_counts("mvtek", [])
    (tmp_path / "own.csv").write_text("class,images\nnut,many\n")
    with pytest.raises(UserError, match="columns must be class,split,defect,images,"):
        read_counts(str(tmp_path / "own.csv"), [])


def test_every_shipped_source_has_counts_and_a_licence():
    for source in load_settings().sources.values():
        assert read_counts(source.counts, source.views) is not None
        assert source.licence


def test_a_count_that_is_given_twice_is_told(tmp_path):
    """Otherwise the last would count."""
    (tmp_path / "own.csv").write_text("class,split,defect,images\nnut,train,good,3\nnut,train,good,4\n")
    with pytest.raises(UserError, match=r"own\.csv, line 3: nut, train, good appears twice"):
        read_counts(str(tmp_path / "own.csv"), [])
