"""Tests of `bootstrap`: the metrics against scikit-learn, and the intervals against simulated truths."""

import tracemalloc

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import accuracy_score, f1_score

from comparison.bootstrap import accuracy, bootstrap, difference, macro_f1, score


def random_predictions(num_seeds, num_examples, num_labels=3, seed=0):
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, num_labels, num_examples)
    right = draws.random((num_seeds, num_examples)) < 0.7
    return labels, np.where(right, labels, draws.integers(0, num_labels, (num_seeds, num_examples)))


# ---- Metrics ----


@pytest.mark.parametrize(
    ("metric", "reference"),
    [(accuracy, accuracy_score), (macro_f1, lambda y, p: f1_score(y, p, average="macro", zero_division=0))],
)
def test_the_scores_are_those_of_scikit_learn_on_all_and_on_resampled_examples(metric, reference):
    labels, predictions = random_predictions(2, 40)
    scores = bootstrap(metric, labels, predictions, num_resamples=5, seed=3)
    assert scores.by_seed == pytest.approx([reference(labels, row) for row in predictions])
    weights = np.random.default_rng(3).multinomial(40, np.full(40, 1 / 40), size=5)
    for weight, values in zip(weights, scores.resampled, strict=True):
        drawn = np.repeat(np.arange(40), weight)
        assert values == pytest.approx([reference(labels[drawn], row[drawn]) for row in predictions])


def test_many_examples_and_labels_fit_in_memory():
    labels, predictions = random_predictions(3, 20_000, num_labels=150)
    tracemalloc.start()
    bootstrap(accuracy, labels, predictions, num_resamples=200)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40e6  # a matrix of examples x cells of the confusion would take 10 GB


def test_a_class_that_never_occurs_is_left_out_of_the_macro_f1():
    labels, predictions = np.array([0, 0, 2, 2]), np.array([[0, 2, 2, 2]])
    reference = f1_score(labels, predictions[0], average="macro")
    assert bootstrap(macro_f1, labels, predictions, num_resamples=2).by_seed == pytest.approx([reference])


# ---- Intervals ----


@pytest.mark.parametrize("num_seeds", [1, 3])
@pytest.mark.parametrize("metric", [accuracy, macro_f1])
def test_two_copies_of_one_model_differ_by_0_and_the_interval_contains_0(num_seeds, metric):
    labels, predictions = random_predictions(num_seeds, 200)
    systems = [bootstrap(metric, labels, predictions.copy()) for _ in range(2)]
    interval = difference(*systems)
    assert interval.estimate == 0
    assert interval.low <= 0 <= interval.high
    if num_seeds == 1:  # then there is nothing by which they could differ
        assert interval.low == interval.high == 0


def test_a_difference_is_the_first_minus_the_second_and_changes_sign_with_the_order():
    labels, first = random_predictions(3, 300)
    second = np.where(np.random.default_rng(1).random(first.shape) < 0.5, labels, first)
    a, b = bootstrap(accuracy, labels, first), bootstrap(accuracy, labels, second)
    forward, backward = difference(a, b), difference(b, a)
    assert forward.estimate == pytest.approx((first == labels).mean() - (second == labels).mean())
    assert (forward.low, forward.high) == pytest.approx((-backward.high, -backward.low))
    assert forward.high < 0


def test_pairing_makes_the_interval_of_similar_systems_narrower_than_each_ones_own():
    labels, first = random_predictions(1, 500)
    second = first.copy()
    second[0, :5] = labels[:5]
    a, b = bootstrap(accuracy, labels, first), bootstrap(accuracy, labels, second)
    assert difference(a, b).high - difference(a, b).low < 0.3 * (score(a).high - score(a).low)


def test_one_seeds_interval_is_that_of_a_share():
    labels, predictions = random_predictions(1, 400)
    interval = score(bootstrap(accuracy, labels, predictions, num_resamples=20_000))
    share = (predictions == labels).mean()
    margin = 1.96 * np.sqrt(share * (1 - share) / 400)
    assert (interval.estimate, interval.high) == pytest.approx((share, share + margin), rel=0.01)


def test_seeds_that_differ_widen_the_interval_as_students_t():
    # A test set so large that the seeds alone matter: the textbook interval of the mean of three numbers.
    shares = (0.65, 0.70, 0.75)
    predictions = np.array([np.arange(40_000) % 100 >= 100 * share for share in shares]).astype(int)
    interval = score(bootstrap(accuracy, np.zeros(40_000, dtype=int), predictions, num_resamples=200))
    margin = 4.303 * np.std(shares, ddof=1) / np.sqrt(3)
    assert interval.high - interval.estimate == pytest.approx(margin, rel=0.01)


def test_the_interval_of_a_score_ends_where_scores_do():
    predictions = np.array([[0] * 50, [0] * 10 + [1] * 40])
    interval = score(bootstrap(accuracy, np.zeros(50, dtype=int), predictions, num_resamples=100))
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_samples_that_are_not_paired_are_refused():
    labels, predictions = random_predictions(1, 50)
    systems = [bootstrap(accuracy, labels, predictions, num_resamples=number) for number in (10, 20)]
    with pytest.raises(ValueError, match="found 10 of the first and 20 of the second"):
        difference(*systems)


# ---- Coverage ----


def simulate(draws, num_examples, num_seeds, seed_effect, model_effect, run_effect):
    """Right or wrong predictions of two systems, from how hard an example is, for each system and for each run.

    A prediction is right where skill + difficulty + model x example + seed + run x example > 0, all normal.
    """
    difficulty = draws.normal(size=num_examples)
    return [
        skill
        + difficulty
        + model_effect * draws.normal(size=num_examples)
        + seed_effect * draws.normal(size=(num_seeds, 1))
        + run_effect * draws.normal(size=(num_seeds, num_examples))
        > 0
        for skill in SKILLS
    ]


SKILLS = (1.0, 1.2)


@pytest.mark.parametrize(
    ("num_examples", "num_seeds", "effects", "repetitions"),
    [
        (230, 3, (0.05, 0.5, 0.5), 1500),  # seeds that differ as much as they do on the sample data
        (230, 5, (0.5, 0.3, 0.3), 1500),  # seeds that matter more than the examples
        *(
            pytest.param(*case, 4000, marks=pytest.mark.slow)
            for case in (
                (230, 3, (0.05, 0.5, 0.5)),
                (230, 3, (0.2, 0.5, 0.5)),
                (230, 3, (0.5, 0.3, 0.3)),
                (230, 3, (0.0, 0.1, 1.0)),
                (872, 1, (0.0, 0.5, 0.5)),
                (872, 3, (0.05, 0.5, 0.7)),
                (2479, 3, (0.1, 0.3, 0.3)),
            )
        ),
    ],
)
def test_the_interval_of_a_difference_covers_the_truth_in_95_percent_of_cases(
    num_examples, num_seeds, effects, repetitions
):
    spread = np.sqrt(1 + sum(effect**2 for effect in effects))
    truth = norm.cdf(SKILLS[0] / spread) - norm.cdf(SKILLS[1] / spread)
    draws, covered = np.random.default_rng(0), 0
    labels = np.ones(num_examples, dtype=int)
    for _ in range(repetitions):
        runs = [right.astype(int) for right in simulate(draws, num_examples, num_seeds, *effects)]
        interval = difference(*(bootstrap(accuracy, labels, predictions, num_resamples=200) for predictions in runs))
        covered += interval.low <= truth <= interval.high
    assert covered / repetitions == pytest.approx(0.95, abs=0.02)
