"""95% intervals of scores and of their differences, over the test examples and over the seeds of training.

    labels = np.array([...])                                   # (examples,)
    a = bootstrap(accuracy, labels, predictions_a)             # predictions: (seeds, examples)
    b = bootstrap(accuracy, labels, predictions_b)             # the same examples are drawn: the samples are paired
    difference(a, b)                                           # Interval(estimate=0.012, low=-0.004, high=0.028)
    difference(a, b, pooled_seed_variance([a, b, c, d]))       # seeds that vary alike in all systems

The result could have been different for two reasons: other examples in the test set, and other seeds.

- Examples are resampled with replacement, the same ones for every system and seed (paired bootstrap).
- Seeds are nested in systems: seed 0 of one system has nothing in common with seed 0 of another. There are too few of
  them to resample: where the seeds matter most, intervals from resampling three values cover the truth in 82% of
  cases instead of 95%. Their variance is therefore estimated from the spread between them, pooled over all systems
  that are given; fresh weights, which differ more, have a pool of their own. The examples cause a part of this spread,
  which is subtracted, because it would count twice.

The quantile is that of Student's t. Its degrees of freedom are those of Satterthwaite (1946, "An approximate
distribution of estimates of variance components"). In simulated comparisons, the intervals cover the truth in 94 to
97% of cases (`python -m experiments.coverage`, docs/results/coverage.md).
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import t as student_t

from comparison.metrics import Metric
from layer_distillation.errors import UserError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with the limits of its 95% interval, for scores between 0 and 1. Printed in percentage points.

    Attributes:
        p_value: of the hypothesis that the true value is 0, two-sided.
        over_seeds: whether the interval is over the choice of seeds too. If not, it is too narrow: one seed of each
            system cannot show how far seeds differ.
    """

    estimate: float
    low: float
    high: float
    p_value: float = 1.0
    over_seeds: bool = True

    @property
    def points(self) -> tuple[float, float, float]:
        """Estimate and limits in percentage points, rounded as in print."""
        return tuple(round(100 * value, 1) + 0.0 for value in (self.estimate, self.low, self.high))  # no -0.0

    def __str__(self) -> str:
        estimate, low, high = self.points
        return f"{estimate:+.1f} [{low:.1f}, {high:.1f}]"

    @property
    def in_print(self) -> str:
        """The interval in print; where it would not be over the seeds, the estimate alone."""
        return str(self) if self.over_seeds else f"{self.points[0]:+.1f} (one seed)"


@dataclass(frozen=True)
class Scores:
    """Scores of one system.

    Attributes:
        by_seed: on all examples, `(seeds,)`.
        resampled: on resampled examples, `(resamples, seeds)`. Row r uses the same examples for every system.
        varies: whether another seed would have given other scores; not so of a teacher that all students share.
        fresh: whether another seed also draws the weights anew. Such scores may differ many times as much from seed to
            seed as those of copied weights, so the two variances are not pooled.
        lowest: as in `Metric`.
    """

    by_seed: np.ndarray
    resampled: np.ndarray
    varies: bool = True
    fresh: bool = False
    lowest: float = 0.0

    @property
    def variance_by_examples(self) -> float:
        """The part of the variance from seed to seed that the examples cause.

        On a finite test set each seed is lucky or unlucky by itself. This part is estimated as the variance, in the
        bootstrap, of each seed's deviation from the mean.
        """
        number = len(self.by_seed)
        deviations = self.resampled - self.resampled.mean(axis=1, keepdims=True)
        return deviations.var(axis=0, ddof=1).mean() * number / (number - 1)


@dataclass(frozen=True)
class SeedVariance:
    """How far scores differ from seed to seed.

    Attributes:
        total: variance of the score of one seed on the examples at hand.
        by_examples: the part of it that the examples cause.
        degrees_of_freedom: of the total.
    """

    total: float
    by_examples: float
    degrees_of_freedom: int

    @property
    def variance(self) -> float:
        """The variance of the score of one seed on infinitely many examples.

        The variance over the resampled examples already contains the other part, which would count twice.
        """
        return max(0.0, self.total - self.by_examples)


def bootstrap(
    metric: Metric,
    labels: np.ndarray,
    outputs: np.ndarray,
    num_resamples: int = 2000,
    seed: int = 0,
    varies: bool = True,
    fresh: bool = False,
) -> Scores:
    """Scores a system on all examples and on resampled ones.

    Args:
        labels: `(examples,)` or `(examples, labels)`, as the metric takes them.
        outputs: what the metric takes, of every seed: `(seeds, examples)` or `(seeds, examples, classes)`.
        seed: of the resampling. The scores of two systems are paired if `seed`, `num_resamples` and the number of
            examples are the same.
        varies, fresh: as in `Scores`.
    """
    draws = draw(len(labels), num_resamples, seed)
    by_seed, resampled = [], []
    for output in outputs:
        statistics = metric.statistics(labels, output)
        sums = [part.astype(float) @ statistics for part in np.array_split(draws, -(-num_resamples // 50))]
        by_seed.append(metric.score(statistics.sum(axis=0)))
        resampled.append(metric.score(np.concatenate(sums)))
    return Scores(np.array(by_seed), np.column_stack(resampled), varies, fresh, metric.lowest)


@functools.lru_cache(maxsize=2)
def draw(num_examples: int, num_resamples: int, seed: int) -> np.ndarray:
    """Returns how often each example is drawn: `(resamples, examples)`. A byte is enough: the mean is 1."""
    generator, shares = np.random.default_rng(seed), np.full(num_examples, 1 / num_examples)
    draws = np.empty((num_resamples, num_examples), dtype=np.uint8)
    for row in draws:
        row[:] = generator.multinomial(num_examples, shares)
    return draws


def pooled_seed_variance(systems: Iterable[Scores]) -> dict[bool, SeedVariance]:
    """Returns the variance from seed to seed over all systems with several seeds, by their `fresh`.

    Few seeds say little about one system's variance: pooled, the intervals are narrower and of more equal width.
    """
    pools = {}
    several = [system for system in systems if system.varies and len(system.by_seed) > 1]
    for fresh in {system.fresh for system in several}:
        members = [system for system in several if system.fresh == fresh]
        weights = [len(system.by_seed) - 1 for system in members]
        total = np.average([system.by_seed.var(ddof=1) for system in members], weights=weights)
        by_examples = np.average([system.variance_by_examples for system in members], weights=weights)
        pools[fresh] = SeedVariance(float(total), float(by_examples), sum(weights))
    return pools


def score(system: Scores, seeds: Mapping[bool, SeedVariance] | None = None) -> Interval:
    """Returns the mean score over the seeds, with its interval, which ends where scores do.

    Args:
        seeds: `None` for the system's own seeds.
    """
    interval = _interval(system.by_seed.mean(), system.resampled.mean(axis=1), [system], seeds)
    return replace(interval, low=max(interval.low, system.lowest), high=min(interval.high, 1.0))


def difference(first: Scores, second: Scores, seeds: Mapping[bool, SeedVariance] | None = None) -> Interval:
    """Returns the first system's mean score minus the second's, with its interval.

    Args:
        seeds: `None` for the seeds of these two systems.

    Raises:
        UserError: the two were not scored on the same resampled examples.
    """
    if len(first.resampled) != len(second.resampled):
        raise UserError(
            f"A difference needs the same resamples of both systems, found {len(first.resampled)} of the first and "
            f"{len(second.resampled)} of the second. Give both the same `num_resamples`."
        )
    estimate = first.by_seed.mean() - second.by_seed.mean()
    resampled = first.resampled.mean(axis=1) - second.resampled.mean(axis=1)
    return _interval(estimate, resampled, [first, second], seeds)


def _interval(
    estimate: float, resampled: np.ndarray, systems: Sequence[Scores], seeds: Mapping[bool, SeedVariance] | None
) -> Interval:
    """Returns the interval whose variance is the sum of those from the examples and from each system's seeds."""
    varying = [system for system in systems if system.varies]
    pools = pooled_seed_variance(varying) if seeds is None else seeds
    over_seeds = all(system.fresh in pools for system in varying)
    parts = [
        (pools[fresh], sum(1 / len(system.by_seed) for system in varying if system.fresh == fresh)) for fresh in pools
    ]
    # Only what is known from the seeds is uncertain, and that is their total variance: there are enough examples to
    # know theirs well. The whole is never below this part of it, but its estimate may be, where few runs are alike.
    variance = resampled.var(ddof=1) + sum(pool.variance * share for pool, share in parts)
    variance = max(variance, sum(pool.total * share for pool, share in parts))
    if variance == 0:
        return Interval(estimate, estimate, estimate, float(estimate == 0), over_seeds)
    uncertain = sum((pool.total * share) ** 2 / pool.degrees_of_freedom for pool, share in parts)
    degrees_of_freedom = variance**2 / uncertain if uncertain > 0 else np.inf
    margin = student_t.ppf((1 + CONFIDENCE) / 2, degrees_of_freedom) * np.sqrt(variance)
    p_value = 2 * student_t.sf(abs(estimate) / np.sqrt(variance), degrees_of_freedom)
    return Interval(estimate, estimate - margin, estimate + margin, float(p_value), over_seeds)


def p_value_in_print(p_value: float, equals: str = "", less: str = "<") -> str:
    """Returns a p-value in three digits: `0.023`, or `<0.001`. `equals` or `less` stands before the number."""
    return f"{equals}{p_value:.3f}" if p_value >= 0.0005 else f"{less}0.001"


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns the p-values of a family of comparisons, corrected for their number.

    Holm 1979, "A simple sequentially rejective multiple test procedure": if all true differences are 0, one of the
    corrected values is below 0.05 in at most 5% of cases.
    """
    order = np.argsort(p_values)
    steps = np.arange(len(p_values), 0, -1) * np.asarray(p_values)[order]
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected.tolist()
