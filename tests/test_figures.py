"""Tests of `comparison.figures`: what is drawn, that more than color tells series apart, that no text is cut off."""

from dataclasses import astuple, replace

import numpy as np
import pytest
from matplotlib import pyplot

from comparison.arguments import METHODS
from comparison.bootstrap import score
from comparison.figures import (
    LOSS_TITLES,
    CaptionedFigure,
    confusion_matrices,
    draw_figures,
    learning_curves,
    make_figures,
    mean_curve,
    scores_figure,
)
from comparison.results import METRICS, score_groups
from comparison.styles import HATCHES, METHOD_TITLES, STRATEGY_STYLES
from layer_distillation.loss_table import LOSSES
from layer_mapping import STRATEGIES, SYNONYMS
from tests.comparison_results_by_hand import make_results
from training.tables import METRIC_TITLES

ACCURACIES = {(method, strategy): 0.8 for method in METHODS for strategy in ("odd", "even")}
ACCURACIES |= {("distill", "random"): 0.6, ("finetune", "random"): 0.55}
MATRICES = {"before training": np.full((6, 3), 0.5), "after training": np.full((6, 3), 0.75)}
NAMES = ("scores", "learning_curves", "confusions", "costs", "calibration", "agreement", "similarity")


@pytest.fixture(scope="module")
def results():
    return make_results(ACCURACIES)


@pytest.fixture(scope="module")
def scores(results):
    return score_groups(results)


@pytest.fixture(scope="module")
def figures(results, scores):
    """Every figure of many runs by its name."""
    made = make_figures(results, scores, {"odd": MATRICES, "even": MATRICES})
    yield {name: captioned.figure for name, captioned in made.items()}
    pyplot.close("all")


@pytest.fixture(scope="module")
def few():
    return make_results({("distill", "odd"): 0.8, ("lora", "odd"): 0.7})


@pytest.fixture(scope="module")
def few_scores(few):
    return score_groups(few)


def names_of_figures(results, scores):
    made = make_figures(results, scores, {"odd": MATRICES})
    for captioned in made.values():
        pyplot.close(captioned.figure)
    return tuple(made)


@pytest.mark.parametrize("name", NAMES)
def test_no_text_of_a_figure_is_cut_off(figures, name):
    check_nothing_is_cut_off(figures[name])


def test_a_single_column_of_learning_curves_has_room_for_all_strategies():
    results = make_results({("distill", strategy): 0.8 for strategy in ("top", "bottom", "odd", "even", "random")})
    for run in results.runs:  # shorter than the first log of the training loss
        run.history[:] = [entry for entry in run.history if "eval_loss" in entry]
    figure = learning_curves(results)
    check_nothing_is_cut_off(figure)
    pyplot.close(figure)


def check_nothing_is_cut_off(figure):
    figure.canvas.draw()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(drawn.x0, drawn.y0) >= -0.01
    assert drawn.x1 <= width + 0.01 and drawn.y1 <= height + 0.01
    assert drawn.width > 0.8 * width and drawn.height > 0.8 * height, "the figure is not used"


def test_every_strategy_has_a_title_a_color_and_a_marker_of_its_own():
    assert STRATEGY_STYLES.keys() == set(STRATEGIES) - SYNONYMS.keys()
    for values in zip(*map(astuple, STRATEGY_STYLES.values()), strict=True):
        assert len(set(values)) == len(STRATEGY_STYLES)


def test_every_method_has_a_title_and_a_hatch_of_its_own_and_every_metric_a_title():
    for table in (METHOD_TITLES, HATCHES):
        assert table.keys() == set(METHODS) and len(set(table.values())) == len(METHODS)
    assert METRICS.keys() <= METRIC_TITLES.keys()


def test_bars_show_their_whole_intervals(figures, results, scores):
    for axis, by_group in zip(figures["scores"].axes, scores.values(), strict=True):
        lowest = min(score(by_group[group]).low for group in results.groups)
        assert axis.get_xlim()[0] <= lowest
        assert f"axis from {axis.get_xlim()[0]:.0%}" in axis.get_xlabel()


def test_the_random_control_does_not_press_the_costs_of_the_others_together(figures, results, scores):
    (legend,) = figures["costs"].legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert len(labels) == 1 + len(ACCURACIES) - 2 and not any("random" in label for label in labels)
    shown = [score(scores["accuracy"][group]) for group in results.groups if "random" not in group]
    assert figures["costs"].axes[0].get_ylim()[0] == pytest.approx(min(i.low for i in shown) - 0.01)


def test_learning_curves_have_a_panel_for_each_component_and_method(figures):
    axes = figures["learning_curves"].axes
    assert len(axes) == 4 * 3
    titles = [LOSS_TITLES[loss] for loss in ("loss_ce", "loss_kl", "eval_loss")]
    assert [axis.get_title() for axis in axes[:3]] == titles
    assert [axis.get_ylabel() for axis in axes[::3]] == ["distilled", "fine-tuned", "LoRA", "LoRA + distillation"]
    assert [len(axis.lines) for axis in axes[:6]] == [3, 3, 3, 3, 0, 3]
    (legend,) = figures["learning_curves"].legends
    assert [text.get_text() for text in legend.get_texts()] == ["odd", "even", "random"]


def test_learning_curves_know_every_loss():
    assert LOSS_TITLES.keys() == {*(f"loss_{name}" for name in LOSSES), "eval_loss"}


def test_runs_that_end_before_their_first_log_have_every_figure_but_the_learning_curves(few, few_scores):
    history = [{"epoch": 3.0, "train_loss": 0.3, "train_loss_ce": 0.3}]
    short = replace(few, runs=[replace(run, history=history) for run in few.runs])
    assert set(NAMES) - set(names_of_figures(short, few_scores)) == {"learning_curves"}


def test_with_many_classes_every_figure_is_drawn_but_the_confusions(few, few_scores):
    more = 21 - len(few.label_names)  # classes that no model knows of
    padding = ((0, 0), (0, more))
    many = replace(
        few,
        runs=[replace(run, logits=np.pad(run.logits, padding, constant_values=-9)) for run in few.runs],
        label_names=[*few.label_names, *(f"class {i}" for i in range(more))],
        teacher_logits=np.pad(few.teacher_logits, padding, constant_values=-9),
    )
    assert set(NAMES) - set(names_of_figures(many, few_scores)) == {"confusions"}


def test_all_figures_are_written_as_png_and_svg(tmp_path, few, few_scores):
    captions = draw_figures(tmp_path, few, few_scores, {"odd": MATRICES})
    assert tuple(captions) == NAMES
    names = {f"{name}.{extension}" for name in NAMES for extension in ("png", "svg")}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_the_same_results_give_the_same_files(tmp_path, few, few_scores, monkeypatch):
    # One figure is enough: its hatches and clipped bars would have random names in SVG.
    monkeypatch.setattr(
        "comparison.figures.make_figures",
        lambda *_: {"scores": CaptionedFigure(scores_figure(few, few_scores), "Scores")},
    )
    for folder in ("one", "two"):
        draw_figures(tmp_path / folder, few, few_scores, {})
    for name in ("scores.png", "scores.svg"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_a_mean_curve_is_over_the_points_that_all_seeds_have():
    histories = [
        [{"epoch": 1, "loss_ce": 1.0}, {"epoch": 1, "eval_loss": 9.0}, {"epoch": 2, "loss_ce": 0.5}],
        [{"epoch": 1, "loss_ce": 3.0}],
    ]
    assert mean_curve(histories, "loss_ce").tolist() == [[1, 2.0]]
    assert mean_curve(histories, "loss_kl").shape == (0, 2)


def test_confusions_are_shares_of_the_true_class_over_all_seeds(few):
    label_ids = np.array([0, 0, 0, 1])
    predicted = {"teacher": [0, 0, 1, 1], "odd, distilled": [0, 0, 2, 1], "odd, LoRA": [0, 2, 2, 1]}
    logits = {title: np.eye(3)[classes] for title, classes in predicted.items()}
    small = replace(
        few,
        runs=[
            replace(run, logits=logits["odd, LoRA" if run.cell.method == "lora" else "odd, distilled"])
            for run in few.runs
        ],
        label_ids=label_ids,
        teacher_logits=logits["teacher"],
    )
    figure = confusion_matrices(small)
    shown = {axis.get_title(): [text.get_text() for text in axis.texts] for axis in figure.axes}
    assert shown["teacher"] == ["67", "33", "0", "0", "100", "0", "0", "0", "0"]
    assert shown["odd, distilled"] == ["67", "0", "33", "0", "100", "0", "0", "0", "0"]
    assert shown["odd, LoRA"] == ["33", "0", "67", "0", "100", "0", "0", "0", "0"]
    pyplot.close(figure)
