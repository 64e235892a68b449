"""Tests of `comparison.figures`: what is drawn, that more than color tells series apart, that no text is cut off."""

from dataclasses import astuple, replace

import numpy as np
import pytest
from matplotlib import pyplot
from sklearn.metrics import f1_score, precision_score, recall_score

from comparison.bootstrap import pooled_seed_variance, score
from comparison.figures import (
    LOSS_TITLES,
    CaptionedFigure,
    calibration_figure,
    confusion_matrices,
    draw_figures,
    learning_curves,
    make_figures,
    mean_curve,
    scores_figure,
    thresholds_figure,
)
from comparison.methods import METHODS
from comparison.predictions import Predictions
from comparison.results import score_groups
from comparison.styles import STRATEGY_STYLES
from layer_distillation.loss_table import LOSSES
from layer_distillation.problem_types import MULTI_LABEL, SINGLE_LABEL
from layer_mapping import STRATEGIES, SYNONYMS
from tests.comparison_results_by_hand import make_results

LORA = ("distill", "finetune", "lora", "lora_distill")
ACCURACIES = {(method, strategy): 0.8 for method in LORA for strategy in ("odd", "even")}
ACCURACIES |= {("distill", "random"): 0.6, ("finetune", "random"): 0.55}
MATRICES = {"before training": np.full((6, 3), 0.5), "after training": np.full((6, 3), 0.75)}
NAMES = ("scores", "learning_curves", "confusions", "costs", "calibration", "agreement", "similarity")


@pytest.fixture(scope="module")
def results():
    return make_results(ACCURACIES)


@pytest.fixture(scope="module")
def scores(results):
    return score_groups(results.predictions)


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
    return score_groups(few.predictions)


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


def test_every_method_has_a_title_and_a_hatch_of_its_own():
    for values in zip(*((method.title, method.hatch) for method in METHODS.values()), strict=True):
        assert len(set(values)) == len(METHODS)


def test_bars_show_their_whole_intervals(figures, results, scores):
    for axis, name in zip(figures["scores"].axes, ("accuracy", "macro_f1"), strict=True):
        seeds = pooled_seed_variance(scores[name].values())
        lowest = min(score(scores[name][group], seeds).low for group in results.groups)
        assert axis.get_xlim()[0] <= lowest
        assert f"axis from {axis.get_xlim()[0]:.0%}" in axis.get_xlabel()


def test_bars_show_their_whole_intervals_also_below_0(results, scores):
    """As those of correlations may be."""
    lowered = {
        name: {
            group: replace(of_group, by_seed=of_group.by_seed - 0.7, resampled=of_group.resampled - 0.7, lowest=-1.0)
            for group, of_group in groups.items()
        }
        for name, groups in scores.items()
    }
    figure = scores_figure(results, lowered)
    axis, seeds = figure.axes[0], pooled_seed_variance(lowered["accuracy"].values())
    assert axis.get_xlim()[0] < min(score(lowered["accuracy"][group], seeds).low for group in results.groups) < 0
    pyplot.close(figure)


def test_the_random_control_does_not_press_the_costs_of_the_others_together(figures, results, scores):
    (legend,) = figures["costs"].legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert len(labels) == 1 + len(ACCURACIES) - 2 and not any("random" in label for label in labels)
    seeds = pooled_seed_variance(scores["accuracy"].values())
    shown = [score(scores["accuracy"][group], seeds) for group in results.groups if "random" not in group]
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

    def padded(predictions):
        return replace(predictions, probabilities=np.pad(predictions.probabilities, ((0, 0), (0, more))))

    many = replace(
        few,
        runs=[replace(run, predictions=padded(run.predictions)) for run in few.runs],
        label_names=[*few.label_names, *(f"class {i}" for i in range(more))],
        teacher_predictions=padded(few.teacher_predictions),
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
    answers = {
        title: Predictions.from_logits(np.eye(3)[classes], label_ids, SINGLE_LABEL)
        for title, classes in predicted.items()
    }
    small = replace(
        few,
        runs=[
            replace(run, predictions=answers["odd, LoRA" if run.cell.method == "lora" else "odd, distilled"])
            for run in few.runs
        ],
        teacher_predictions=answers["teacher"],
    )
    figure = confusion_matrices(small)
    shown = {axis.get_title(): [text.get_text() for text in axis.texts] for axis in figure.axes}
    assert shown["teacher"] == ["67", "33", "0", "0", "100", "0", "0", "0", "0"]
    assert shown["odd, distilled"] == ["67", "0", "33", "0", "100", "0", "0", "0", "0"]
    assert shown["odd, LoRA"] == ["33", "0", "67", "0", "100", "0", "0", "0", "0"]
    pyplot.close(figure)


def test_baselines_without_strategies_are_drawn_beside_students():
    results = make_results({("distill", "odd"): 0.8, ("tfidf", ""): 0.7, ("rival", ""): 0.75})
    figures = make_figures(results, score_groups(results.predictions), {"odd": MATRICES})
    for captioned in figures.values():
        check_nothing_is_cut_off(captioned.figure)
        pyplot.close(captioned.figure)
    shown = [label.get_text() for label in figures["scores"].figure.axes[0].get_yticklabels()]
    assert shown == ["odd, distilled", "TF-IDF", "rival, fine-tuned"]


def test_the_calibration_error_of_a_group_is_the_mean_of_its_runs_and_not_that_of_all_together(few):
    """One run is too confident, the other not confident enough: together they would look calibrated."""
    labels = np.array([0, 0, 0, 1] * 25)
    logits = [np.tile([np.log(confidence / (1 - confidence)), 0], (100, 1)) for confidence in (0.85, 0.65)]
    runs = [
        replace(few.runs[seed], predictions=Predictions.from_logits(of_seed, labels, SINGLE_LABEL))
        for seed, of_seed in enumerate(logits)
    ]
    teacher = runs[0].predictions
    figure = calibration_figure(replace(few, runs=runs, teacher_predictions=teacher, label_names=["a", "b"]))
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert texts == ["teacher, ECE 0.100", "odd, ECE 0.100"]
    pyplot.close(figure)


# ---- Thresholds ----


def with_predictions(results, label_names, labels, problem_type, thresholds):
    """The results with other labels, answers drawn by chance, and the thresholds of each seed."""
    draws = np.random.default_rng(1)
    rows = labels if labels.ndim == 2 else np.eye(len(label_names))[labels]

    def answers():
        logits = np.nan_to_num(2 * rows - 1) + 2 * draws.normal(size=rows.shape)
        return Predictions.from_logits(logits, labels, problem_type)

    runs = [replace(run, predictions=answers(), thresholds=thresholds(run.cell.seed)) for run in results.runs]
    return replace(results, runs=runs, teacher_predictions=answers(), label_names=label_names)


def check_curves(results, row, labels, mark):
    """Compares the curves of `odd, distilled` in a row of panels with scikit-learn's scores of the known labels."""
    known = ~np.isnan(labels)
    figure = thresholds_figure(results)
    runs = [run for run in results.runs if run.cell.group == ("distill", "odd")]
    for column, metric in enumerate((precision_score, recall_score, f1_score)):
        (line,) = (line for line in figure.axes[3 * row + column].lines if line.get_label() == "odd, distilled")
        for threshold, value in list(zip(*line.get_data(), strict=True))[::25]:
            flagged = [run.predictions.probabilities[known, row] >= threshold for run in runs]
            # Where nothing is flagged, nothing is wrong.
            undefined = 0 if metric is f1_score else 1
            assert value == pytest.approx(
                np.mean([metric(labels[known], of_run, zero_division=undefined) for of_run in flagged])
            )
        assert line.get_xdata()[line.get_markevery()] == pytest.approx([mark], abs=0.003)
    check_nothing_is_cut_off(figure)
    pyplot.close(figure)


def test_several_labels_have_curves_with_the_mean_of_the_chosen_thresholds_marked(few):
    labels = np.random.default_rng(0).integers(0, 2, (120, 3)).astype(float)
    labels[:40, 1] = np.nan  # unknown
    names = few.label_names
    results = with_predictions(few, names, labels, MULTI_LABEL, lambda seed: {names[1]: 0.3 + 0.1 * seed})
    check_curves(results, 1, labels[:, 1], mark=0.4)
    check_curves(results, 2, labels[:, 2], mark=0.5)


@pytest.mark.parametrize("names", [("$_$", "$10-$20"), (r"$\alpha$", "100% ^ of_it")])
def test_names_of_labels_are_no_formulas(few, names):
    labels = np.tile([[1, 0], [0, 1]], (60, 1))
    of_labels = thresholds_figure(with_predictions(few, names, labels, MULTI_LABEL, lambda seed: {}))
    confusions = confusion_matrices(replace(few, label_names=(*names, "other")))
    shown = [*(axis.yaxis.label for axis in of_labels.axes[::3]), *confusions.axes[0].get_xticklabels()[:2]]
    for figure in (of_labels, confusions):
        figure.canvas.draw()
        pyplot.close(figure)
    assert [text._preprocess_math(text.get_text()) for text in shown] == [(name, False) for name in names] * 2


def test_a_label_of_no_example_has_no_curves(few):
    labels = np.zeros((120, 2), dtype=int)
    labels[::2, 0] = 1
    figure = thresholds_figure(with_predictions(few, ("rude", "threat"), labels, MULTI_LABEL, lambda seed: {}))
    assert [len(axis.lines) > 0 for axis in figure.axes] == [True] * 3 + [False] * 3
    pyplot.close(figure)


def test_two_classes_have_curves_marked_at_one_half(few):
    labels = np.random.default_rng(0).integers(0, 2, 120)
    results = with_predictions(few, ("no", "yes"), labels, SINGLE_LABEL, lambda seed: {})
    check_curves(results, 0, labels == 0, mark=0.5)
    assert "thresholds" in names_of_figures(results, score_groups(results.predictions))
