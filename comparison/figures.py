"""Figures of a comparison: PNG for Markdown, SVG for the page; readable in print and without color vision.

captions = draw_figures(OUTPUT_DIR / "figures", results, scores, similarities)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import mean

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.transforms import ScaledTranslation, Transform
from sklearn.metrics import confusion_matrix

from comparison.bootstrap import Interval, Scores, pooled_seed_variance, score
from comparison.calibration import reliability
from comparison.methods import METHODS
from comparison.metrics import calibration_error
from comparison.predictions import Predictions
from comparison.results import TEACHER, Group, Results, agreement
from comparison.styles import TEACHER_STYLE, Style, group_title, hatch_of, strategy_name, style_of
from comparison.thresholds import STATISTICS, threshold_statistics
from layer_distillation.loss_table import TITLES
from layer_distillation.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from text_data.thresholds import DEFAULT_THRESHOLD

GRAY = "#595959"
AGREEMENT = (
    "Share of the examples to which student and teacher give the same answer",
    "Correlation of the student's and the teacher's answers",
)
MARKED_THRESHOLDS = {
    MULTI_LABEL: f"chosen on the validation split, or {DEFAULT_THRESHOLD} where none was chosen",
    SINGLE_LABEL: f"{DEFAULT_THRESHOLD}, from which one of two classes is the more probable one",
}
LINES = ("-", "--", ":", "-.")  # of the methods in turn
LOSS_TITLES = {
    **{f"loss_{name}": f"Training: {title}" for name, title in TITLES.items()},
    "eval_loss": "Validation: labels",
}


@dataclass(frozen=True)
class CaptionedFigure:
    figure: Figure
    caption: str


def draw_figures(
    folder: str | Path,
    results: Results,
    scores: Mapping[str, Mapping[Group, Scores]],
    similarities: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, str]:
    """Writes every figure that the results allow, as PNG and SVG.

    Args:
        scores: as `score_groups` returns them.
        similarities: linear CKA of teacher and student layers by strategy and moment, as `compare_layers` returns it.

    Returns:
        The caption of each figure, by its file name without extension.
    """
    figures = make_figures(results, scores, similarities)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, captioned in figures.items():
        # Without a date, the same results give the same file.
        captioned.figure.savefig(folder / f"{name}.png", dpi=110)
        captioned.figure.savefig(folder / f"{name}.svg", dpi=110, metadata={"Date": None})
        pyplot.close(captioned.figure)
    return {name: captioned.caption for name, captioned in figures.items()}


def make_figures(
    results: Results,
    scores: Mapping[str, Mapping[Group, Scores]],
    similarities: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, CaptionedFigure]:
    """Returns every figure that the results allow, by name. The arguments are those of `draw_figures`."""
    split = results.split_title.lower()
    figures = {
        "scores": CaptionedFigure(
            scores_figure(results, scores), f"Scores on the {split} split with 95% intervals; dashed: teacher."
        )
    }
    if _logged_losses(results):  # a short training ends before its first log
        figures["learning_curves"] = CaptionedFigure(
            learning_curves(results),
            "Losses during the training, means over the seeds. The terms of the loss are shown without their weights.",
        )
    if results.shows_classes and results.problem_type == SINGLE_LABEL:
        figures["confusions"] = CaptionedFigure(
            confusion_matrices(results),
            f"Predictions for each true class on the {split} split, in per cent of the class, over all seeds.",
        )
    figures["costs"] = CaptionedFigure(
        costs_figure(results, scores),
        f"Scores on the {split} split against size, time and number of trained parameters, without the random "
        "control. Students of the same size stand side by side.",
    )
    if results.problem_type != REGRESSION:
        figures["calibration"] = CaptionedFigure(
            calibration_figure(results),
            f"Share of right predictions by confidence on the {split} split, over all seeds; ECE: mean of the runs' "
            "expected calibration errors. The area of a mark is the share of predictions. Below the diagonal a model "
            "is too confident.",
        )
    if results.shows_classes and (results.problem_type == MULTI_LABEL or len(results.label_names) == 2):
        figures["thresholds"] = CaptionedFigure(
            thresholds_figure(results),
            f"Precision, recall and F1 of each label on the {split} split by threshold, means over the seeds. Marks: "
            f"the mean threshold, {MARKED_THRESHOLDS[results.problem_type]}.",
        )
    figures["agreement"] = CaptionedFigure(
        agreement_figure(results),
        f"{AGREEMENT[results.problem_type == REGRESSION]} on the {split} split; dots: seeds.",
    )
    if similarities:
        figures["similarity"] = CaptionedFigure(
            similarity_figure(similarities),
            "Linear CKA of teacher and student layers on validation examples; 1: both represent the examples alike.",
        )
    return figures


def _series_title(group: Group) -> str:
    """Returns what a panel of one method calls a group."""
    return strategy_name(group[1]) or METHODS[group[0]].title


def _subplots(rows: int, columns: int, width: float, height: float, **kwargs) -> tuple[Figure, np.ndarray]:
    """Returns a figure and its axes as a flat array; width and height are those of one axes, in inches."""
    matplotlib.rcParams["svg.hashsalt"] = "figures"  # the names of elements would be random
    with pyplot.style.context("seaborn-v0_8-whitegrid"):
        figure, axes = pyplot.subplots(
            rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained", **kwargs
        )
    return figure, axes.ravel()


def _grid_of(number: int, max_columns: int) -> tuple[int, int]:
    """Returns the rows and columns that a number of panels needs."""
    columns = min(number, max_columns)
    return -(-number // columns), columns


def scores_figure(results: Results, scores: Mapping[str, Mapping[Group, Scores]]) -> Figure:
    """Draws a bar with its interval for every group of runs, one panel for each metric."""
    groups = list(results.groups)
    figure, axes = _subplots(1, len(results.metrics), 4.2, 0.32 * len(groups) + 1.2, sharey=True)
    for axis, metric in zip(axes, results.metrics, strict=True):
        by_group = scores[metric.name]
        seeds = pooled_seed_variance(by_group.values())
        intervals = {group: score(by_group[group], seeds) for group in groups}
        for position, (group, interval) in enumerate(intervals.items()):
            _bar(axis, position, interval.estimate, group)
            margins = [[interval.estimate - interval.low], [interval.high - interval.estimate]]
            axis.errorbar(interval.estimate, position, xerr=margins, color="black", capsize=3)
        axis.axvline(by_group[TEACHER].by_seed[0], color="black", linestyle="--", linewidth=1)
        lowest = min(interval.low for interval in intervals.values())
        _label_bars(axis, groups, f"{results.split_title} {metric.title}", lowest)
    return figure


def _bar(axis: Axes, position: int, value: float, group: Group) -> None:
    axis.barh(position, value, color=style_of(group).color, hatch=hatch_of(group), edgecolor="white", linewidth=0)


def _label_bars(axis: Axes, groups: Sequence[Group], title: str, lowest: float) -> None:
    """Names the bars, and starts the axis below the lowest value: differences are small. Its title says where."""
    start = max(-1.0 if lowest < 0 else 0.0, np.floor(20 * (lowest - 0.05)) / 20)
    axis.set_xlim(start, 1)
    axis.set_xlabel(f"{title} (axis from {start:.0%})")
    _show_percent(axis.xaxis)
    axis.set_yticks(range(len(groups)), map(group_title, groups))
    axis.set_ylim(len(groups) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)


def learning_curves(results: Results) -> Figure:
    """Draws a column of panels for each component of the loss, a row for each method."""
    methods = [method for method in _methods(results) if METHODS[method].has_seeds]  # the others have no steps
    losses = _logged_losses(results)
    figure, axes = _subplots(len(methods), len(losses), 3.6, 2.7, sharex=True, sharey="col")
    for row, method in enumerate(methods):
        for column, loss in enumerate(losses):
            axis = axes[row * len(losses) + column]
            for group, runs in results.groups_of(method).items():
                curve = mean_curve([run.history for run in runs], loss)
                if len(curve):
                    style = style_of(group)
                    every = max(1, len(curve) // 8)
                    axis.plot(
                        *curve.T,
                        color=style.color,
                        marker=style.marker,
                        markevery=every,
                        markersize=5,
                        label=_series_title(group),
                    )
            if not axis.lines:
                _say(axis, "not part of this loss")
            if row == 0:
                axis.set_title(LOSS_TITLES[loss])
            if column == 0:
                axis.set_ylabel(METHODS[method].title)
            if row == len(methods) - 1:
                axis.set_xlabel("epoch")
    handles = {line.get_label(): line for axis in axes for line in axis.lines}
    ncols = min(len(handles), 3 * len(losses))  # three fit below each panel
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=ncols, title="student layers")
    return figure


def _plain(names: Sequence[str]) -> list[str]:
    """Returns names as matplotlib shows them as they are: it takes what stands between two dollars for a formula."""
    return [name.replace("$", r"\$") for name in names]


def _say(axis: Axes, text: str) -> None:
    """Writes a text into a panel where nothing is drawn."""
    axis.text(0.5, 0.5, text, ha="center", transform=axis.transAxes, color=GRAY)


def _methods(results: Results) -> list[str]:
    return list(dict.fromkeys(method for method, _ in results.groups))


def _logged_losses(results: Results) -> list[str]:
    return [loss for loss in LOSS_TITLES if any(loss in entry for run in results.runs for entry in run.history)]


def mean_curve(histories: Sequence[Sequence[dict]], name: str) -> np.ndarray:
    """Returns `(points, 2)`: the epochs at which all histories have the number, and its mean over the histories."""
    curves = [{entry["epoch"]: entry[name] for entry in history if name in entry} for history in histories]
    epochs = sorted(set.intersection(*map(set, curves)))
    return np.array([(epoch, mean(curve[epoch] for curve in curves)) for epoch in epochs]).reshape(-1, 2)


def confusion_matrices(results: Results) -> Figure:
    """Draws a matrix for the teacher and each group. Rows are true classes, and sum up to 100."""
    names, predictions = _plain(results.label_names), results.predictions
    rows, columns = _grid_of(len(predictions), 4)
    size = 1.6 + 0.5 * len(names)
    figure, axes = _subplots(rows, columns, size + 0.4, size)
    for axis, (group, of_seeds) in zip(axes, predictions.items(), strict=False):
        predicted = np.concatenate([of_seed.answers for of_seed in of_seeds])
        labels = np.tile(results.labels, len(of_seeds))
        shares = confusion_matrix(labels, predicted, labels=range(len(names)), normalize="true")
        _heatmap(axis, 100 * shares, ".0f", (0, 100), "Blues")
        axis.set_title(group_title(group), fontsize="medium")
        axis.set(xlabel="predicted", ylabel="true")
        axis.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(names)), names)
    for axis in axes[len(predictions) :]:
        axis.remove()
    return figure


def _heatmap(axis: Axes, matrix: np.ndarray, form: str, limits: tuple[float, float], colormap: str) -> None:
    """Draws colors and numbers: dark numbers on light cells, light numbers on dark cells."""
    image = axis.imshow(matrix, vmin=limits[0], vmax=limits[1], cmap=colormap, aspect="auto")
    for row, column in np.ndindex(matrix.shape):
        brightness = np.dot(image.cmap(image.norm(matrix[row, column]))[:3], (0.299, 0.587, 0.114))
        color = "black" if brightness > 0.5 else "white"
        axis.text(column, row, format(matrix[row, column], form), ha="center", va="center", color=color)
    axis.grid(visible=False)


def costs_figure(results: Results, scores: Mapping[str, Mapping[Group, Scores]]) -> Figure:
    """Draws scores against the size of the model, its time for one example, and the number of trained parameters.

    The random control is left out: it costs what other students cost, and its accuracy is so low that the marks of all
    others would overlap.
    """
    students = {group: runs[0].student for group, runs in results.groups.items() if group[1] != "random"}
    models = {TEACHER: results.teacher, **students}
    trained = {TEACHER: results.teacher.parameters}
    trained |= {group: student.trainable_parameters for group, student in students.items()}
    costs = {
        "Size (MB)": {group: model.megabytes for group, model in models.items()},
        "Time for one example (ms)": {group: results.latency_ms[group] for group in models},
        "Trained parameters (log scale)": trained,
    }
    metric, _ = results.metrics
    seeds = pooled_seed_variance(scores[metric.name].values())
    intervals = {group: score(scores[metric.name][group], seeds) for group in models}
    figure, axes = _subplots(1, len(costs), 3.9, 3.6, sharey=True)
    for axis, (title, by_group) in zip(axes, costs.items(), strict=True):
        is_log = title.endswith("(log scale)")
        axis.set(xlabel=title, xscale="log" if is_log else "linear")
        low, high = min(by_group.values()), max(by_group.values())
        axis.set_xlim(*((low / 2, 2 * high) if is_log else (0.8 * low, 1.1 * high)))
        for position, (group, cost) in enumerate(by_group.items()):
            # Students of the same size would hide each other, so they stand side by side.
            is_alone = group == TEACHER or title.startswith("Time")
            inches = 0.0 if is_alone else 0.06 * (position - len(models) / 2)
            aside = ScaledTranslation(inches, 0, figure.dpi_scale_trans)
            _point(axis, cost, intervals[group], group, axis.transData + aside)
    low, high = min(i.low for i in intervals.values()), max(i.high for i in intervals.values())
    axes[0].set(ylim=(low - 0.01, high + 0.01), ylabel=f"{results.split_title} {metric.title}")
    _show_percent(axes[0].yaxis)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _show_percent(axis: Axis) -> None:
    """Sets few ticks, at whole percents, so that the numbers do not collide and are not rounded."""
    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _point(axis: Axes, x: float, interval: Interval, group: Group, transform: Transform) -> None:
    style, hatch = style_of(group), hatch_of(group)
    axis.plot([x, x], [interval.low, interval.high], color=style.color, linewidth=0.8, transform=transform)
    axis.scatter(
        x,
        interval.estimate,
        s=60,
        marker=style.marker,
        facecolor="white" if hatch else style.color,
        edgecolor=style.color,
        hatch=2 * hatch,
        label=group_title(group),
        zorder=3,
        transform=transform,
    )


def calibration_figure(results: Results) -> Figure:
    """Draws a reliability diagram for each method, over all seeds, with the teacher in each."""
    methods = _methods(results)
    lowest = 1 / len(results.label_names) if results.problem_type == SINGLE_LABEL else 0.5
    figure, axes = _subplots(1, len(methods), 3.7, 4.6, sharey=True)
    for axis, method in zip(axes, methods, strict=True):
        axis.plot([0, 1], [0, 1], color=GRAY, linewidth=1, linestyle="--")
        _draw_reliability(axis, [results.teacher_predictions], TEACHER_STYLE, "teacher")
        for group, runs in results.groups_of(method).items():
            _draw_reliability(axis, [run.predictions for run in runs], style_of(group), _series_title(group))
        axis.set(title=METHODS[method].title, xlabel="confidence", xlim=(lowest, 1), ylim=(0, 1))
        axis.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.17))
    axes[0].set_ylabel("share of right predictions")
    return figure


def _draw_reliability(axis: Axes, of_seeds: Sequence[Predictions], style: Style, name: str) -> None:
    labels, probabilities = map(np.concatenate, zip(*(run.by_confidence for run in of_seeds), strict=True))
    bins = reliability(labels, probabilities)
    # Of each run: over all runs together, errors of opposite signs would cancel.
    error = mean(calibration_error(run.labels, run.probabilities) for run in of_seeds)
    label = f"{name}, ECE {error:.3f}"
    # Not clipped at the axes: most predictions lie in the corner of full confidence.
    shared = {"color": style.color, "marker": style.marker, "clip_on": False}
    axis.plot(bins.confidence, bins.accuracy, markersize=4, linewidth=1, label=label, **shared)
    axis.scatter(bins.confidence, bins.accuracy, 400 * bins.share, alpha=0.5, **shared)


def thresholds_figure(results: Results) -> Figure:
    """Draws what thresholds do: a row for each label, a line for each group, its mean threshold marked."""
    names, steps = results.label_names, 200
    grid = np.linspace(0, 1, steps + 1)
    lines = dict(zip(_methods(results), cycle(LINES), strict=False))
    chosen = {group: [run.thresholds for run in runs] for group, runs in results.groups.items()} | {TEACHER: [{}]}
    figure, axes = _subplots(len(names), len(STATISTICS), 3.6, 2.4, sharex=True, sharey=True)
    rows = axes.reshape(len(names), len(STATISTICS))
    for label, (name, row) in enumerate(zip(names, rows, strict=True)):
        row[0].set_ylabel(*_plain([name]))
        for group, of_seeds in results.predictions.items():
            measured = [threshold_statistics(run, label, grid) for run in of_seeds]
            if measured[0] is None:
                continue
            style, mark = style_of(group), mean(of_run.get(name, DEFAULT_THRESHOLD) for of_run in chosen[group])
            for axis, values in zip(row, np.mean(measured, axis=0), strict=True):
                axis.plot(
                    grid,
                    values,
                    color=style.color,
                    linestyle=lines.get(group[0], "-"),
                    linewidth=1.2,
                    marker=style.marker,
                    markevery=[round(steps * mark)],
                    label=group_title(group),
                    clip_on=False,
                )
        for axis in row:
            if not axis.lines:
                _say(axis, "no example has this label")
    for axis, statistic in zip(rows[0], STATISTICS, strict=True):
        axis.set_title(statistic)
    for axis in rows[-1]:
        axis.set_xlabel("threshold")
    axes[0].set(xlim=(0, 1), ylim=(0, 1))
    drawn = {line.get_label(): line for axis in axes for line in axis.lines}
    figure.legend(drawn.values(), drawn, loc="outside lower center", ncols=4)
    return figure


def agreement_figure(results: Results) -> Figure:
    """Draws a bar for each group's mean agreement with the teacher, a dot for each seed."""
    groups = results.groups
    figure, (axis,) = _subplots(1, 1, 5.5, 0.32 * len(groups) + 1.2)
    teacher = results.teacher_predictions
    shares = [[agreement(run.predictions, teacher) for run in runs] for runs in groups.values()]
    for position, (group, of_seeds) in enumerate(zip(groups, shares, strict=True)):
        _bar(axis, position, mean(of_seeds), group)
        axis.scatter(of_seeds, [position] * len(of_seeds), color="black", s=14, zorder=3)
    _label_bars(axis, list(groups), "Agreement with the teacher", min(map(min, shares)))
    return figure


def similarity_figure(similarities: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draws teacher layers by student layers: a column for each strategy, one row before and one after training.

    Args:
        similarities: by strategy, the matrices "before training" and "after training".
    """
    figure, axes = _subplots(2, len(similarities), 2.6, 3.0)
    for column, (strategy, matrices) in enumerate(similarities.items()):
        for row, (moment, matrix) in enumerate(matrices.items()):
            axis = axes[row * len(similarities) + column]
            _heatmap(axis, matrix, ".2f", (0, 1), "viridis")
            num_teacher_layers, num_student_layers = matrix.shape
            axis.set_xticks(range(num_student_layers), range(1, num_student_layers + 1))
            axis.set_yticks(range(num_teacher_layers), range(1, num_teacher_layers + 1))
            axis.invert_yaxis()  # layer 1, nearest the input, at the bottom
            axis.set(title=f"{strategy_name(strategy)}\n{moment}", xlabel="student layer", ylabel="teacher layer")
    return figure
