"""The metrics of text classification, from scikit-learn and scipy."""

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

from text_data.labels import LabelMap


class TextClassificationMetric(evaluate.Metric):
    """All metrics of one label map, from scikit-learn and scipy, without the download that `evaluate.load` makes.

    `compute(predictions=logits, references=labels)` takes logits of shape (examples, num_labels), and labels of shape
    (examples,), or (examples, num_labels) for multi-label, and returns

    - single-label: accuracy, macro_f1, f1_<label name> for every label that occurs, matthews_correlation. With two
      labels also roc_auc and average_precision of label 1, and for mrpc and qqp f1 of label 1, as in GLUE;
    - multi-label (a label is predicted if its logit is positive): accuracy (all labels of an example right), macro_f1,
      micro_f1, f1_<label name>, and roc_auc and average_precision, means over the labels of which both values occur;
    - regression: pearson, spearmanr, mse.

    A metric that the data leave undefined is left out (NaN is no JSON): roc_auc and average_precision if only one
    class is in the labels, matthews_correlation if only one is in labels and predictions, pearson and spearmanr if
    either is constant. If a logit is not finite, so are roc_auc, average_precision and all metrics of regression.
    """

    def __init__(self, labels: LabelMap, task_name: str | None = None):
        self.labels = labels
        self.task_name = task_name
        # A metric creates a folder even if it keeps everything in memory, by default in HF_HOME: maybe read-only.
        super().__init__(keep_in_memory=True, cache_dir=get_temporary_cache_files_directory())

    def _info(self) -> evaluate.MetricInfo:
        references = {
            "single_label_classification": Value("int64"),
            "multi_label_classification": List(Value("int64")),
            "regression": Value("float64"),
        }
        return evaluate.MetricInfo(
            description="Metrics of text classification by scikit-learn and scipy.",
            citation="",
            inputs_description="predictions: logits, one list of num_labels floats per example; references: labels.",
            features=Features(predictions=List(Value("float64")), references=references[self.labels.problem_type]),
        )

    def _compute(self, predictions: list[list[float]], references: list) -> dict[str, float]:
        compute = {
            "single_label_classification": self._single_label,
            "multi_label_classification": self._multi_label,
            "regression": self._regression,
        }
        metrics = compute[self.labels.problem_type](np.array(predictions), np.array(references))
        return {name: float(value) for name, value in metrics.items()}

    def _single_label(self, logits: np.ndarray, references: np.ndarray) -> dict[str, float]:
        predictions = logits.argmax(axis=1)
        metrics = {
            "accuracy": accuracy_score(references, predictions),
            "macro_f1": f1_score(references, predictions, average="macro", zero_division=0),
        }
        occurring = np.union1d(references, predictions)
        per_label = f1_score(references, predictions, average=None, labels=occurring, zero_division=0)
        metrics |= {f"f1_{self.labels.names[index]}": value for index, value in zip(occurring, per_label, strict=True)}
        if len(occurring) > 1:
            metrics["matthews_correlation"] = matthews_corrcoef(references, predictions)
        if self.labels.num_labels == 2:
            # The difference orders like the probability of label 1, which rounds to ties close to 0 and 1.
            metrics |= _ranking_metrics(references[:, None], np.diff(logits, axis=1))
        if self.task_name in ("mrpc", "qqp"):
            metrics["f1"] = f1_score(references, predictions, zero_division=0)
        return metrics

    def _multi_label(self, logits: np.ndarray, references: np.ndarray) -> dict[str, float]:
        predictions = (logits > 0).astype(int)
        per_label = f1_score(references, predictions, average=None, zero_division=0)
        return {
            "accuracy": accuracy_score(references, predictions),
            "macro_f1": f1_score(references, predictions, average="macro", zero_division=0),
            "micro_f1": f1_score(references, predictions, average="micro", zero_division=0),
            **{f"f1_{name}": value for name, value in zip(self.labels.names, per_label, strict=True)},
            **_ranking_metrics(references, logits),
        }

    def _regression(self, logits: np.ndarray, references: np.ndarray) -> dict[str, float]:
        predictions = logits[:, 0]
        if not np.isfinite(predictions).all():
            return {}
        metrics = {"mse": mean_squared_error(references, predictions)}
        if np.ptp(predictions) > 0 and np.ptp(references) > 0:
            metrics["pearson"] = pearsonr(predictions, references).statistic
            metrics["spearmanr"] = spearmanr(predictions, references).statistic
        return metrics


def build_compute_metrics(labels: LabelMap, task_name: str | None) -> Callable[[EvalPrediction], dict[str, float]]:
    """The `compute_metrics` of a `Trainer`: `TextClassificationMetric` on the logits.

    Models may return more than logits; then `predictions` is a tuple, of which the logits are the first element.
    """
    metric = TextClassificationMetric(labels, task_name)

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        logits = prediction.predictions
        if isinstance(logits, tuple):
            logits = logits[0]
        return metric.compute(predictions=logits, references=prediction.label_ids)

    return compute_metrics


def _ranking_metrics(references: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Mean roc_auc and average_precision over the columns of (examples, labels) in which both classes occur."""
    columns = [index for index, column in enumerate(references.T) if 0 < column.sum() < len(column)]
    if not columns or not np.isfinite(scores).all():
        return {}
    return {
        "roc_auc": roc_auc_score(references[:, columns], scores[:, columns], average="macro"),
        "average_precision": average_precision_score(references[:, columns], scores[:, columns], average="macro"),
    }
