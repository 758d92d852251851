"""Figure 3: what it shows, and that the same input gives the same bytes."""

import matplotlib
import numpy as np
import pytest
from PIL import Image
from reporting_results import miniature_settings, paper_settings, write_examples, write_run

from omniad.errors import UserError
from omniad.reporting.figures import COLORS, draw_figures, qualitative_figure, read_example, read_examples
from omniad.reporting.runs import finished_runs


@pytest.fixture
def run_folder(tmp_path):
    settings = paper_settings(tmp_path / "results")
    return write_run(settings, "mvtec", "default", 0, {"P-AP": 0.5})


def test_the_example_meant_for_the_figure_is_the_one_shown(run_folder):
    file = write_examples(run_folder, "bottle")
    example = read_example(file)
    assert example is not None
    with np.load(file) as stored:  # its order: a miss, the figure's, a false alarm
        np.testing.assert_array_equal(example.image, stored["images"][1])
        np.testing.assert_array_equal(example.map, stored["maps"][1].astype(np.float32))
        assert (example.low, example.high) == (stored["maps"].min(), stored["maps"].max())
    assert example.mask.sum() == 8 * 16


def test_classes_are_spread_over_the_alphabet_and_need_a_defect(run_folder):
    for name in ("e", "d", "c", "b", "a", "f"):
        write_examples(run_folder, name, defective=name != "a")
    assert [example.title for example in read_examples(run_folder / "examples", 3)] == ["b", "d", "f"]
    assert len(read_examples(run_folder / "examples", 9)) == 5


def test_a_column_a_class_with_four_rows_and_an_outline(run_folder):
    for name in ("bottle", "metal_nut"):
        write_examples(run_folder, name)
    figure = qualitative_figure({"MVTec-AD": read_examples(run_folder / "examples", 4)})
    assert len(figure.axes) == 4 * 2
    assert [axes.get_title() for axes in figure.axes[::4]] == ["bottle", "metal nut"]
    assert [axes.get_ylabel() for axes in figure.axes[:4]] == ["Image", "Ground truth", "Anomaly map", "Overlay"]
    assert [text.get_text() for text in figure.texts] == ["MVTec-AD"]
    # Only the overlay has the ground truth's outline, dark under light.
    assert [len(axes.collections) for axes in figure.axes[:4]] == [0, 0, 0, 2]


def test_what_is_there_is_drawn_and_what_is_missing_is_named(tmp_path):
    settings = miniature_settings(tmp_path / "results")
    write_examples(write_run(settings, "mvtec", "default", 0, {"P-AP": 0.5}), "bottle")
    runs = finished_runs(settings.results)
    (figure,) = draw_figures(settings, runs, tmp_path / "figures")
    assert (figure.label, figure.missing) == ("Figure 3", ("visa",))
    assert figure.shown == "MVTec-AD (miniature): bottle"
    assert figure.file is not None
    first = figure.file.read_bytes()
    with Image.open(figure.file) as image:
        assert np.asarray(image.convert("L")).std() > 10
        assert not image.text  # type: ignore[attr-defined]  # PNG's: no program, no time
    draw_figures(settings, runs, tmp_path / "figures")
    assert figure.file.read_bytes() == first


def test_nothing_to_draw(tmp_path):
    (figure,) = draw_figures(paper_settings(tmp_path), [], tmp_path / "figures")
    assert (figure.file, figure.missing) == (None, ("mvtec", "visa"))
    assert not (tmp_path / "figures").exists()


def test_a_file_of_something_else_is_named(run_folder):
    file = run_folder / "bottle.npz"
    np.savez(file, images=np.zeros((1, 2, 2, 3)))
    with pytest.raises(UserError, match=r"bottle\.npz: not a file of `omniad evaluate`"):
        read_example(file)


def test_the_colours_read_the_same_in_grey():
    rgb = matplotlib.colormaps[COLORS](np.linspace(0, 1, 64))[:, :3]
    luminance = rgb @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > 0).all()
