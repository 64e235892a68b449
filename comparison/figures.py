"""Figures of a comparison, as PNG for Markdown and SVG for the page: readable in print and without colour vision.

    draw_figures(OUTPUT_DIR / "figures", results, scores, similarities)     # returns captions by file name

Series are told apart by more than colour: strategies by colour and marker, methods by hatch or a panel of their own.
The colours are those of Okabe and Ito, which stay apart for the common colour vision deficiencies, and a brown.
"""

from collections.abc import Mapping, Sequence
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

from comparison.bootstrap import Interval, Scores, score
from comparison.calibration import expected_calibration_error, reliability, softmax
from comparison.report import METHOD_TITLES, METRIC_TITLES, Group, group_title
from comparison.results import TEACHER, Results, agreement
from layer_distillation.loss_table import TITLES

# Colour and marker of each strategy.
STRATEGY_STYLES = {
    "top": ("#0072B2", "^"),
    "bottom": ("#E69F00", "v"),
    "odd": ("#009E73", "o"),
    "even": ("#D55E00", "s"),
    "uniform": ("#CC79A7", "P"),
    "random": ("#7F7F7F", "X"),
    "search": ("#56B4E9", "D"),
    "cka": ("#F0E442", "<"),
    "block_influence": ("#6B4423", ">"),
}
HATCHES = {"distill": "", "finetune": "///", "lora": "...", "lora_distill": "xxx"}
LOSS_TITLES = {
    **{f"loss_{name}": f"Training: {title}" for name, title in TITLES.items()},
    "eval_loss": "Validation: labels",
}


def draw_figures(
    folder: str | Path,
    results: Results,
    scores: Mapping[str, Mapping[Group, Scores]],
    similarities: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, str]:
    """Draws every figure that the results allow, as PNG and SVG.

    Args:
        scores: as `score_groups` returns them.
        similarities: linear CKA of teacher and student layers by strategy and moment, as for `similarity_figure`.

    Returns:
        The caption of each figure by its file name without extension.
    """
    split = results.split_title.lower()
    figures = {
        "scores": (
            scores_figure(results, scores),
            f"Scores on the {split} split with 95% intervals; dashed: teacher.",
        ),
    }
    if _logged_losses(results):  # a short training ends before its first log
        figures["learning_curves"] = (
            learning_curves(results),
            "Losses over the training, means over the seeds. The terms of the loss are shown before their weights.",
        )
    if results.shows_classes:
        figures["confusions"] = (
            confusion_matrices(results),
            f"Predictions for each true class on the {split} split, in per cent of the class, over all seeds.",
        )
    figures |= {
        "costs": (
            costs_figure(results, scores),
            f"Accuracy on the {split} split against size, time and training, without the random control. Students of "
            "one size stand side by side.",
        ),
        "calibration": (
            calibration_figure(results),
            f"How often predictions are right by their confidence on the {split} split, over all seeds; ECE: "
            "expected calibration error. Marks are as large as the share of predictions; below the diagonal a model "
            "is too sure of itself.",
        ),
        "agreement": (
            agreement_figure(results),
            f"Share of the {split} examples for which student and teacher predict the same class; dots: seeds.",
        ),
        "similarity": (
            similarity_figure(similarities),
            "Linear CKA of teacher and student layers on validation examples: 1 where they represent them alike.",
        ),
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, (figure, _) in figures.items():
        for extension in ("png", "svg"):
            # Without a date, the same results give the same file.
            metadata = {"Date": None} if extension == "svg" else None
            figure.savefig(folder / f"{name}.{extension}", dpi=110, metadata=metadata)
        pyplot.close(figure)
    return {name: caption for name, (_, caption) in figures.items()}


def _subplots(rows: int, columns: int, width: float, height: float, **kwargs) -> tuple[Figure, np.ndarray]:
    """Axes of the given size in inches, as a flat array."""
    matplotlib.rcParams["svg.hashsalt"] = "figures"  # element names, which are random otherwise
    with pyplot.style.context("seaborn-v0_8-whitegrid"):
        figure, axes = pyplot.subplots(
            rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained", **kwargs
        )
    return figure, axes.ravel()


def _grid_of(number: int, max_columns: int) -> tuple[int, int]:
    columns = min(number, max_columns)
    return -(-number // columns), columns


def scores_figure(results: Results, scores: Mapping[str, Mapping[Group, Scores]]) -> Figure:
    """A bar with its interval for every group of runs, one panel a metric."""
    groups = list(results.groups)
    figure, axes = _subplots(1, len(scores), 4.2, 0.32 * len(groups) + 1.2, sharey=True)
    for axis, (metric, by_group) in zip(axes, scores.items(), strict=True):
        intervals = [score(by_group[group]) for group in groups]
        for position, (group, interval) in enumerate(zip(groups, intervals, strict=True)):
            _bar(axis, position, interval.estimate, group)
            margins = [[interval.estimate - interval.low], [interval.high - interval.estimate]]
            axis.errorbar(interval.estimate, position, xerr=margins, color="black", capsize=3)
        axis.axvline(by_group[TEACHER].by_seed[0], color="black", linestyle="--", linewidth=1)
        _label_bars(axis, groups, f"{results.split_title} {METRIC_TITLES[metric]}", min(i.low for i in intervals))
    return figure


def _bar(axis: Axes, position: int, value: float, group: Group) -> None:
    method, strategy = group
    axis.barh(
        position, value, color=STRATEGY_STYLES[strategy][0], hatch=HATCHES[method], edgecolor="white", linewidth=0
    )


def _label_bars(axis: Axes, groups: Sequence[Group], title: str, lowest: float) -> None:
    """Names the bars and cuts the axis, as differences are small; it says where it starts."""
    start = max(0.0, np.floor(20 * (lowest - 0.05)) / 20)
    axis.set_xlim(start, 1)
    axis.set_xlabel(f"{title} (axis from {start:.0%})")
    _show_percent(axis.xaxis)
    axis.set_yticks(range(len(groups)), map(group_title, groups))
    axis.set_ylim(len(groups) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)


def learning_curves(results: Results) -> Figure:
    """A panel for each component of the loss, a row for each method."""
    methods = list(dict.fromkeys(method for method, _ in results.groups))
    losses = _logged_losses(results)
    figure, axes = _subplots(len(methods), len(losses), 3.6, 2.7, sharex=True, sharey="col")
    for row, method in enumerate(methods):
        for column, loss in enumerate(losses):
            axis = axes[row * len(losses) + column]
            for (_, strategy), runs in results.groups_of(method).items():
                curve = mean_curve([run.history for run in runs], loss)
                if len(curve):
                    color, marker = STRATEGY_STYLES[strategy]
                    every = max(1, len(curve) // 8)
                    axis.plot(*curve.T, color=color, marker=marker, markevery=every, markersize=5, label=strategy)
            if not axis.lines:
                axis.text(0.5, 0.5, "not part of this loss", ha="center", transform=axis.transAxes, color="#595959")
            if row == 0:
                axis.set_title(LOSS_TITLES[loss])
            if column == 0:
                axis.set_ylabel(METHOD_TITLES[method])
            if row == len(methods) - 1:
                axis.set_xlabel("epoch")
    handles = {line.get_label(): line for axis in axes for line in axis.lines}
    ncols = min(len(handles), 3 * len(losses))  # as many as find room below the panels
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=ncols, title="student layers")
    return figure


def _logged_losses(results: Results) -> list[str]:
    return [loss for loss in LOSS_TITLES if any(loss in entry for run in results.runs for entry in run.history)]


def mean_curve(histories: Sequence[Sequence[dict]], name: str) -> np.ndarray:
    """Epoch and mean over the histories of a logged number, at the epochs that all have: `(points, 2)`."""
    curves = [{entry["epoch"]: entry[name] for entry in history if name in entry} for history in histories]
    epochs = sorted(set.intersection(*map(set, curves)))
    return np.array([(epoch, mean(curve[epoch] for curve in curves)) for epoch in epochs]).reshape(-1, 2)


def confusion_matrices(results: Results) -> Figure:
    """A matrix for the teacher and each group; rows are true classes and sum up to 100."""
    logits = {TEACHER: [results.teacher_logits]}
    logits |= {group: [run.logits for run in runs] for group, runs in results.groups.items()}
    rows, columns = _grid_of(len(logits), 4)
    size = 1.6 + 0.5 * len(results.label_names)
    figure, axes = _subplots(rows, columns, size + 0.4, size)
    for axis, (group, runs) in zip(axes, logits.items(), strict=False):
        predicted = np.concatenate([run.argmax(axis=1) for run in runs])
        shares = confusion_shares(np.tile(results.label_ids, len(runs)), predicted, len(results.label_names))
        names = results.label_names
        _heatmap(axis, 100 * shares, ".0f", (0, 100), "Blues", names, names)
        axis.set_title(group_title(group), fontsize="medium")
        axis.set(xlabel="predicted", ylabel="true")
        axis.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    for axis in axes[len(logits) :]:
        axis.remove()
    return figure


def _heatmap(
    axis: Axes, matrix: np.ndarray, form: str, limits: tuple[float, float], colormap: str, rows, columns
) -> None:
    """Colours and numbers, dark on light cells and light on dark ones."""
    image = axis.imshow(matrix, vmin=limits[0], vmax=limits[1], cmap=colormap, aspect="auto")
    for row, column in np.ndindex(matrix.shape):
        brightness = np.dot(image.cmap(image.norm(matrix[row, column]))[:3], (0.299, 0.587, 0.114))
        color = "black" if brightness > 0.5 else "white"
        axis.text(column, row, format(matrix[row, column], form), ha="center", va="center", color=color)
    axis.set_xticks(range(matrix.shape[1]), columns)
    axis.set_yticks(range(matrix.shape[0]), rows)
    axis.grid(visible=False)


def confusion_shares(labels: np.ndarray, predictions: np.ndarray, num_labels: int) -> np.ndarray:
    """Share of each true class (row) that is predicted as each class (column); zeros for a class without examples."""
    counts = np.zeros((num_labels, num_labels))
    np.add.at(counts, (labels, predictions), 1)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def costs_figure(results: Results, scores: Mapping[str, Mapping[Group, Scores]]) -> Figure:
    """Accuracy against the size of the model, its time for an example, and the parameters that were trained.

    The random control costs what the others do, and far below them would press their marks together.
    """
    models = {TEACHER: results.teacher}
    models |= {group: runs[0].student for group, runs in results.groups.items() if group[1] != "random"}
    costs = {
        "Size (MB)": {group: model["megabytes"] for group, model in models.items()},
        "Time for one example (ms)": {group: results.latency_ms[group] for group in models},
        "Trained parameters (log scale)": {
            group: model.get("trainable_parameters", model["parameters"]) for group, model in models.items()
        },
    }
    intervals = {group: score(scores["accuracy"][group]) for group in models}
    figure, axes = _subplots(1, len(costs), 3.9, 3.6, sharey=True)
    for axis, (title, by_group) in zip(axes, costs.items(), strict=True):
        is_log = title.endswith("(log scale)")
        axis.set(xlabel=title, xscale="log" if is_log else "linear")
        low, high = min(by_group.values()), max(by_group.values())
        axis.set_xlim(*((low / 2, 2 * high) if is_log else (0.8 * low, 1.1 * high)))
        for position, (group, cost) in enumerate(by_group.items()):
            # Students of one size would hide each other: they stand side by side.
            is_alone = group == TEACHER or title.startswith("Time")
            inches = 0.0 if is_alone else 0.06 * (position - len(models) / 2)
            aside = ScaledTranslation(inches, 0, figure.dpi_scale_trans)
            _point(axis, cost, intervals[group], group, axis.transData + aside)
    low, high = min(i.low for i in intervals.values()), max(i.high for i in intervals.values())
    axes[0].set(ylim=(low - 0.01, high + 0.01), ylabel=f"{results.split_title} accuracy")
    _show_percent(axes[0].yaxis)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _show_percent(axis: Axis) -> None:
    """Few ticks, at whole percents: the numbers neither collide nor round."""
    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _point(axis: Axes, x: float, interval: Interval, group: Group, transform: Transform) -> None:
    method, strategy = group
    color, marker = ("black", "*") if group == TEACHER else STRATEGY_STYLES[strategy]
    hatch = HATCHES.get(method, "")
    axis.plot([x, x], [interval.low, interval.high], color=color, linewidth=0.8, transform=transform)
    axis.scatter(
        x, interval.estimate, s=60, marker=marker, facecolor="white" if hatch else color, edgecolor=color,
        hatch=2 * hatch, label=group_title(group), zorder=3, transform=transform,
    )  # fmt: skip


def calibration_figure(results: Results) -> Figure:
    """A reliability diagram for each method, all seeds together, with the teacher's in each."""
    methods = list(dict.fromkeys(method for method, _ in results.groups))
    figure, axes = _subplots(1, len(methods), 3.7, 4.6, sharey=True)
    for axis, method in zip(axes, methods, strict=True):
        axis.plot([0, 1], [0, 1], color="#595959", linewidth=1, linestyle="--")
        _draw_reliability(axis, results.label_ids, [results.teacher_logits], "black", "*", "teacher")
        for (_, strategy), runs in results.groups_of(method).items():
            _draw_reliability(
                axis, results.label_ids, [run.logits for run in runs], *STRATEGY_STYLES[strategy], strategy
            )
        axis.set(title=METHOD_TITLES[method], xlabel="confidence", xlim=(1 / len(results.label_names), 1), ylim=(0, 1))
        axis.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.17))
    axes[0].set_ylabel("share of right predictions")
    return figure


def _draw_reliability(
    axis: Axes, labels: np.ndarray, logits: Sequence[np.ndarray], color: str, marker: str, name: str
) -> None:
    bins = reliability(np.tile(labels, len(logits)), softmax(np.concatenate(logits)))
    label = f"{name}, ECE {expected_calibration_error(bins):.3f}"
    # Not clipped: most predictions lie in the corner of full confidence.
    style = {"color": color, "marker": marker, "clip_on": False}
    axis.plot(bins.confidence, bins.accuracy, markersize=4, linewidth=1, label=label, **style)
    axis.scatter(bins.confidence, bins.accuracy, 400 * bins.share, alpha=0.5, **style)


def agreement_figure(results: Results) -> Figure:
    """A bar for each group's mean agreement with the teacher, a dot for each seed."""
    groups = results.groups
    figure, (axis,) = _subplots(1, 1, 5.5, 0.32 * len(groups) + 1.2)
    shares = [[agreement(run.logits, results.teacher_logits) for run in runs] for runs in groups.values()]
    for position, (group, of_seeds) in enumerate(zip(groups, shares, strict=True)):
        _bar(axis, position, mean(of_seeds), group)
        axis.scatter(of_seeds, [position] * len(of_seeds), color="black", s=14, zorder=3)
    _label_bars(axis, list(groups), "Same class as the teacher", min(map(min, shares)))
    return figure


def similarity_figure(similarities: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Heat maps, teacher layers by student layers: a column for each student, a row before and one after training.

    Args:
        similarities: by student, its matrices by "before training" and "after training".
    """
    figure, axes = _subplots(2, len(similarities), 2.6, 3.0)
    for column, (student, matrices) in enumerate(similarities.items()):
        for row, (moment, matrix) in enumerate(matrices.items()):
            axis = axes[row * len(similarities) + column]
            layers, student_layers = (range(1, number + 1) for number in matrix.shape)
            _heatmap(axis, matrix, ".2f", (0, 1), "viridis", layers, student_layers)
            axis.invert_yaxis()  # layer 1, nearest the input, at the bottom
            axis.set(title=f"{student}\n{moment}", xlabel="student layer", ylabel="teacher layer")
    return figure
