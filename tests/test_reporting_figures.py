"""The figures: what they show, that they read in grey, and that the same input gives the same bytes."""

from itertools import combinations

import matplotlib
import numpy as np
import pytest
from PIL import Image
from reporting_results import miniature_settings, paper_settings, write_examples, write_run

from omniad.errors import UserError
from omniad.reporting.figures.all_figures import draw_figures, main_runs
from omniad.reporting.figures.class_plots import draw_curves, draw_histograms
from omniad.reporting.figures.cost_plots import draw_accuracy, draw_resolution
from omniad.reporting.figures.drawing import STYLES
from omniad.reporting.figures.qualitative import (
    COLORS,
    draw_qualitative,
    pick_example,
    pick_examples,
    qualitative_figure,
)
from omniad.reporting.figures.training_plots import CROWDED, draw_training
from omniad.reporting.tables import build_tables, find
from omniad.runs.finished import finished_runs
from omniad.runs.measurements import collect
from omniad.runs.targets import target_runs


@pytest.fixture
def run_folder(tmp_path):
    settings = paper_settings(tmp_path / "results")
    return write_run(settings, "mvtec", "default", 0, {"P-AP": 0.5})


def test_the_example_meant_for_the_figure_is_the_one_shown(run_folder):
    file = write_examples(run_folder, "bottle")
    shown = pick_example(file)
    assert shown is not None
    example = shown.example
    with np.load(file) as stored:  # its order: a miss, the figure's, a false alarm
        np.testing.assert_array_equal(example.image, stored["images"][1])
        np.testing.assert_array_equal(example.map, stored["maps"][1].astype(np.float32))
        assert (shown.low, shown.high) == (stored["maps"].min(), stored["maps"].max())
    assert example.mask.sum() == 8 * 16


def test_classes_are_spread_over_the_alphabet_and_need_a_defect(run_folder):
    for name in ("e", "d", "c", "b", "a", "f"):
        write_examples(run_folder, name, defective=name != "a")
    assert [example.title for example in pick_examples(run_folder, 3)] == ["b", "d", "f"]
    assert len(pick_examples(run_folder, 9)) == 5


def test_a_column_a_class_with_four_rows_and_an_outline(run_folder):
    for name in ("bottle", "metal_nut"):
        write_examples(run_folder, name)
    figure = qualitative_figure({"MVTec-AD": pick_examples(run_folder, 4)})
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
    figure = draw_qualitative(settings, "figure3", runs, tmp_path / "figures")
    assert (figure.title, figure.missing) == ("Figure 3: Qualitative results", ("visa",))
    assert figure.shown == "MVTec-AD (miniature): bottle"
    assert figure.file is not None
    first = figure.file.read_bytes()
    with Image.open(figure.file) as image:
        assert np.asarray(image.convert("L")).std() > 10
        assert not image.text  # type: ignore[attr-defined]  # PNG's: no program, no time
    draw_qualitative(settings, "figure3", runs, tmp_path / "figures")
    assert figure.file.read_bytes() == first


def test_nothing_to_draw(tmp_path):
    figures = draw_figures(paper_settings(tmp_path), [], [], {}, tmp_path / "figures")
    assert {figure.file for figure in figures} == {None}
    assert figures[0].missing == ("mvtec", "visa")
    assert not (tmp_path / "figures").exists()


@pytest.fixture
def seeds(tmp_path):
    """Two seeds of the default run with what a run leaves behind, and the tables made of them."""
    settings = paper_settings(tmp_path)
    for seed in (0, 1):
        folder = write_run(settings, "mvtec", "default", seed, {"mAD": 0.8 + seed / 100})
        (folder / "history.csv").write_text(f"epoch,loss\n1,{4 + seed}\n2,{2 + seed}\n3,1\n")
        (folder / "scores.csv").write_text(SCORES)
        line = np.array([[0, 0.2, 1], [0, 0.9, 1]], np.float32)
        np.savez(
            folder / "curves.npz",
            allow_pickle=False,
            **{"nut/pro": line, "cap/pro": line * [[1], [0.5]], "nut/image_roc": line},
        )
    runs = finished_runs(tmp_path)
    return settings, runs, build_tables(find(settings, collect(runs), runs, COUNTS))


SCORES = "image,class,label,score\na,nut,0,0.1\nb,nut,0,0.2\nc,nut,1,0.9\nd,cap,1,0.5\n"
COUNTS = {("table4", "64", "released"): {"parameters": 29.9, "FLOPs": 11.2}}
TITLES = ["MVTec-AD", "VisA", "Real-IAD"]
RESOLUTIONS = {"learnable": {256: 10**10, 1024: 16 * 10**10}, "plain": {256: 4 * 10**10, 1024: 9 * 10**12}}


def panels_of(draw) -> list:
    """The panels of the figure that a call of `draw` saves."""
    figures = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: figures.append(figure))
        draw()
    return [panel for panel in figures[0].axes if panel.get_visible()]


def test_training_curves_are_means_with_a_band(seeds, tmp_path):
    _, runs, tables = seeds
    panels = panels_of(lambda: draw_training(tables, runs, tmp_path))
    assert [panel.get_title(loc="left") for panel in panels] == ["Table I, MVTec-AD"]  # the other tables repeat the run
    (line,) = panels[0].lines
    assert (line.get_label(), line.get_ydata().tolist()) == ("Omni-AD", [4.5, 2.5, 1.0])
    (band,) = panels[0].collections
    assert band.get_datalim(panels[0].transData).bounds == pytest.approx((1, 1, 2, 4))


def test_training_curves_of_every_run_leave_room_for_the_lines(tmp_path):
    """With all methods trained, Table I has ten lines on a data set."""
    settings = paper_settings(tmp_path)
    for dataset, run in set().union(*target_runs(settings).values()):
        loss = 900 if run == "mambaad" else 3  # its loss is a sum, others are means
        file = write_run(settings, dataset, run, 0, {"mAD": 0.8}) / "history.csv"
        file.write_text(f"epoch,loss\n1,{loss}\n2,{loss / 3}\n")
    runs = finished_runs(tmp_path)
    panels = panels_of(lambda: draw_training(build_tables(find(settings, collect(runs), runs, {})), runs, tmp_path))
    assert [panel.get_title(loc="left") for panel in panels][:3] == [f"Table I, {name}" for name in TITLES]
    assert max(len(panel.lines) for panel in panels) == 10
    renderer = panels[0].figure.canvas.get_renderer()
    panels[0].figure.draw(renderer)
    for panel in panels:
        assert len({(str(line.get_linestyle()), line.get_marker()) for line in panel.lines}) == len(panel.lines)
        numbers = [text.get_window_extent(renderer) for text in panel.get_yticklabels() if text.get_text()]
        assert len(numbers) >= 2
        assert not [pair for pair in combinations(numbers, 2) if pair[0].overlaps(pair[1])]
        box = panel.get_window_extent(renderer)
        assert box.height > 100  # of 300 pixels: the rest is for numbers and legend
        if len(panel.lines) > CROWDED:
            assert not box.overlaps(panel.get_legend().get_window_extent(renderer))


def test_histograms_count_normal_and_anomalous_images(seeds, tmp_path):
    nut, cap = panels_of(lambda: draw_histograms(seeds[1][0], tmp_path))
    assert [nut.get_title(loc="left"), cap.get_title(loc="left")] == ["nut", "cap"]
    assert sum(patch.get_height() for patch in nut.patches[:-1]) == 2  # normal; the last is the anomalous outline
    assert nut.patches[-1].get_path().vertices[:, 1].max() == 1


def test_curves_show_every_class_the_worst_and_the_mean(seeds, tmp_path):
    roc, pro = panels_of(lambda: draw_curves(seeds[1][0], tmp_path))
    assert [panel.get_title(loc="left") for panel in (roc, pro)] == ["Image ROC", "PRO"]
    other, worst, mean = pro.lines
    assert other.get_ydata().tolist() == pytest.approx([0, 0.9, 1])
    assert worst.get_label() == "worst: cap"
    assert np.interp(0.2, *mean.get_data()) == pytest.approx((0.9 + 0.45) / 2)


def test_costs_show_print_and_ours(seeds, tmp_path):
    parameters = panels_of(lambda: draw_accuracy(seeds[2], tmp_path))[0]
    printed, ours = parameters.lines[0], parameters.lines[1]
    assert printed.get_xydata().tolist() == [[29.4, 86.2], [29.6, 86.2], [29.9, 86.4], [30.3, 86.2]]  # Table IV
    assert ours.get_xydata().tolist() == [[29.9, pytest.approx(80.5)]]


def test_a_miniatures_accuracies_are_not_drawn_on_the_printed_axes(tmp_path):
    settings = miniature_settings(tmp_path)
    write_run(settings, "mvtec", "default", 0, {"mAD": 0.5})
    runs = finished_runs(tmp_path)
    tables = build_tables(find(settings, collect(runs), runs, COUNTS))
    panels = panels_of(lambda: draw_accuracy(tables, tmp_path))
    assert [len(panel.lines) for panel in panels] == [1] * 6
    assert min(panel.get_ylim()[0] for panel in panels) > 80
    assert "left out" in draw_accuracy(tables, tmp_path).caption


def test_names_of_close_points_do_not_overlap(seeds, tmp_path):
    panels = panels_of(lambda: draw_accuracy(seeds[2], tmp_path))
    renderer = panels[0].figure.canvas.get_renderer()
    panels[0].figure.draw(renderer)
    for panel in panels:
        boxes = [text.get_window_extent(renderer) for text in panel.texts]
        assert not [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)], panel.get_title(loc="left")


def test_resolution_is_drawn_on_logarithmic_axes(tmp_path):
    (panel,) = panels_of(lambda: draw_resolution(RESOLUTIONS, tmp_path))
    assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
    assert [line.get_ydata().tolist() for line in panel.lines] == [[10, 160], [40, 9000]]


def test_the_same_results_give_the_same_pictures_in_both_formats(seeds, tmp_path):
    settings, runs, tables = seeds
    write_examples(runs[0].folder, "bottle")
    for folder in ("a", "b"):
        drawn = draw_figures(settings, tables, runs, RESOLUTIONS, tmp_path / folder)
    assert all(figure.file for figure in drawn)
    files = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert len(files) == 2 * len(drawn)
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_the_run_shown_in_detail_is_figure_3s_first_seed(seeds):
    settings, runs, _ = seeds
    assert [(run.run, run.seed) for run in main_runs(settings, runs)] == [("default", 0)]


@pytest.mark.parametrize("name", ["history.csv", "scores.csv", "curves.npz"])
def test_a_damaged_file_of_a_run_is_named(seeds, tmp_path, name, caplog):
    settings, runs, tables = seeds
    (runs[0].folder / name).write_bytes(b"not,this\n1,2\n")
    assert draw_figures(settings, tables, runs, {}, tmp_path)  # the others are drawn
    assert name in caplog.text


def test_a_file_of_something_else_is_named(run_folder):
    file = run_folder / "bottle.npz"
    np.savez(file, images=np.zeros((1, 2, 2, 3)))
    with pytest.raises(UserError, match=r"bottle\.npz: not written by `omniad evaluate`"):
        pick_example(file)


def test_the_colours_read_the_same_in_grey():
    rgb = matplotlib.colormaps[COLORS](np.linspace(0, 1, 64))[:, :3]
    luminance = rgb @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > 0).all()
    # Lines differ in dashes and in markers, not in colour alone.
    assert (
        len({str(style["linestyle"]) for style in STYLES}) == len({style["marker"] for style in STYLES}) == len(STYLES)
    )
