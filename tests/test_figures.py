"""Tests of `figures`: what is drawn, that series are told apart without colour, and that no text is cut off."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib import pyplot

from comparison import figures
from comparison.arguments import METHODS
from comparison.bootstrap import score
from comparison.figures import HATCHES, LOSS_TITLES, STRATEGY_STYLES, confusion_shares, draw_figures, mean_curve
from comparison.results import score_groups
from layer_distillation.loss_table import LOSSES
from layer_mapping import STRATEGIES, SYNONYMS
from tests.comparison_results_by_hand import make_results

ACCURACIES = {(method, strategy): 0.8 for method in METHODS for strategy in ("odd", "even")}
ACCURACIES |= {("distill", "random"): 0.6, ("finetune", "random"): 0.55}
MATRICES = {"before training": np.full((6, 3), 0.5), "after training": np.full((6, 3), 0.75)}


@pytest.fixture(scope="module")
def results():
    return make_results(ACCURACIES)


@pytest.fixture(scope="module")
def scores(results):
    return score_groups(results)


def draw(name, results, scores):
    arguments = {
        "scores_figure": (results, scores),
        "costs_figure": (results, scores),
        "similarity_figure": ({"odd": MATRICES, "even": MATRICES},),
    }.get(name, (results,))
    return getattr(figures, name)(*arguments)


NAMES = (
    *("scores_figure", "learning_curves", "confusion_matrices", "costs_figure", "calibration_figure"),
    *("agreement_figure", "similarity_figure"),
)


@pytest.mark.parametrize("name", NAMES)
def test_no_text_of_a_figure_is_cut_off(results, scores, name):
    check_nothing_is_cut_off(draw(name, results, scores))


def test_a_single_column_of_learning_curves_has_room_for_all_strategies():
    results = make_results({("distill", strategy): 0.8 for strategy in ("top", "bottom", "odd", "even", "random")})
    for run in results.runs:  # shorter than the first log of the training loss
        run.history[:] = [entry for entry in run.history if "eval_loss" in entry]
    check_nothing_is_cut_off(figures.learning_curves(results))


def check_nothing_is_cut_off(figure):
    figure.canvas.draw()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(drawn.x0, drawn.y0) >= -0.01
    assert drawn.x1 <= width + 0.01 and drawn.y1 <= height + 0.01
    assert drawn.width > 0.8 * width and drawn.height > 0.8 * height, "the figure is not used"
    pyplot.close(figure)


def test_every_strategy_has_a_colour_and_a_marker_of_its_own_and_every_method_a_hatch():
    assert STRATEGY_STYLES.keys() == set(STRATEGIES) - SYNONYMS.keys()
    colors, markers = map(set, zip(*STRATEGY_STYLES.values(), strict=True))
    assert len(colors) == len(markers) == len(STRATEGY_STYLES)
    assert HATCHES.keys() == set(METHODS) and len(set(HATCHES.values())) == len(METHODS)


def test_bars_show_their_whole_intervals(results, scores):
    figure = draw("scores_figure", results, scores)
    for axis, by_group in zip(figure.axes, scores.values(), strict=True):
        lowest = min(score(by_group[group]).low for group in results.groups)
        assert axis.get_xlim()[0] <= lowest
        assert f"axis from {axis.get_xlim()[0]:.0%}" in axis.get_xlabel()
    pyplot.close(figure)


def test_the_random_control_does_not_press_the_costs_of_the_others_together(results, scores):
    figure = draw("costs_figure", results, scores)
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert len(labels) == 1 + len(ACCURACIES) - 2 and not any("random" in label for label in labels)
    shown = [score(scores["accuracy"][group]) for group in results.groups if "random" not in group]
    assert figure.axes[0].get_ylim()[0] == pytest.approx(min(i.low for i in shown) - 0.01)
    pyplot.close(figure)


def test_learning_curves_have_a_panel_for_each_component_and_method(results, scores):
    figure = draw("learning_curves", results, scores)
    axes = figure.axes
    assert len(axes) == 4 * 3
    assert [axis.get_title() for axis in axes[:3]] == [
        "Training: labels",
        "Training: KL to the teacher",
        "Validation: labels",
    ]
    assert [axis.get_ylabel() for axis in axes[::3]] == ["distilled", "fine-tuned", "LoRA", "LoRA + distillation"]
    assert [len(axis.lines) for axis in axes[:6]] == [3, 3, 3, 3, 0, 3]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["odd", "even", "random"]
    pyplot.close(figure)


def test_learning_curves_know_every_loss():
    assert LOSS_TITLES.keys() == {*(f"loss_{name}" for name in LOSSES), "eval_loss"}


def test_runs_that_end_before_their_first_log_have_every_figure_but_the_learning_curves(tmp_path):
    results = make_results({("distill", "odd"): 0.8})
    for run in results.runs:
        run.history[:] = [{"epoch": 3.0, "train_loss": 0.3, "train_loss_ce": 0.3}]
    captions = draw_figures(tmp_path, results, score_groups(results), {"odd": MATRICES})
    assert len(captions) == len(NAMES) - 1 and "learning_curves" not in captions


def test_with_many_classes_every_figure_is_drawn_but_the_confusions(tmp_path):
    results = make_results({("distill", "odd"): 0.8})
    more = 21 - len(results.label_names)  # classes that no model knows of
    padding = ((0, 0), (0, more))
    results = replace(
        results,
        runs=[replace(run, logits=np.pad(run.logits, padding, constant_values=-9)) for run in results.runs],
        label_names=[*results.label_names, *(f"class {i}" for i in range(more))],
        teacher_logits=np.pad(results.teacher_logits, padding, constant_values=-9),
    )
    captions = draw_figures(tmp_path, results, score_groups(results), {"odd": MATRICES})
    assert len(captions) == len(NAMES) - 1 and "confusions" not in captions


def test_all_figures_are_written_twice_alike_as_png_and_svg(tmp_path, results, scores):
    few = make_results({("distill", "odd"): 0.8, ("lora", "odd"): 0.7})
    for folder in ("one", "two"):
        captions = draw_figures(tmp_path / folder, few, score_groups(few), {"odd": MATRICES})
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {f"{name}.{extension}" for name in captions for extension in ("png", "svg")}
    assert len(captions) == len(NAMES)
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_a_mean_curve_is_over_the_points_that_all_seeds_have():
    histories = [
        [{"epoch": 1, "loss_ce": 1.0}, {"epoch": 1, "eval_loss": 9.0}, {"epoch": 2, "loss_ce": 0.5}],
        [{"epoch": 1, "loss_ce": 3.0}],
    ]
    assert mean_curve(histories, "loss_ce").tolist() == [[1, 2.0]]
    assert mean_curve(histories, "loss_kl").shape == (0, 2)


def test_confusion_shares_are_of_the_true_class():
    shares = confusion_shares(np.array([0, 0, 0, 1]), np.array([0, 0, 2, 1]), 3)
    assert shares == pytest.approx(np.array([[2 / 3, 0, 1 / 3], [0, 1, 0], [0, 0, 0]]))
