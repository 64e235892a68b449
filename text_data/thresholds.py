"""Thresholds: from which probability a text has a label, chosen on the validation split.

    rule = ThresholdRule.parse("recall=0.9")
    report = choose_thresholds(logits, labels, label_map.names, label_map.problem_type, rule)
    report["thresholds"]["toxic"]              # 0.31: finds 90% of the toxic texts, with the highest precision
    report["curves"]["toxic"]["precision"]     # at each of curves["toxic"]["threshold"]

A threshold lies halfway between two probabilities that occur, so that rounding does not change which texts have the
label.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from layer_distillation.errors import UserError
from text_data.answers import label_indicators, probabilities_of

logger = logging.getLogger(__name__)

THRESHOLDS_FILE = "thresholds.json"
F1, RECALL, FLAGGED = "f1", "recall", "flagged"
# Of a label without examples to choose by.
DEFAULT_THRESHOLD = 0.5
# Of a curve that is written, evenly spaced by number of examples, and as many evenly spaced by recall.
CURVE_POINTS = 50


@dataclass(frozen=True)
class ThresholdRule:
    """By what a threshold is chosen.

    Attributes:
        goal: "f1": the best F1. "recall": the highest precision among thresholds with at least this recall. "flagged":
            the lowest threshold that gives the label to at most this share of the texts, or to as few as possible.
        value: the recall or share, in (0, 1]; `None` for "f1".
    """

    goal: str = F1
    value: float | None = None

    @classmethod
    def parse(cls, text: str) -> "ThresholdRule":
        """Reads "f1", "recall=0.9" or "flagged=0.05".

        Raises:
            UserError: it is none of these.
        """
        goal, _, value = text.partition("=")
        try:
            number = float(value) if value else None
        except ValueError:
            number = -1
        if (goal, number) == (F1, None):
            return cls()
        if goal not in (RECALL, FLAGGED) or number is None or not 0 < number <= 1:
            raise UserError(
                f"--threshold_rule must be f1, recall=R or flagged=S with a number in (0, 1], found {text!r}. For "
                "example recall=0.9 finds 90% of the texts that have a label."
            )
        return cls(goal, number)

    def __str__(self) -> str:
        return self.goal if self.value is None else f"{self.goal}={self.value:g}"


@dataclass(frozen=True)
class ThresholdCurve:
    """What each threshold does to a label, in ascending order of the thresholds; arrays of one length.

    Attributes:
        threshold: probabilities; the first one is 0.
        precision: share of the texts with at least this probability that have the label.
        recall: share of the texts with the label that have at least this probability.
        flagged: share of all texts that have at least this probability.
    """

    threshold: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    flagged: np.ndarray

    @classmethod
    def measure(cls, probabilities: np.ndarray, has_label: np.ndarray) -> "ThresholdCurve":
        """Measures every threshold that gives another set of texts, from all to none; the precision of none is 1.

        No threshold leaves out texts with a probability of 1. Where there are some, the last point is theirs.

        Args:
            probabilities: of the label, `(examples,)`.
            has_label: bool, `(examples,)`; at least one is true.
        """
        values, first = np.unique(np.sort(probabilities), return_index=True)
        count = len(probabilities) - first
        hits = np.cumsum(has_label[np.argsort(probabilities, kind="stable")][::-1])[count - 1]
        # Halfway between two neighboring numbers, the mean is rounded and may be the lower one.
        above = np.maximum((values + np.append(values[1:], 1)) / 2, np.nextafter(values, 2))
        threshold = np.append(0, above)
        possible = threshold <= 1
        return cls(
            threshold=threshold[possible],
            precision=np.append(hits / count, 1)[possible],
            recall=np.append(hits / has_label.sum(), 0)[possible],
            flagged=np.append(count / len(probabilities), 0)[possible],
        )

    def best(self, rule: ThresholdRule) -> float:
        """Returns the threshold that the rule chooses; of equally good ones the highest."""
        if rule.goal == FLAGGED:
            # The highest threshold where none flags so few: more texts than that have a probability of 1.
            return float(self.threshold[min((self.flagged > rule.value).sum(), len(self.threshold) - 1)])
        if rule.goal == RECALL:
            score = np.where(self.recall >= rule.value, self.precision, -1)
        else:
            score = 2 * self.precision * self.recall / np.maximum(self.precision + self.recall, 1e-12)
        return float(self.threshold[len(score) - 1 - score[::-1].argmax()])

    def at(self, threshold: float) -> dict[str, float]:
        """Returns precision, recall and share flagged at a threshold."""
        point = np.searchsorted(self.threshold, threshold, side="right") - 1
        return {name: float(getattr(self, name)[point]) for name in ("precision", "recall", "flagged")}

    def to_json(self, chosen: float) -> dict[str, list[float]]:
        """Returns points of the curve: the first, the last and the chosen one, and others between.

        Few examples have a rare label. Where they are lost the recall changes, so points are spaced by recall too.
        """
        by_rank = np.linspace(0, len(self.threshold) - 1, CURVE_POINTS).round().astype(int)
        # The first points at which the recall falls below each level, if it does.
        by_recall = np.searchsorted(-self.recall, -np.linspace(0, 1, CURVE_POINTS + 1)[1:], side="right")
        by_recall = by_recall[by_recall < len(self.threshold)]
        points = np.unique(np.concatenate([by_rank, by_recall, np.flatnonzero(self.threshold == chosen)]))
        return {name: values[points].tolist() for name, values in vars(self).items()}


def choose_thresholds(
    logits: np.ndarray, labels: np.ndarray, names: Sequence[str], problem_type: str, rule: ThresholdRule
) -> dict:
    """Returns what `thresholds.json` holds, for a classifier of one label or several.

    Args:
        logits: `(examples, num_labels)`.
        labels: ids `(examples,)`, or shares of the labels `(examples, num_labels)`, NaN where a label is unknown.
        names: of the labels.
        problem_type: `SINGLE_LABEL` or `MULTI_LABEL` of `layer_distillation.problem_types`.

    Returns:
        `rule`; `thresholds` of the labels; for labels with examples `measured`, which is precision, recall and share
        flagged at the threshold, and `curves`, which is the same for other thresholds.
    """
    probabilities = probabilities_of(logits.astype(float), problem_type)
    indicators = label_indicators(labels, problem_type, len(names))
    report = {"rule": str(rule), "thresholds": {}, "measured": {}, "curves": {}}
    for index, name in enumerate(names):
        known = ~np.isnan(indicators[:, index])
        has_label = indicators[known, index] == 1
        if not has_label.any():
            logger.warning(f"No validation example has the label {name}; its threshold is {DEFAULT_THRESHOLD}.")
            report["thresholds"][name] = DEFAULT_THRESHOLD
            continue
        curve = ThresholdCurve.measure(probabilities[known, index], has_label)
        chosen = curve.best(rule)
        report["thresholds"][name] = chosen
        report["measured"][name] = curve.at(chosen)
        report["curves"][name] = curve.to_json(chosen)
    return report


def read_thresholds(file: Path, names: Sequence[str]) -> dict:
    """Returns what a `thresholds.json` holds, which may have been changed by hand.

    Args:
        names: of the labels.

    Raises:
        UserError: it is no JSON object, or has something else than numbers from 0 to 1 for labels of the model.
    """
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        thresholds = dict(report["thresholds"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f'{file} must be JSON such as {{"thresholds": {{"{names[0]}": 0.5}}}}. Correct it, or remove it to have '
            "thresholds chosen again."
        ) from error
    for name, threshold in thresholds.items():
        if name not in names or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            raise UserError(
                f"{file} must give numbers from 0 to 1 for labels of the model, {', '.join(names)}, found "
                f"{name}: {threshold!r}. Correct it, or remove it to have thresholds chosen again."
            )
    return {**report, "thresholds": thresholds}


def thresholds_table(report: Mapping) -> list[dict[str, str]]:
    """Returns the rows of a table of the labels of a report, by titles of columns."""
    return [
        {
            "Label": name,
            "Threshold": f"{threshold:.3f}",
            **{key.capitalize(): f"{value:.1%}" for key, value in report["measured"].get(name, {}).items()},
        }
        for name, threshold in report["thresholds"].items()
    ]
