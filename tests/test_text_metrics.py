"""Tests of the metrics against scikit-learn and scipy."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, matthews_corrcoef, roc_auc_score
from transformers import EvalPrediction

from layer_distillation.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from text_data.labels import LabelMap
from text_data.metrics import TextClassificationMetric, build_compute_metrics

NO_YES = LabelMap(SINGLE_LABEL, ("no", "yes"))
SCORES = LabelMap(REGRESSION, ("score",))


def predict(labels, logits, references, task_name=None):
    return build_compute_metrics(labels, task_name)(EvalPrediction(predictions=logits, label_ids=references))


def expected_f1(names, references, predictions, averages):
    by_name = {f"f1_{name}": f1 for name, f1 in zip(names, f1_score(references, predictions, average=None))}
    return by_name | {f"{average}_f1": f1_score(references, predictions, average=average) for average in averages}


def test_single_label_metrics_equal_scikit_learn():
    rng = np.random.default_rng(0)
    logits, references = rng.normal(size=(200, 2)).astype("float32") * 20, rng.integers(2, size=200)
    predictions, scores = logits.argmax(axis=1), logits[:, 1].astype("float64") - logits[:, 0].astype("float64")
    expected = {
        **expected_f1(("no", "yes"), references, predictions, ["macro"]),
        "accuracy": accuracy_score(references, predictions),
        "matthews_correlation": matthews_corrcoef(references, predictions),
        "roc_auc": roc_auc_score(references, scores),
        "average_precision": average_precision_score(references, scores),
    }
    assert predict(NO_YES, logits, references) == pytest.approx(expected, abs=1e-12)
    more_outputs = (logits, np.zeros((200, 3)))
    assert predict(NO_YES, more_outputs, references) == pytest.approx(expected, abs=1e-12)
    metric = TextClassificationMetric(NO_YES)
    for half in (slice(100), slice(100, 200)):  # as with any metric of `evaluate`
        metric.add_batch(predictions=logits[half], references=references[half])
    assert metric.compute() == pytest.approx(expected, abs=1e-12)


def test_the_f1_of_a_glue_task_is_that_of_its_label_in_any_order():
    rng = np.random.default_rng(0)
    logits, references = rng.normal(size=(50, 2)), rng.integers(2, size=50)
    for task, names in {"mrpc": ("not_equivalent", "equivalent"), "qqp": ("not_duplicate", "duplicate")}.items():
        expected = f1_score(references, logits.argmax(axis=1))
        assert predict(LabelMap(SINGLE_LABEL, names), logits, references, task)["f1"] == pytest.approx(expected)
        turned = predict(LabelMap(SINGLE_LABEL, names[::-1]), logits[:, ::-1], 1 - references, task)
        assert turned["f1"] == pytest.approx(expected)


def test_metrics_of_several_classes_skip_those_that_do_not_occur():
    rng = np.random.default_rng(0)
    logits, references = rng.normal(size=(100, 4)), rng.integers(3, size=100)
    logits[:, 3] = -100
    predictions = logits.argmax(axis=1)
    expected = {
        **expected_f1("abc", references, predictions, ["macro"]),
        "accuracy": accuracy_score(references, predictions),
        "matthews_correlation": matthews_corrcoef(references, predictions),
    }
    assert predict(LabelMap(SINGLE_LABEL, tuple("abcd")), logits, references) == pytest.approx(expected, abs=1e-12)


def test_multi_label_metrics_equal_scikit_learn():
    rng = np.random.default_rng(0)
    logits, references = rng.normal(size=(100, 3)), rng.integers(2, size=(100, 3)).astype("float32")
    references[:, 2] = 0
    predictions = (1 / (1 + np.exp(-logits)) > 0.5).astype(int)
    with_both_classes = [(references[:, i], logits[:, i]) for i in (0, 1)]
    expected = {
        **expected_f1("abc", references, predictions, ["macro", "micro"]),
        "accuracy": accuracy_score(references, predictions),
        "roc_auc": np.mean([roc_auc_score(*column) for column in with_both_classes]),
        "average_precision": np.mean([average_precision_score(*column) for column in with_both_classes]),
    }
    assert predict(LabelMap(MULTI_LABEL, tuple("abc")), logits, references) == pytest.approx(expected, abs=1e-12)


def test_unknown_labels_count_nowhere_and_shares_count_from_one_half_on():
    rng = np.random.default_rng(0)
    logits, shares = rng.normal(size=(60, 3)), rng.choice([0.0, 0.25, 0.5, 1.0, np.nan], size=(60, 3))
    shares[7] = np.nan
    rows = [~np.isnan(shares[:, i]) for i in range(3)]
    columns = [(shares[known, i] >= 0.5, logits[known, i]) for i, known in enumerate(rows)]
    f1 = [f1_score(references, scores > 0) for references, scores in columns]
    right = [all((s >= 0.5) == (x > 0) for s, x in zip(*pair) if s == s) for pair in zip(shares, logits)]
    expected = {
        **{f"f1_{name}": value for name, value in zip("abc", f1)},
        "macro_f1": np.mean(f1),
        "micro_f1": f1_score(*(np.concatenate(part) for part in zip(*((r, x > 0) for r, x in columns)))),
        "accuracy": np.mean([r for i, r in enumerate(right) if i != 7]),
        "roc_auc": np.mean([roc_auc_score(*column) for column in columns]),
        "average_precision": np.mean([average_precision_score(*column) for column in columns]),
    }
    assert predict(LabelMap(MULTI_LABEL, tuple("abc")), logits, shares) == pytest.approx(expected, abs=1e-12)


def test_soft_single_labels_are_scored_by_their_largest_share():
    labels = LabelMap(SINGLE_LABEL, tuple("abc"), is_soft=True)
    shares = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1]])
    hard = predict(LabelMap(SINGLE_LABEL, tuple("abc")), np.eye(3), np.array([2, 0, 1]))
    assert predict(labels, np.eye(3), shares) == pytest.approx(hard)


def test_regression_metrics_equal_scipy():
    logits, references = np.random.default_rng(0).normal(size=(2, 50))
    expected = {
        "pearson": pearsonr(logits, references).statistic,
        "spearmanr": spearmanr(logits, references).statistic,
        "mse": np.mean((logits - references) ** 2),
    }
    assert predict(SCORES, logits[:, None], references, "stsb") == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "logits", "references", "names"),
    [
        (NO_YES, [[2.0, 1.0]] * 2, [0, 0], "accuracy macro_f1 f1_no"),
        (NO_YES, [[np.nan] * 2, [2.0, 1.0]], [0, 1], "accuracy macro_f1 f1_no f1_yes matthews_correlation"),
        (LabelMap(MULTI_LABEL, ("a", "b")), [[1.0, -1.0]], [[1.0, 0.0]], "accuracy macro_f1 micro_f1 f1_a f1_b"),
        (SCORES, [[1.0], [1.0]], [0.0, 1.0], "mse"),
        (SCORES, [[1.0], [2.0]], [0.0, 0.0], "mse"),
        (SCORES, [[np.inf]], [0.0], ""),
    ],
)
def test_undefined_metrics_are_left_out(labels, logits, references, names):
    metrics = predict(labels, np.array(logits), np.array(references))
    assert set(metrics) == set(names.split())
    assert all(np.isfinite(value) for value in metrics.values())
