"""The metrics of text classification, from scikit-learn and scipy.

    compute_metrics = build_compute_metrics(data.labels, data_args.task_name)
    Trainer(..., compute_metrics=compute_metrics)

Another metric is one more entry in the dictionary that `single_label_metrics`, `multi_label_metrics` or
`regression_metrics` returns. A metric that the data leave undefined is left out, because NaN is no JSON.
"""

from collections.abc import Callable

import evaluate
import numpy as np
from datasets import Features, List, Value
from datasets.fingerprint import get_temporary_cache_files_directory
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    matthews_corrcoef,
    mean_squared_error,
    roc_auc_score,
)
from transformers import EvalPrediction

from layer_distillation.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from text_data.answers import hard_labels
from text_data.labels import LabelMap

# GLUE reports the F1 of one label for these tasks, whatever its id is in the order of the labels.
F1_LABELS = {"mrpc": "equivalent", "qqp": "duplicate"}


def single_label_metrics(logits: np.ndarray, references: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    """Metrics of one label an example; the label with the largest logit is the prediction.

    Args:
        logits: shape (examples, num_labels).
        references: shape (examples,), ids.

    Returns:
        accuracy, macro_f1, f1_NAME of every label that occurs; matthews_correlation if more than one label occurs;
        for two labels also roc_auc and average_precision of label 1, if both are in the references and all logits
        are finite.
    """
    predictions = logits.argmax(axis=1)
    occurring = np.union1d(references, predictions)
    per_label = f1_score(references, predictions, average=None, labels=occurring, zero_division=0)
    metrics = {
        "accuracy": accuracy_score(references, predictions),
        "macro_f1": f1_score(references, predictions, average="macro", zero_division=0),
        **{f"f1_{names[index]}": value for index, value in zip(occurring, per_label, strict=True)},
    }
    if len(occurring) > 1:
        metrics["matthews_correlation"] = matthews_corrcoef(references, predictions)
    if len(names) == 2:
        # The difference orders like the probability of label 1, which rounds to ties close to 0 and 1.
        metrics |= _ranking_metrics(np.diff(logits, axis=1), references[:, None])
    return metrics


def multi_label_metrics(logits: np.ndarray, references: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    """Metrics of any number of labels an example; a label with a positive logit is predicted.

    Args:
        logits: shape (examples, num_labels).
        references: shape (examples, num_labels), 0 or 1, NaN where a label is unknown, which counts nowhere.

    Returns:
        accuracy (an example is right if all its known labels are), macro_f1, micro_f1, f1_NAME of every label;
        roc_auc and average_precision, means over the labels of which both values occur, if all logits are finite.
    """
    predictions, known = (logits > 0).astype(float), ~np.isnan(references)
    is_right = (predictions == references) | ~known
    per_label = [
        f1_score(references[known[:, i], i], predictions[known[:, i], i], zero_division=0)
        if known[:, i].any()
        else 0.0
        for i in range(len(names))
    ]
    return {
        "accuracy": is_right[known.any(axis=1)].all(axis=1).mean(),
        "macro_f1": np.mean(per_label),
        "micro_f1": f1_score(references[known], predictions[known], zero_division=0),
        **{f"f1_{name}": value for name, value in zip(names, per_label, strict=True)},
        **_ranking_metrics(logits, references),
    }


def regression_metrics(logits: np.ndarray, references: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    """Metrics of one score an example.

    Args:
        logits: shape (examples, 1).
        references: shape (examples,).

    Returns:
        mse; pearson and spearmanr if neither predictions nor references are constant. Nothing if a logit is not
        finite.
    """
    predictions = logits[:, 0]
    if not np.isfinite(predictions).all():
        return {}
    metrics = {"mse": mean_squared_error(references, predictions)}
    if np.ptp(predictions) > 0 and np.ptp(references) > 0:
        metrics["pearson"] = pearsonr(predictions, references).statistic
        metrics["spearmanr"] = spearmanr(predictions, references).statistic
    return metrics


def _ranking_metrics(scores: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """Mean roc_auc and average_precision over the columns of (examples, labels) in which both classes are known."""
    known = ~np.isnan(references.T)
    columns = [(r[rows], s[rows]) for r, s, rows in zip(references.T, scores.T, known, strict=True)]
    columns = [(column, score) for column, score in columns if 0 < column.sum() < len(column)]
    if not columns or not np.isfinite(scores).all():
        return {}
    return {
        "roc_auc": np.mean([roc_auc_score(*column) for column in columns]),
        "average_precision": np.mean([average_precision_score(*column) for column in columns]),
    }


# Per problem type: the type of one reference, and the metrics.
METRICS = {
    SINGLE_LABEL: (Value("int64"), single_label_metrics),
    MULTI_LABEL: (List(Value("float64")), multi_label_metrics),
    REGRESSION: (Value("float64"), regression_metrics),
}


class TextClassificationMetric(evaluate.Metric):
    """All metrics of one label map as an `evaluate.Metric`, without the download that `evaluate.load` makes.

    `compute(predictions=logits, references=labels)` takes one list of logits an example, and returns the metrics of
    the problem type, for the tasks of `F1_LABELS` also f1.
    """

    def __init__(self, labels: LabelMap, task_name: str | None = None):
        self.labels = labels
        self.task_name = task_name
        # A metric creates a folder even if it keeps everything in memory, by default in HF_HOME: maybe read-only.
        super().__init__(keep_in_memory=True, cache_dir=get_temporary_cache_files_directory())

    def _info(self) -> evaluate.MetricInfo:
        reference, _ = METRICS[self.labels.problem_type]
        return evaluate.MetricInfo(
            description="Metrics of text classification by scikit-learn and scipy.",
            citation="",
            inputs_description="predictions: logits, one list of num_labels floats per example; references: labels.",
            features=Features(predictions=List(Value("float64")), references=reference),
        )

    def _compute(self, predictions: list[list[float]], references: list) -> dict[str, float]:
        logits, references = np.array(predictions), np.array(references)
        _, compute = METRICS[self.labels.problem_type]
        metrics = compute(logits, references, self.labels.names)
        if self.task_name in F1_LABELS:
            name, names = F1_LABELS[self.task_name], self.labels.names
            positive = names.index(name) if name in names else 1
            metrics["f1"] = f1_score(references, logits.argmax(axis=1), pos_label=positive, zero_division=0)
        return {name: float(value) for name, value in metrics.items()}


def build_compute_metrics(labels: LabelMap, task_name: str | None) -> Callable[[EvalPrediction], dict[str, float]]:
    """Returns the `compute_metrics` of a `Trainer`: `TextClassificationMetric` on the logits and the hard labels.

    Models may return more than logits; then `predictions` is a tuple, of which the logits are the first element.
    """
    metric = TextClassificationMetric(labels, task_name)

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        logits = prediction.predictions
        if isinstance(logits, tuple):
            logits = logits[0]
        return metric.compute(predictions=logits, references=hard_labels(prediction.label_ids, labels.problem_type))

    return compute_metrics
