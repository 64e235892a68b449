"""Tests of `comparison.bootstrap`: intervals against textbook formulas and simulated truths."""

import csv
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t as student_t
from scipy.stats import ttest_ind
from sklearn.metrics import f1_score

from benchmarks.results import RESULTS
from comparison.bootstrap import bootstrap, difference, holm, pooled_seed_variance, score
from comparison.metrics import accuracy, macro_f1, pearson, spearman
from experiments.coverage import SETTINGS, Setting, coverage, simulate, true_scores


def random_predictions(num_seeds, num_examples, num_labels=3, seed=0):
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, num_labels, num_examples)
    right = draws.random((num_seeds, num_examples)) < 0.7
    return labels, np.where(right, labels, draws.integers(0, num_labels, (num_seeds, num_examples)))


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


@pytest.mark.parametrize("metric", [pearson, spearman])
def test_the_interval_of_a_low_correlation_reaches_below_0_and_not_below_minus_1(metric):
    labels, draws = np.arange(100.0), np.random.default_rng(0)
    low = score(bootstrap(metric, labels, (0.05 * labels + draws.normal(0, 20, 100))[None]))
    assert low.estimate > 0 > low.low
    assert low.low - low.estimate == pytest.approx(low.estimate - low.high)
    opposite = score(bootstrap(metric, labels[:4], np.array([[4.0, 3, 2, 1], [1, 2, 3, 4]]), num_resamples=100))
    assert (opposite.low, opposite.high) == (-1.0, 1.0)


def test_samples_that_are_not_paired_are_refused():
    labels, predictions = random_predictions(1, 50)
    systems = [bootstrap(accuracy, labels, predictions, num_resamples=number) for number in (10, 20)]
    with pytest.raises(ValueError, match="found 10 of the first and 20 of the second"):
        difference(*systems)


# ---- Seeds ----


def with_shares(shares, num_examples=40_000):
    """Predictions of a seed for each share of right ones, on so many examples that the seeds alone matter."""
    predictions = np.array([np.arange(num_examples) % 100 >= 100 * share for share in shares]).astype(int)
    return bootstrap(accuracy, np.zeros(num_examples, dtype=int), predictions, num_resamples=200)


def test_the_variance_of_seeds_is_pooled_as_in_the_two_sample_t_test():
    shares = (0.65, 0.70, 0.75), (0.60, 0.61, 0.66, 0.69)
    first, second = map(with_shares, shares)
    reference = ttest_ind(*shares).confidence_interval()
    interval = difference(first, second)
    assert (interval.low, interval.high) == pytest.approx((reference.low, reference.high), abs=0.002)
    assert interval.p_value == pytest.approx(ttest_ind(*shares).pvalue, abs=0.01)


def test_other_systems_tell_how_far_one_seed_could_be_off():
    lone, several = with_shares((0.5,)), with_shares((0.65, 0.70, 0.75))
    seeds = pooled_seed_variance([lone, several])
    assert (seeds[False].total, seeds[False].degrees_of_freedom) == pytest.approx((0.05**2, 2), rel=0.01)
    interval = score(lone, seeds)
    assert interval.over_seeds
    assert interval.high - interval.estimate == pytest.approx(4.303 * 0.05, rel=0.02)


def test_single_seeds_alone_are_marked_because_their_interval_is_too_narrow():
    interval = difference(with_shares((0.5,)), with_shares((0.6,)))
    assert not interval.over_seeds


def test_a_system_that_does_not_vary_with_the_seed_needs_no_seeds():
    teacher = replace(with_shares((0.5,)), varies=False)
    assert score(teacher).over_seeds
    students = with_shares((0.65, 0.70, 0.75))
    interval = difference(students, teacher)
    assert interval.high - interval.estimate == pytest.approx(4.303 * 0.05 / np.sqrt(3), rel=0.02)


def test_runs_that_happen_to_be_alike_do_not_make_an_interval_endless():
    """All seeds of the third system have other examples right; the first two differ in a single answer."""
    labels, place = np.zeros(200, dtype=int), np.arange(200)
    first = np.tile(place % 2, (2, 1))
    second = first.copy()
    second[0, 1] = 0
    third = np.array([place % 2, (place + 1) % 2])
    third[1, :10] = 0
    systems = [bootstrap(accuracy, labels, predictions) for predictions in (first, second, third)]
    seeds = pooled_seed_variance(systems)
    assert seeds[False].variance == 0, "the examples explain all"
    interval = difference(systems[0], systems[1], seeds)
    total = np.mean([(predictions == 0).mean(axis=1).var(ddof=1) for predictions in (first, second, third)])
    assert interval.high - interval.estimate == pytest.approx(student_t(df=3).ppf(0.975) * np.sqrt(total))


def test_fresh_weights_do_not_widen_the_intervals_of_copied_ones():
    """Seeds of the last system differ by 10 points, those of the others by one; the examples cause none of it."""
    labels, place = np.zeros(20_000, dtype=int), np.arange(20_000)

    def scored(shares, fresh=False):
        return bootstrap(accuracy, labels, np.stack([place >= share * len(place) for share in shares]), fresh=fresh)

    copied, other, control = scored([0.5, 0.51, 0.52]), scored([0.6, 0.61, 0.62]), scored([0.2, 0.3, 0.4], fresh=True)
    pools = pooled_seed_variance([copied, other, control])
    assert difference(copied, other, pools) == difference(copied, other, pooled_seed_variance([copied, other]))
    assert pools[True] == pooled_seed_variance([control])[True]
    # Welch's interval: variances 0.01**2 with 4 degrees of freedom, 0.1**2 with 2.
    interval, parts = difference(copied, control, pools), np.array([0.01**2 / 3, 0.1**2 / 3])
    degrees_of_freedom = parts.sum() ** 2 / (parts[0] ** 2 / 4 + parts[1] ** 2 / 2)
    margin = student_t(df=degrees_of_freedom).ppf(0.975) * np.sqrt(parts.sum())
    assert interval.high - interval.estimate == pytest.approx(margin, rel=0.02)


# ---- Families ----


def test_p_values_are_corrected_step_by_step():
    # Times 4, 3, 2, 1 from the smallest on, and never smaller than the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1.0, 1.0] and holm([]) == []


# ---- Coverage ----


@pytest.mark.parametrize("seed_effect", [0.0, 0.2])
def test_the_simulated_truth_is_the_score_on_very_many_examples_and_seeds(seed_effect):
    setting = Setting("x", 50_000, (1.5, 0.8), seed_effect=seed_effect)
    ((labels, predictions),) = simulate(setting, 20, 1)
    for metric in (accuracy, macro_f1):
        simulated = [np.mean([metric(labels, of_seed) for of_seed in of_group]) for of_group in predictions]
        assert true_scores(metric, setting) == pytest.approx(simulated, abs=0.02 if seed_effect else 0.006)


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds", [3, 5])
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.title)
def test_intervals_cover_the_truth_in_95_percent_of_cases(setting, num_seeds):
    for covered in coverage(setting, num_seeds, repetitions=1000).values():
        assert covered == pytest.approx(0.95, abs=0.02)


def test_committed_coverages_are_of_all_settings_and_close_to_95_percent():
    with open(RESULTS / "coverage.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(SETTINGS) * 2 * 2 * 2
    coverages = [float(row["coverage"]) for row in rows]
    assert all(0.93 <= value <= 0.97 for value in coverages)
    assert np.mean(coverages) == pytest.approx(0.95, abs=0.003)
