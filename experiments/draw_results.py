"""Draws the figures of docs/ANALYSIS.md from the result files of the studies.

    python -m experiments.draw_results      # writes docs/sentences.svg, docs/layer_sets.svg and docs/depth.svg

A dot is a run.
"""

import argparse
from collections.abc import Iterable
from operator import itemgetter
from statistics import mean

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.figure import Figure
from scipy.stats import studentized_range

from benchmarks.results import RESULTS, ROOT
from comparison.bootstrap import difference, pooled_seed_variance
from comparison.styles import STRATEGY_STYLES
from experiments.better_students import leads_in, read_runs
from experiments.known_figures import read_rows, scores_of
from experiments.student_recipes import STRATEGIES
from training.tables import grouped

matplotlib.use("agg")
GRAY = "#595959"
SENTENCES = {1000: "sst2_1000", 5000: "sst2_5000", 20000: "sst2"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    pyplot.rcParams |= {"svg.hashsalt": "the same results give the same file", "font.size": 11}
    save(draw_sentences(), "sentences")
    save(draw_layer_sets(), "layer_sets")
    save(draw_depth(), "depth")


def save(figure: Figure, name: str) -> None:
    # White behind it, so that it can be read on a dark page.
    figure.savefig(ROOT / "docs" / f"{name}.svg", metadata={"Date": None}, facecolor="white", bbox_inches="tight")


def is_default(run: dict[str, str]) -> bool:
    """Whether a run is of the default recipe, in the file of a sweep or of a comparison."""
    return run.get("recipe") == "default" or run.get("method") == "distill"


def draw_sentences() -> Figure:
    """Returns accuracy against the number of training sentences, by strategy."""
    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    runs = {sentences: read_rows(RESULTS / f"{name}.csv") for sentences, name in SENTENCES.items()}
    teachers = [next(run for run in members if "teacher" in run.values()) for members in runs.values()]
    axes.plot(list(SENTENCES), percent(teachers), "k--", linewidth=1, label="teacher")
    for strategy in ("odd", "even", "top", "bottom", "random"):
        style, means = STRATEGY_STYLES[strategy], []
        for sentences, members in runs.items():
            accuracies = percent(run for run in members if run["strategy"] == strategy and is_default(run))
            axes.plot([sentences] * len(accuracies), accuracies, ".", color=style.color, markersize=4, alpha=0.6)
            means.append(mean(accuracies))
        axes.plot(list(SENTENCES), means, color=style.color, marker=style.marker, label=strategy)
    axes.set_xscale("log")
    axes.set_xticks(list(SENTENCES), [f"{sentences:,}" for sentences in SENTENCES])
    axes.minorticks_off()
    axes.set(xlabel="training sentences of SST-2", ylabel="validation accuracy (%)")
    axes.grid(axis="y", color="#dddddd")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def draw_layer_sets() -> Figure:
    """Returns the accuracy of all sets of layers, with Tukey's intervals over the seeds."""
    runs = [run for run in read_rows(RESULTS / "sst2_5000_layer_sets.csv") if not run["strategy"]]
    by_set = {layers: percent(members) for layers, members in grouped(runs, key=itemgetter("layers")).items()}
    ranked = sorted(by_set, key=lambda layers: mean(by_set[layers]))
    names = {"1,2,3": "top", "1,3,5": "odd", "2,4,6": "even", "4,5,6": "bottom"}
    half = tukey_margin(list(by_set.values())) / 2
    figure, axes = pyplot.subplots(figsize=(7, 5.6))
    for row, layers in enumerate(ranked):
        color = STRATEGY_STYLES[names[layers]].color if layers in names else GRAY
        accuracies = by_set[layers]
        axes.plot(accuracies, [row] * len(accuracies), ".", color=color, markersize=5, alpha=0.6)
        axes.errorbar(mean(accuracies), row, xerr=half, fmt="D", color=color, markersize=5, capsize=3)
    axes.set_yticks(range(len(ranked)), [f"{names.get(layers, '')}  {layers}" for layers in ranked])
    axes.set(xlabel="validation accuracy (%), SST-2, 5,000 sentences", ylabel="the teacher's layers that are kept")
    axes.grid(axis="x", color="#dddddd")
    return figure


def draw_depth() -> Figure:
    """Returns the leads of strategies over `odd` on the kept sentences, for teachers of 6 and of 12 layers."""
    shown = [strategy for strategy in STRATEGIES if strategy != "random"]  # which is far to the left
    runs = [run for run in read_runs() if run["sentences"] == 5000]
    of_six = leads_in(grouped(runs, key=itemgetter("recipe")), "choosing")
    scores = scores_of("full_depth_sst2_kept")["accuracy"]
    seeds, odd = pooled_seed_variance(scores.values()), scores["distill", "odd"]
    of_twelve = {strategy: difference(scores["distill", strategy], odd, seeds) for strategy in shown}
    figure, axes = pyplot.subplots(figsize=(7, 2.6))
    for height, leads, name, marker in (
        (-0.12, of_six, "6 to 3 layers", "o"),
        (0.12, of_twelve, "12 to 6 layers", "D"),
    ):
        points = np.array([leads[strategy].points for strategy in shown])  # estimate, low, high
        for row, (strategy, (estimate, low, high)) in enumerate(zip(shown, points, strict=True)):
            style = STRATEGY_STYLES[strategy]
            axes.plot([low, high], [row + height] * 2, color=style.color)
            axes.plot(estimate, row + height, marker=marker, color=style.color)
            axes.text(high, row + height, f"  {name}", va="center", fontsize=8, color=GRAY)
    axes.axvline(0, color=GRAY, linewidth=1)
    axes.set_yticks(range(len(shown)), shown)
    axes.invert_yaxis()
    axes.margins(x=0.2, y=0.2)
    axes.set_xlabel("points of accuracy ahead of odd, 5,000 sentences of SST-2")
    axes.grid(axis="x", color="#dddddd")
    return figure


def tukey_margin(groups: list[list[float]]) -> float:
    """Returns the least difference of two means that is significant when all pairs are compared, at 5%.

    Tukey's honestly significant difference, for groups of one size. It is about other seeds, on the same examples.
    """
    size = len(groups[0])
    variance = np.mean([np.var(group, ddof=1) for group in groups])
    return studentized_range.ppf(0.95, len(groups), len(groups) * (size - 1)) * np.sqrt(variance / size)


def percent(runs: Iterable[dict[str, str]]) -> list[float]:
    return [100 * float(run["eval_accuracy"]) for run in runs]


if __name__ == "__main__":
    main()
