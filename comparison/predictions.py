"""The predictions of a run on the reported split, small enough to be committed: every interval can be computed again.

    predictions = Predictions.from_logits(logits, labels, problem_type)
    predictions.write(OUTPUT_DIR / "predictions" / "distill-odd-0.npz")
    Predictions.read(OUTPUT_DIR / "predictions" / "distill-odd-0.npz")      # the same, to the last digit

Probabilities are kept as whole numbers of ten-thousandths. What a report says is computed from them, not from the
logits, so that it follows from the files.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from comparison.metrics import UNKNOWN, Metric, calibration_error
from layer_distillation.problem_types import MULTI_LABEL, REGRESSION
from text_data.answers import answers_of, probabilities_of

STEPS = 10_000


@dataclass(frozen=True)
class Predictions:
    """What a model says about the examples of a split, and what is true.

    Attributes:
        problem_type: as in `config.problem_type`.
        labels: class ids `(examples,)`, for several labels an example 0, 1 or `UNKNOWN` `(examples, labels)`, for
            regression numbers `(examples,)`.
        answers: of the model, in the same form.
        probabilities: `(examples, classes)`; empty for regression.
    """

    problem_type: str
    labels: np.ndarray
    answers: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def from_logits(cls, logits: np.ndarray, labels: np.ndarray, problem_type: str) -> "Predictions":
        """Returns the predictions that logits `(examples, classes)` stand for; unknown labels are NaN."""
        answers = answers_of(logits, problem_type)
        if problem_type == REGRESSION:
            empty = np.empty((len(labels), 0))
            return cls(problem_type, np.asarray(labels, dtype=np.float64), answers.astype(np.float32), empty)
        probabilities = probabilities_of(logits.astype(np.float64), problem_type)
        labels, answers = np.where(np.isnan(labels), UNKNOWN, labels).astype(np.uint16), answers.astype(np.uint16)
        return cls(problem_type, labels, answers, np.round(probabilities * STEPS) / STEPS)

    def outputs_for(self, metric: Metric) -> np.ndarray:
        """Returns what a metric takes beside the labels."""
        return self.probabilities if metric is calibration_error else self.answers

    @property
    def by_confidence(self) -> tuple[np.ndarray, np.ndarray]:
        """Labels `(n,)` and probabilities `(n, classes)` of single decisions: several labels make several of them."""
        if self.problem_type != MULTI_LABEL:
            return self.labels, self.probabilities
        known = self.labels != UNKNOWN
        present = self.probabilities[known]
        return self.labels[known], np.column_stack([1 - present, present])

    def write(self, file: Path) -> None:
        """Writes a compressed npz file; a thousand examples of three classes take about 5 kB."""
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            file,
            problem_type=np.array(self.problem_type),
            labels=self.labels,
            answers=self.answers,
            probabilities=np.round(self.probabilities * STEPS).astype(np.uint16),
        )

    @classmethod
    def read(cls, file: Path) -> "Predictions":
        """Reads what `write` has written."""
        with np.load(file) as arrays:
            return cls(
                str(arrays["problem_type"]), arrays["labels"], arrays["answers"], arrays["probabilities"] / STEPS
            )
