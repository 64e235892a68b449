"""Identity bias: whether a classifier judges texts that mention an identity as well as it judges other texts.

    mentions = {"gay": np.array([...]), "old": np.array([...])}     # whether each text mentions it, `(texts,)`
    bias = identity_bias(is_toxic, probabilities, mentions)         # probabilities of "toxic", `(seeds, texts)`
    score(bias.identities["gay"]["bpsn_auc"])                       # an interval
    difference(student.power_mean("bpsn_auc"), teacher.power_mean("bpsn_auc"))

Each identity has three AUCs (Borkan et al. 2019, "Nuanced Metrics for Measuring Unintended Bias with Real Data for
Text Classification", https://arxiv.org/abs/1903.04561):

- subgroup: among the texts that mention it.
- BPSN, background positive and subgroup negative: harmless texts that mention it against toxic texts that do not. A
  low value means that the mention alone makes a text look toxic.
- BNSP, background negative and subgroup positive: toxic texts that mention it against harmless texts that do not. A
  low value means that the mention makes toxic texts look harmless.

The paper sums up the identities by the power mean with the exponent -5, which is near the lowest value.

All scores of one set of texts are resampled together, so that differences between models are paired
(`bootstrap.py`). Texts that one template made are drawn as if they were independent: read intervals on templates as
too narrow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from comparison.bootstrap import Scores, draw
from comparison.metrics import calibration_error
from layer_distillation.errors import UserError

AUCS = ("subgroup_auc", "bpsn_auc", "bnsp_auc")
METRICS = (*AUCS, "false_positive_rate", "false_negative_rate", "calibration_error")
POWER = -5
THRESHOLD = 0.5
# An identity with fewer texts of one of these kinds is left out: its AUCs, which compare them, would say nothing.
MIN_TEXTS = 20
KINDS = (
    *("toxic texts that mention it", "harmless texts that mention it"),
    *("toxic texts that do not mention it", "harmless texts that do not mention it"),
)


@dataclass(frozen=True)
class IdentityBias:
    """The scores of one model, or of the runs of all seeds of one recipe.

    Attributes:
        identities: by identity, then by metric (`METRICS`).
        counts: by identity the numbers of toxic and of harmless texts that mention it.
        left_out: identities with fewer than `MIN_TEXTS` texts of one of the `KINDS`.
    """

    identities: Mapping[str, Mapping[str, Scores]]
    counts: Mapping[str, tuple[int, int]]
    left_out: Sequence[str]

    def mean(self, metric: str) -> Scores:
        """Returns the mean of a metric over the identities."""
        return self._over_identities(metric, lambda values: values.mean(axis=0))

    def power_mean(self, metric: str) -> Scores:
        """Returns the power mean of a metric over the identities; 0 if one of them has 0."""
        with np.errstate(divide="ignore"):
            return self._over_identities(metric, lambda values: (values**POWER).mean(axis=0) ** (1 / POWER))

    def excess(self, metric: str) -> Scores:
        """Returns the highest value of any identity minus the mean over the identities."""
        return self._over_identities(metric, lambda values: values.max(axis=0) - values.mean(axis=0))

    def _over_identities(self, metric, summarize) -> Scores:
        scores = [metrics[metric] for metrics in self.identities.values()]
        return Scores(
            by_seed=summarize(np.stack([each.by_seed for each in scores])),
            resampled=summarize(np.stack([each.resampled for each in scores])),
            varies=scores[0].varies,
        )


def identity_bias(
    is_toxic: np.ndarray,
    probabilities: np.ndarray,
    mentions: Mapping[str, np.ndarray],
    num_resamples: int = 200,
    seed: int = 0,
    varies: bool = True,
) -> IdentityBias:
    """Scores a model, or the runs of all seeds of one recipe, for every identity.

    Args:
        is_toxic: `(texts,)`, booleans.
        probabilities: of being toxic, `(seeds, texts)`.
        mentions: by identity whether a text mentions it, `(texts,)`, booleans.
        num_resamples: of the bootstrap; a standard deviation over 200 is known to about 5%.
        seed: of the resampling; scores of two models are paired if all but `probabilities` is the same.
        varies: as in `Scores`.

    Raises:
        UserError: as `measurable`.
    """
    kept = measurable(is_toxic, mentions)
    # The first row is every text once: the scores themselves.
    draws = np.concatenate([np.ones((1, len(is_toxic)), np.uint8), draw(len(is_toxic), num_resamples, seed)])
    models = [_metrics_by_identity(is_toxic, row, [mentions[name] for name in kept], draws) for row in probabilities]
    values = np.stack(models, axis=-1)  # (identities, metrics, 1 + resamples, seeds)
    return IdentityBias(
        identities={
            name: {metric: Scores(rows[0], rows[1:], varies) for metric, rows in zip(METRICS, metrics, strict=True)}
            for name, metrics in zip(kept, values, strict=True)
        },
        counts={name: _counts(is_toxic, mentions[name]) for name in kept},
        left_out=[name for name in mentions if name not in kept],
    )


def measurable(is_toxic: np.ndarray, mentions: Mapping[str, np.ndarray]) -> list[str]:
    """Returns the identities with enough toxic and enough harmless texts that mention them, and that do not.

    Raises:
        UserError: there is none.
    """
    rarest = {name: _rarest(is_toxic, of) for name, of in mentions.items()}
    names = [name for name, (number, _) in rarest.items() if number >= MIN_TEXTS]
    if not names:
        number, kind = max(rarest.values(), default=(0, "texts"))
        raise UserError(
            f"Identity bias needs {MIN_TEXTS} toxic and {MIN_TEXTS} harmless texts that mention an identity, and as "
            f"many that do not, but the best of {len(rarest)} identities has {number} {kind}. Add such texts to "
            "--identity_file, or name other --identities."
        )
    return names


def _rarest(is_toxic: np.ndarray, mentioned: np.ndarray) -> tuple[int, str]:
    """Returns which of the `KINDS` has the fewest texts, after their number."""
    return min(zip(_counts(is_toxic, mentioned) + _counts(is_toxic, ~mentioned), KINDS, strict=True))


def _counts(is_toxic: np.ndarray, mentioned: np.ndarray) -> tuple[int, int]:
    return int((is_toxic & mentioned).sum()), int((~is_toxic & mentioned).sum())


def _metrics_by_identity(
    is_toxic: np.ndarray, probabilities: np.ndarray, mentions: Sequence[np.ndarray], draws: np.ndarray
) -> np.ndarray:
    """Returns every metric of one model on every resample: `(identities, metrics, resamples)`.

    Args:
        is_toxic: `(texts,)`, booleans.
        probabilities: `(texts,)`.
        mentions: of each identity, `(texts,)`, booleans.
        draws: how often each text counts, `(resamples, texts)`.
    """
    toxic_below, harmless_below = _below(probabilities, draws * is_toxic), _below(probabilities, draws * ~is_toxic)
    toxic_total = (draws @ is_toxic.astype(np.float64))[:, None]
    harmless_total = (draws @ (~is_toxic).astype(np.float64))[:, None]
    return np.stack(
        [
            _metrics(
                _Texts(is_toxic[of], probabilities[of], draws[:, of]),
                _Background(toxic_below[:, of], harmless_below[:, of], toxic_total, harmless_total),
            )
            for of in mentions
        ]
    )


def _below(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns for each example the weight of all examples with lower scores, and half of that with the same score.

    Args:
        scores: `(examples,)`.
        weights: `(samples, examples)`.

    Returns:
        `(samples, examples)`.
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # of each group of equal scores
    groups = np.add.reduceat(weights[:, order], starts, axis=1, dtype=np.float64)
    below = np.cumsum(groups, axis=1) - groups / 2
    return below[:, np.searchsorted(scores[order][starts], scores)]


@dataclass(frozen=True)
class _Texts:
    """The texts that mention an identity: `(texts,)`, `(texts,)` and `(resamples, texts)`."""

    is_toxic: np.ndarray
    probabilities: np.ndarray
    draws: np.ndarray


@dataclass(frozen=True)
class _Background:
    """All texts: how many toxic and harmless ones score below each text that mentions the identity, and in total."""

    toxic_below: np.ndarray
    harmless_below: np.ndarray
    toxic_total: np.ndarray
    harmless_total: np.ndarray


def _metrics(texts: _Texts, everything: _Background) -> np.ndarray:
    """Returns every metric of one model and one identity on every resample: `(metrics, resamples)`."""
    toxic, harmless = texts.draws * texts.is_toxic, texts.draws * ~texts.is_toxic
    toxic_below, harmless_below = _below(texts.probabilities, toxic), _below(texts.probabilities, harmless)
    num_toxic, num_harmless = (counts.sum(axis=1, keepdims=True, dtype=np.float64) for counts in (toxic, harmless))
    # All texts without those that mention the identity.
    num_other_toxic, num_other_harmless = everything.toxic_total - num_toxic, everything.harmless_total - num_harmless
    other_toxic_above = num_other_toxic - (everything.toxic_below - toxic_below)
    other_harmless_below = everything.harmless_below - harmless_below
    predicted = texts.probabilities > THRESHOLD
    return np.stack(
        [
            (toxic / num_toxic * harmless_below / num_harmless).sum(axis=1),
            (harmless / num_harmless * other_toxic_above / num_other_toxic).sum(axis=1),
            (toxic / num_toxic * other_harmless_below / num_other_harmless).sum(axis=1),
            (harmless / num_harmless) @ predicted,
            (toxic / num_toxic) @ ~predicted,
            _calibration_errors(texts),
        ]
    )


def _calibration_errors(texts: _Texts) -> np.ndarray:
    """Returns the calibration error on every resample."""
    by_class = np.column_stack([1 - texts.probabilities, texts.probabilities])
    return calibration_error.score(texts.draws @ calibration_error.statistics(texts.is_toxic, by_class))
