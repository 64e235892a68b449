"""Tests of the thresholds of labels, against counts written from their definitions."""

import numpy as np
import pytest

from layer_distillation.errors import UserError
from layer_distillation.problem_types import MULTI_LABEL, SINGLE_LABEL
from text_data.thresholds import ThresholdCurve, ThresholdRule, choose_thresholds, read_thresholds, thresholds_table


def measured_by_hand(probabilities, has_label, threshold):
    flagged = [p >= threshold for p in probabilities]
    hits = sum(f and y for f, y in zip(flagged, has_label, strict=True))
    return {
        "precision": hits / sum(flagged) if any(flagged) else 1,
        "recall": hits / sum(has_label),
        "flagged": sum(flagged) / len(flagged),
    }


@pytest.fixture(scope="module")
def examples():
    """Probabilities with ties, and whether the label is there, more often where they are high."""
    draws = np.random.default_rng(0)
    probabilities = draws.integers(1, 40, 200) / 40
    return probabilities, draws.random(200) < probabilities**2


def test_every_point_of_a_curve_is_what_its_threshold_does(examples):
    curve = ThresholdCurve.measure(*examples)
    assert len(curve.threshold) == len(np.unique(examples[0])) + 1
    for threshold in curve.threshold:
        assert curve.at(threshold) == pytest.approx(measured_by_hand(*examples, threshold))


def test_the_threshold_for_f1_is_the_best_of_all(examples):
    def f1(threshold):
        found = measured_by_hand(*examples, threshold)
        return 2 * found["precision"] * found["recall"] / max(found["precision"] + found["recall"], 1e-12)

    chosen = ThresholdCurve.measure(*examples).best(ThresholdRule())
    assert f1(chosen) == pytest.approx(max(f1(threshold) for threshold in np.arange(0, 1, 0.001)))


def test_the_threshold_for_a_recall_finds_as_many_with_the_highest_precision(examples):
    chosen = ThresholdCurve.measure(*examples).best(ThresholdRule.parse("recall=0.8"))
    others = [measured_by_hand(*examples, threshold) for threshold in np.arange(0, 1, 0.001)]
    best = max(found["precision"] for found in others if found["recall"] >= 0.8)
    found = measured_by_hand(*examples, chosen)
    assert found["recall"] >= 0.8
    assert found["precision"] == pytest.approx(best)


@pytest.mark.parametrize("share", [0.001, 0.1, 1])
def test_the_threshold_for_a_share_flags_no_more_and_the_next_lower_one_would(examples, share):
    curve = ThresholdCurve.measure(*examples)
    chosen = curve.best(ThresholdRule("flagged", share))
    assert measured_by_hand(*examples, chosen)["flagged"] <= share
    lower = curve.threshold[curve.threshold < chosen]
    assert len(lower) == 0 or measured_by_hand(*examples, lower[-1])["flagged"] > share


@pytest.mark.parametrize("highest", [1.0, 1 - 2**-53, 1 - 2**-24])
def test_a_curve_is_right_for_probabilities_that_are_1_or_next_to_another(highest):
    probabilities = np.array([highest, highest, 0.3, 0.2, np.nextafter(0.2, 1), 0.1, 0.0])
    has_label = np.array([True, False, True, False, True, False, False])
    curve = ThresholdCurve.measure(probabilities, has_label)
    assert len(curve.threshold) == 6 + (highest < 1)
    assert curve.threshold.max() <= 1
    for threshold in curve.threshold:
        assert curve.at(threshold) == pytest.approx(measured_by_hand(probabilities, has_label, threshold))
    thin = curve.to_json(curve.best(ThresholdRule()))
    assert thin["threshold"] == curve.threshold.tolist()


def test_where_more_texts_than_the_share_have_a_probability_of_1_they_alone_are_flagged():
    curve = ThresholdCurve.measure(np.array([1, 1, 0.2, 0.1]), np.array([True, False, True, False]))
    chosen = curve.best(ThresholdRule("flagged", 0.25))
    assert 0.2 < chosen <= 1
    assert curve.at(chosen)["flagged"] == 0.5


def test_labels_are_measured_by_themselves_on_the_examples_where_they_are_known(caplog):
    logits = np.log([[3, 1 / 4], [1, 4], [1 / 9, 1 / 9], [1 / 4, 1]])
    labels = np.array([[1, 0], [np.nan, 0], [0.4, 0], [0.5, 0]])  # shares from a half on count
    report = choose_thresholds(logits, labels, ("rude", "loud"), MULTI_LABEL, ThresholdRule())
    # Known probabilities of "rude": 0.75 (has it), 0.1 (has not), 0.2 (has it).
    assert report["thresholds"] == {"rude": pytest.approx(0.15), "loud": 0.5}
    assert report["measured"] == {"rude": {"precision": 1, "recall": 1, "flagged": pytest.approx(2 / 3)}}
    assert report["curves"].keys() == {"rude"}
    assert "loud" in caplog.text
    rows = thresholds_table(report)
    assert rows[0] == {
        "Label": "rude",
        "Threshold": "0.150",
        "Precision": "100.0%",
        "Recall": "100.0%",
        "Flagged": "66.7%",
    }
    assert rows[1] == {"Label": "loud", "Threshold": "0.500"}


def test_one_label_of_several_is_measured_against_all_others():
    logits = np.log([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4], [0.5, 0.1, 0.4]])
    report = choose_thresholds(logits, np.array([0, 1, 2, 2]), ("a", "b", "c"), SINGLE_LABEL, ThresholdRule())
    assert report["thresholds"] == pytest.approx({"a": 0.6, "b": 0.45, "c": 0.35})


def test_shares_of_the_classes_count_for_the_largest_and_of_equal_ones_for_the_last():
    logits = np.log([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]])
    shares = np.array([[0.4, 0.3, 0.3], [0.1, 0.5, 0.4], [0.0, 0.5, 0.5]])
    of_shares, of_ids = (
        choose_thresholds(logits, labels, ("a", "b", "c"), SINGLE_LABEL, ThresholdRule())
        for labels in (shares, np.array([0, 1, 2]))
    )
    assert of_shares == of_ids


def test_a_long_curve_is_thinned_out_but_keeps_the_chosen_point():
    probabilities = np.linspace(0.01, 0.99, 1001)
    logits = np.log(probabilities / (1 - probabilities))[:, None].repeat(2, axis=1)
    labels = np.stack([probabilities > 0.7033, probabilities > 0.2], axis=1).astype(float)
    report = choose_thresholds(logits, labels, ("a", "b"), MULTI_LABEL, ThresholdRule())
    curve = report["curves"]["a"]
    assert 90 <= len(curve["threshold"]) <= 101
    assert report["thresholds"]["a"] in curve["threshold"]
    assert report["measured"]["a"] == {"precision": 1, "recall": 1, "flagged": pytest.approx(labels[:, 0].mean())}


def test_a_thinned_curve_has_every_recall_of_a_rare_label_and_ends_with_no_text_flagged():
    draws = np.random.default_rng(0)
    probabilities, has_label = draws.random(100_000), np.zeros(100_000, dtype=bool)
    has_label[draws.choice(100_000, 40, replace=False)] = True
    curve = ThresholdCurve.measure(probabilities, has_label)
    thin = curve.to_json(curve.best(ThresholdRule()))
    assert len(thin["threshold"]) <= 101
    assert set(thin["recall"]) == {found / 40 for found in range(41)}
    assert (thin["flagged"][0], thin["flagged"][-1]) == (1, 0)
    # At any threshold the last point of the thinned curve has the right recall.
    for threshold in draws.random(100):
        point = np.searchsorted(thin["threshold"], threshold, side="right") - 1
        assert thin["recall"][point] == (probabilities[has_label] >= threshold).mean()


@pytest.mark.parametrize(
    "content",
    [
        '{"thresholds": {"rude": 0.5}}',
        '{"thresholds": {"loud": 1.5}}',
        '{"thresholds": {"loud": "high"}}',
        "[]",
        "{",
        "{}",
    ],
)
def test_thresholds_changed_by_hand_must_be_probabilities_of_labels(tmp_path, content):
    file = tmp_path / "thresholds.json"
    file.write_text(content)
    with pytest.raises(UserError, match="thresholds.json"):
        read_thresholds(file, ("loud",))
    file.write_text('{"rule": "f1", "thresholds": {"loud": 1}}')
    assert read_thresholds(file, ("loud",)) == {"rule": "f1", "thresholds": {"loud": 1}}


@pytest.mark.parametrize("text", ["", "f2", "f1=0.5", "recall", "recall=0", "recall=1.5", "flagged=x", "recall=nan"])
def test_other_rules_are_refused(text):
    with pytest.raises(UserError, match="--threshold_rule"):
        ThresholdRule.parse(text)
    assert str(ThresholdRule.parse("recall=0.90")) == "recall=0.9"
