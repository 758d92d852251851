"""What the paper prints, against facts that stand in the paper itself."""

import shutil

import pytest
from reporting_results import SEVEN

from omniad.config import PAPER_FOLDER, load_settings
from omniad.data.counts import read_counts
from omniad.errors import UserError
from omniad.reporting.paper import CLASS_CELL, PER_CLASS_FILE, Printed, read_paper
from omniad.reporting.paper_check import check_paper

HEAD = "dataset,row,metric,value,note\n"
# Rows times columns of the paper's tables; RLR prints 2 of its 8.
NUMBERS = {
    "table1": 21 * 8 - 6,
    "table1_memory": 8 + 2,  # other papers': PatchCore's row, two numbers of PaDiM's
    "table2": 3 * 7,
    "table3": 4 * 7,
    "table4": 12,
    "table5": 3 * 7,
    "table6": 12,
    "table7": 12,
    "field": 31 * 8,
}


@pytest.fixture(scope="module")
def printed():
    return {name: read_paper(PAPER_FOLDER / table.paper) for name, table in load_settings().tables.items()}


def test_no_number_of_the_paper_is_missing(printed):
    assert {name: len(numbers) for name, numbers in printed.items()} == NUMBERS


def test_every_printed_number_has_a_cell_in_the_configured_tables(printed):
    for name, table in load_settings().tables.items():
        cells = {(row.dataset, row.label, column) for row in table.rows for column in table.columns}
        assert set(printed[name]) <= cells


@pytest.fixture(scope="module")
def per_class():
    return read_paper(PAPER_FOLDER / PER_CLASS_FILE, CLASS_CELL)


def test_every_class_is_printed_with_seven_metrics(per_class):
    expected = {
        (dataset, row, name, metric)
        for dataset in ("mvtec", "visa")
        for name in {class_ for class_, _, _ in read_counts(dataset, []) or {}}
        for row in ("RD4AD", "UniAD", "SimpleNet", "DeSTSeg", "DiAD", "MambaAD", "Dinomaly-B")
        for metric in SEVEN
    }
    assert set(per_class) == expected
    assert len(expected) == (15 + 12) * 7 * 7


def test_class_means_are_table_1s_where_no_note_says_otherwise(printed, per_class):
    """Each misprint, put right as its note says, gives Table I's mean, which proves both."""
    groups: dict[tuple[str, str, str], list[Printed]] = {}
    for (dataset, row, _, metric), number in per_class.items():
        groups.setdefault((dataset, row, metric), []).append(number)
    apart = set()
    for key, numbers in groups.items():
        if key not in printed["table1"]:
            continue
        values = [
            float(number.note.rpartition(" ")[2]) if "misprint" in number.note else number.value for number in numbers
        ]
        near = abs(sum(values) / len(values) - printed["table1"][key].value) <= 0.11  # both are rounded
        assert near != any("another run" in number.note for number in numbers), key
        apart |= set() if near else {key[:2]}
    assert apart == {("mvtec", "RD4AD"), ("mvtec", "UniAD"), ("visa", "UniAD")}
    assert sum("misprint" in number.note for number in per_class.values()) == 2


def test_every_printed_mad_is_the_mean_of_its_seven_metrics(printed):
    for table, count in (("table1", 20), ("field", 31)):
        numbers = printed[table]
        rows = [(dataset, row) for dataset, row, metric in numbers if metric == "mAD"]
        assert len(rows) == count
        for dataset, row in rows:
            mean = sum(numbers[dataset, row, metric].value for metric in SEVEN) / 7
            assert numbers[dataset, row, "mAD"].value == pytest.approx(mean, abs=0.0501)


def test_the_field_agrees_with_table1_where_both_print_a_row(printed):
    both = printed["field"].keys() & printed["table1"].keys()
    assert len(both) == 6 * 8  # Omni-AD and MambaAD on three data sets
    for key in both:
        assert printed["field"][key].text == printed["table1"][key].text


@pytest.mark.parametrize(("text", "decimals"), [("468", 0), ("29.9", 1), ("12.0", 1)])
def test_printed_precision(text, decimals):
    assert Printed(text).decimals == decimals


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "mvtec,Q,P-AP,fifty,\n", "line 2: 'fifty' is not a number"),
        (HEAD + "mvtec,Q,P-AP,,\n", "line 2: '' is not a number"),
        (HEAD + "mvtec,Q,P-AP,nan,\n", "line 2: 'nan' is not a number"),
        (HEAD + "mvtec,Q,P-AP,1,\nmvtec,Q,P-AP,2,\n", "line 3: mvtec, Q, P-AP appears twice"),
        ("row,metric,value\nQ,P-AP,1\n", "the first line must be dataset,row,metric,value,note"),
    ],
)
def test_a_bad_file_is_named_with_what_to_mend(tmp_path, text, message):
    file = tmp_path / "table9.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_paper(file)
    assert str(file) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.csv"):
        read_paper(tmp_path / "nothing.csv")


@pytest.mark.parametrize(
    ("right", "typo", "message"),
    [
        ("mvtec,36,mAD", "mvtek,36,mAD", "line 7: data set: unknown 'mvtek'; choose from: mvtec"),
        ("mvtec,36,mAD", "mvtec,37,mAD", "line 7: row of mvtec: unknown '37'; choose from: 16, 36, 64, 100"),
        ("mvtec,36,mAD", "mvtec,36,mad", "line 7: metric: unknown 'mad'; choose from: I-AUROC"),
    ],
)
def test_a_printed_number_that_no_table_shows_is_told(tmp_path, right, typo, message):
    folder = shutil.copytree(PAPER_FOLDER, tmp_path / "paper")
    check_paper(load_settings(), folder)
    text = (folder / "table4.csv").read_text()
    assert text.count(right) == 1
    (folder / "table4.csv").write_text(text.replace(right, typo))
    with pytest.raises(UserError, match=rf"table4\.csv, {message}"):
        check_paper(load_settings(), folder)


@pytest.mark.parametrize("name", [PER_CLASS_FILE, "other_methods.csv"])
def test_the_files_that_several_tables_use_are_checked_too(tmp_path, name):
    folder = shutil.copytree(PAPER_FOLDER, tmp_path / "paper")
    (folder / name).write_text((folder / name).read_text().replace("mvtec,RD4AD,", "mvtec,RD4,"))
    with pytest.raises(UserError, match=rf"{name}, line 2: row of mvtec: unknown 'RD4'; choose from: RD4AD"):
        check_paper(load_settings(), folder)


def test_an_overlay_may_show_fewer_rows(tmp_path):
    (tmp_path / "own.yaml").write_text('tables: {table4: {rows: [{label: "16", run: tokens_16}]}}')
    check_paper(load_settings(tmp_path / "own.yaml"))
