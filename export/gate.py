"""The gate that an int8 file has to pass: what may change between the answers of float32 and of int8.

    gate = Gate(float32_logits, labels, SINGLE_LABEL, names)
    gate.failures(int8_logits)      # [], or for example ["agrees with float32 about rare on 96.10% of the examples"]

Accuracy alone would pass a file that never finds a rare class. The gate therefore also looks at the examples of each
label, at agreement with float32, and at the loss, which says whether the probabilities still fit (calibration).
"""

from dataclasses import dataclass

import numpy as np

from layer_distillation.label_loss import mean_task_loss
from layer_distillation.problem_types import REGRESSION, SINGLE_LABEL
from text_data.answers import answers_of, label_indicators, probabilities_of

# Of the examples of a label that float32 finds, int8 finds at least this share, or all but one.
MIN_RECALL_SHARE = 0.98
# Int8 gives a label to at most this share more examples without it, of those that float32 gives it to, or to one.
MAX_FALSE_SHARE = 0.02
# Of the decisions about a label, int8 makes at least this share as float32 does, or all but one.
MIN_AGREEMENT = 0.98
# The mean loss grows by at most this many nats, and this share of it.
MAX_LOSS_INCREASE, MAX_LOSS_GROWTH = 0.01, 0.05
# Root mean square of the change of a score, in standard deviations of the scores.
MAX_SCORE_CHANGE = 0.1


@dataclass(frozen=True)
class Gate:
    """Compares the logits of an int8 file with those of float32 on the validation split.

    Attributes:
        float32_logits: `(examples, num_labels)`.
        labels: as `label_array` returns them: ids or scores `(examples,)`, or shares `(examples, num_labels)`, NaN
            where a label is unknown.
        problem_type: one of `layer_distillation.problem_types`.
        names: of the labels.
        thresholds: probability from which an example has a label, `(num_labels,)`; for several labels only.
    """

    float32_logits: np.ndarray
    labels: np.ndarray
    problem_type: str
    names: tuple[str, ...]
    thresholds: np.ndarray | None = None

    def failures(self, int8_logits: np.ndarray) -> list[str]:
        """Returns what has changed too much, with the numbers; empty if the file is as good as float32."""
        if not np.isfinite(int8_logits).all():
            return ["answers with numbers that are not finite"]
        measured = self.measure(int8_logits)
        if self.problem_type == REGRESSION:
            change = measured["score_change"]
            return [f"changes scores by {change:.3f} of their deviation"] * (change > MAX_SCORE_CHANGE)
        failures = []
        for name, (found, found_in_int8) in measured["found"].items():
            needed = max(min(np.ceil(MIN_RECALL_SHARE * found), found - 1), min(found, 1))
            if found_in_int8 < needed:
                failures.append(
                    f"finds {found_in_int8} examples of {name} of {found} that float32 finds; {needed:.0f} are needed"
                )
        for name, (flagged, added) in measured["false"].items():
            allowed = max(int(MAX_FALSE_SHARE * flagged), 1)
            if added > allowed:
                failures.append(
                    f"says {name} of {added} further examples without it, beside {flagged} of which float32 says it; "
                    f"{allowed} may be"
                )
        count = len(self.float32_logits)
        for name, agreement in measured["agreement"].items():
            if agreement < min(MIN_AGREEMENT, (count - 1) / count):
                failures.append(f"agrees with float32 about {name} on {agreement:.2%} of the examples")
        loss, int8_loss = measured["loss"]
        if int8_loss > loss + max(MAX_LOSS_INCREASE, MAX_LOSS_GROWTH * loss):
            failures.append(f"has a loss of {int8_loss:.4f}, float32 {loss:.4f}: its probabilities fit worse")
        return failures

    def measure(self, int8_logits: np.ndarray) -> dict:
        """Returns what `metrics.json` says about int8 beside its scores.

        Returns:
            For regression `score_change`, the root mean square of the change in standard deviations of the scores.
            Otherwise for each label `found`, the number of its examples that float32 finds, and that of those which
            int8 finds too; `false`, the number of examples to which float32 gives the label, and that of further
            examples without the label to which int8 gives it; `agreement`, the share of equal decisions. Further
            `loss` of both, and `largest_probability_change`.
        """
        if self.problem_type == REGRESSION:
            change = np.sqrt(np.mean((int8_logits - self.float32_logits) ** 2))
            return {"score_change": float(change / max(self.float32_logits.std(), 1e-12))}
        decided, decided_in_int8 = self._decide(self.float32_logits), self._decide(int8_logits)
        # An example neither has nor lacks a label that is unknown.
        labels = label_indicators(self.labels, self.problem_type, len(self.names))
        found, added = decided & (labels == 1), decided_in_int8 & ~decided & (labels == 0)
        agreement = (decided == decided_in_int8).mean(axis=0)
        before, after = (probabilities_of(part, self.problem_type) for part in (self.float32_logits, int8_logits))
        return {
            "found": self._counts(found, found & decided_in_int8),
            "false": self._counts(decided, added),
            "agreement": dict(zip(self.names, agreement.tolist(), strict=True)),
            "loss": [
                mean_task_loss(logits, self.labels, self.problem_type) for logits in (self.float32_logits, int8_logits)
            ],
            "largest_probability_change": float(np.abs(after - before).max()),
        }

    def _counts(self, *kinds: np.ndarray) -> dict[str, list[int]]:
        """Returns how many examples are of each kind, by label; kinds are bool `(examples, num_labels)`."""
        return dict(zip(self.names, np.stack([kind.sum(axis=0) for kind in kinds], axis=1).tolist(), strict=True))

    def _decide(self, logits: np.ndarray) -> np.ndarray:
        """Returns which labels each example gets, bool `(examples, num_labels)`."""
        if self.problem_type == SINGLE_LABEL:
            return label_indicators(answers_of(logits, SINGLE_LABEL), SINGLE_LABEL, len(self.names)) == 1
        return probabilities_of(logits, self.problem_type) >= self.thresholds
