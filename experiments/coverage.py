"""How often the 95% intervals of a comparison cover the truth, by simulation.

    python -m experiments.coverage                        # docs/results/coverage.md and .csv; minutes on one core
    python -m experiments.coverage --repetitions 200

A simulated comparison has four groups of students and three classes, of which one is rare. Each prediction is right
where skill + difficulty of the example + what the group, the seed and the run make of it > 0, all normal. So the score
on infinitely many examples and seeds can be computed. Each interval is calculated as a report does it: examples are
resampled, and the variance of the seeds is pooled over the groups.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from scipy.stats import norm

from benchmarks.results import write_results
from comparison.bootstrap import bootstrap, difference, pooled_seed_variance, score
from comparison.metrics import Metric, accuracy, macro_f1
from training.tables import markdown_table

# As often as in the tweets of docs/RESULTS.md.
SHARES = np.array([0.77, 0.17, 0.06])
NUM_RESAMPLES = 300


@dataclass(frozen=True)
class Setting:
    """A kind of comparison.

    Attributes:
        title: in the table.
        num_examples: of the test split.
        skills: of the groups: how far the average example is on the right side, for the common class. The rare class
            is harder.
        group_effect, seed_effect, run_effect: standard deviations of what a group makes of an example, of a seed's
            skill, and of what a single run makes of an example; the difficulty of examples has 1.
    """

    title: str
    num_examples: int
    skills: tuple[float, ...]
    group_effect: float = 0.4
    seed_effect: float = 0.1
    run_effect: float = 0.5

    @property
    def class_skills(self) -> np.ndarray:
        """`(groups, classes)`"""
        return np.array(self.skills)[:, None] - np.array([0.0, 0.3, 1.2])

    @property
    def spread(self) -> float:
        """Standard deviation of what decides on a prediction, but for the seed's skill."""
        return np.sqrt(1 + self.group_effect**2 + self.run_effect**2)


EQUAL, DIFFERENT = (1.5, 1.5, 1.5, 1.5), (1.5, 1.4, 1.2, 0.6)
SETTINGS = (
    Setting("equal students, 872 examples", 872, EQUAL),
    Setting("different students, 872 examples", 872, DIFFERENT),
    Setting("equal students, 2,479 examples", 2479, EQUAL),
    Setting("different students, 2,479 examples", 2479, DIFFERENT),
    Setting("different students, seeds matter most", 872, DIFFERENT, 0.3, 0.4, 0.3),
    Setting("different students, seeds hardly matter", 872, DIFFERENT, 0.5, 0.0, 0.5),
)
SEEDS = (3, 5)
METRICS = (accuracy, macro_f1)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000, help="simulated comparisons of each kind")
    repetitions = parser.parse_args(argv).repetitions
    rows = [
        {"setting": setting.title, "seeds": num_seeds, "metric": name, "interval": of, "coverage": covered}
        for setting in SETTINGS
        for num_seeds in SEEDS
        for (name, of), covered in coverage(setting, num_seeds, repetitions).items()
    ]
    write_results("coverage", rows, summary(rows))


def summary(rows: list[dict]) -> str:
    """Returns a table with a row for each kind of comparison, in per cent."""
    kinds = dict.fromkeys((row["setting"], row["seeds"]) for row in rows)
    return markdown_table(
        [
            {
                "Comparison": setting,
                "Seeds": str(seeds),
                **{
                    f"{row['metric']}, {row['interval']}": f"{100 * row['coverage']:.1f}"
                    for row in rows
                    if (row["setting"], row["seeds"]) == (setting, seeds)
                },
            }
            for setting, seeds in kinds
        ]
    )


def coverage(setting: Setting, num_seeds: int, repetitions: int) -> dict[tuple[str, str], float]:
    """Returns the share of intervals that cover the truth, by metric and kind of interval."""
    truths = {metric.name: true_scores(metric, setting) for metric in METRICS}
    covered = {(metric.name, of): [] for metric in METRICS for of in ("a score", "a difference")}
    for labels, predictions in simulate(setting, num_seeds, repetitions):
        for metric in METRICS:
            groups = [bootstrap(metric, labels, of_group, NUM_RESAMPLES) for of_group in predictions]
            seeds, truth = pooled_seed_variance(groups), truths[metric.name]
            for i, group in enumerate(groups):
                interval = score(group, seeds)
                covered[metric.name, "a score"].append(interval.low <= truth[i] <= interval.high)
                for j in range(i):
                    interval = difference(group, groups[j], seeds)
                    covered[metric.name, "a difference"].append(interval.low <= truth[i] - truth[j] <= interval.high)
    return {kind: float(np.mean(hits)) for kind, hits in covered.items()}


def simulate(setting: Setting, num_seeds: int, repetitions: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields labels `(examples,)` and predictions `(groups, seeds, examples)` of simulated comparisons."""
    draws, number = np.random.default_rng(0), setting.num_examples
    num_groups = len(setting.skills)
    for _ in range(repetitions):
        labels = draws.choice(len(SHARES), number, p=SHARES)
        decision = (
            setting.class_skills[:, None, labels]
            + draws.normal(size=number)
            + setting.group_effect * draws.normal(size=(num_groups, 1, number))
            + setting.seed_effect * draws.normal(size=(num_groups, num_seeds, 1))
            + setting.run_effect * draws.normal(size=(num_groups, num_seeds, number))
        )
        wrong = (labels + draws.integers(1, len(SHARES), number)) % len(SHARES)
        yield labels, np.where(decision > 0, labels, wrong)


def true_scores(metric: Metric, setting: Setting) -> np.ndarray:
    """Returns the mean score of each group over all seeds on infinitely many examples."""
    nodes, weights = hermegauss(41)  # of a standard normal variable
    num_classes = len(SHARES)
    scores = []
    for skills in setting.class_skills:
        right = norm.cdf((skills + setting.seed_effect * nodes[:, None]) / setting.spread)  # (nodes, classes)
        both = SHARES * right
        wrong = SHARES * (1 - right) / (num_classes - 1)  # a wrong prediction is any other class
        predicted = both + wrong.sum(axis=1, keepdims=True) - wrong
        if metric is accuracy:
            sums = np.stack([both.sum(axis=1), np.ones(len(nodes))], axis=-1)
        else:
            sums = np.hstack([np.broadcast_to(SHARES, both.shape), predicted, both])
        scores.append(np.average(metric.score(sums), weights=weights))
    return np.array(scores)


if __name__ == "__main__":
    main()
