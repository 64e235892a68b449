"""Identity bias as JSON, as tables, and beside a model.

measured = {"teacher": teacher_bias, "student": student_bias}     # IdentityBias of identity_bias.py, by model
summary_table(measured)
difference_table(measured)                                        # against the first
identity_table(measured)
write_beside_model(folder, "intersectional.csv", {"checkpoint": student_bias, "int8": int8_bias})
"""

import json
from collections.abc import Mapping
from pathlib import Path

from comparison.bootstrap import Interval, Scores, difference, score
from comparison.identity_bias import AUCS, METRICS, MIN_TEXTS, POWER, THRESHOLD, IdentityBias
from training.model_card import CARD_FILE, IDENTITY_SECTION_FILE
from training.tables import markdown_table

FILE = "identity_bias.json"
HEADING = "## Identity bias"
TITLES = {
    "subgroup_auc": "subgroup AUC",
    "bpsn_auc": "BPSN AUC",
    "bnsp_auc": "BNSP AUC",
    "false_positive_rate": "false positives",
    "false_negative_rate": "false negatives",
    "calibration_error": "calibration error",
}
EXPLANATION = (
    f"AUCs are power means over the identities with exponent {POWER}, near the lowest value. Subgroup: among texts "
    "that mention the identity. BPSN: harmless texts that mention it against other toxic ones. BNSP: toxic texts that "
    "mention it against other harmless texts. Error rates and calibration error are means over the identities, at the "
    f"threshold {THRESHOLD:g}; the excess is how far the highest rate of false positives lies above their mean. All "
    "numbers are in per cent, with 95% intervals over the texts."
)


def summary_table(measured: Mapping[str, IdentityBias]) -> list[dict[str, str]]:
    """Returns one row for each model: power means of the AUCs, means of the other metrics."""
    return [{"Model": name, **_summary(bias)} for name, bias in measured.items()]


def _summary(bias: IdentityBias) -> dict[str, str]:
    summaries = {**_compared(bias), "highest excess of false positives": bias.excess("false_positive_rate")}
    return {title: _percent(score(scores)) for title, scores in summaries.items()}


def _compared(bias: IdentityBias) -> dict[str, Scores]:
    return {
        title: bias.power_mean(metric) if metric in AUCS else bias.mean(metric) for metric, title in TITLES.items()
    }


def difference_table(measured: Mapping[str, IdentityBias]) -> list[dict[str, str]]:
    """Returns one row for each model but the first: its summaries minus those of the first, in percentage points."""
    (_, first), *others = measured.items()
    return [
        {
            "Model": name,
            **{title: str(difference(scores, _compared(first)[title])) for title, scores in _compared(bias).items()},
        }
        for name, bias in others
    ]


def identity_table(measured: Mapping[str, IdentityBias]) -> list[dict[str, str]]:
    """Returns one row for each identity: subgroup, BPSN and BNSP AUC and false positives of every model."""
    first = next(iter(measured.values()))
    rows = []
    for name, (toxic, harmless) in first.counts.items():
        row = {"Identity": name, "toxic texts": f"{toxic:,}", "harmless texts": f"{harmless:,}"}
        for model, bias in measured.items():
            values = [100 * bias.identities[name][metric].by_seed.mean() for metric in (*AUCS, "false_positive_rate")]
            row[f"{model}: AUCs; false positives"] = "{:.1f}, {:.1f}, {:.1f}; {:.1f}".format(*values)
        rows.append(row)
    return rows


def _percent(interval: Interval) -> str:
    estimate, low, high = interval.points
    return f"{estimate:.1f} [{low:.1f}, {high:.1f}]"


def to_json(bias: IdentityBias) -> dict:
    """Returns all scores with their intervals, in a form that JSON can hold; values are shares, in [0, 1]."""
    return {
        "threshold": THRESHOLD,
        "power": POWER,
        "power_mean": {metric: _limits(bias.power_mean(metric)) for metric in AUCS},
        "mean": {metric: _limits(bias.mean(metric)) for metric in METRICS},
        "highest_excess": {"false_positive_rate": _limits(bias.excess("false_positive_rate"))},
        "identities": [
            {
                "identity": name,
                "toxic_texts": bias.counts[name][0],
                "harmless_texts": bias.counts[name][1],
                **{metric: _limits(scores) for metric, scores in metrics.items()},
            }
            for name, metrics in bias.identities.items()
        ],
        "left_out": list(bias.left_out),
    }


def _limits(scores: Scores) -> dict[str, float]:
    interval = score(scores)
    return {name: round(getattr(interval, name), 4) for name in ("estimate", "low", "high")}


def write_beside_model(folder: str | Path, source: str, measured: Mapping[str, IdentityBias]) -> None:
    """Writes `identity_bias.json` into the folder of a model, and a section into its model card if it has one.

    The section is a file of its own too, `identity_bias.md`, from which a card that is written later takes it.

    Args:
        source: of the texts.
        measured: by form of the model, such as "checkpoint" and "int8".
    """
    folder, section = Path(folder), _section(source, measured)
    models = [{"model": name, **to_json(bias)} for name, bias in measured.items()]
    (folder / FILE).write_text(json.dumps({"source": source, "models": models}, indent=1) + "\n")
    (folder / IDENTITY_SECTION_FILE).write_text(section)
    card = folder / CARD_FILE
    if card.is_file():
        text, _, _ = card.read_text().partition(f"\n{HEADING}\n")
        card.write_text(f"{text.rstrip()}\n\n{section}")


def _section(source: str, measured: Mapping[str, IdentityBias]) -> str:
    left_out = next(iter(measured.values())).left_out
    few = f"fewer than {MIN_TEXTS} toxic or harmless texts that mention them, or that do not"
    without = f"\n\nLeft out, with {few}: {', '.join(left_out)}."
    return f"""{HEADING}

On {source}. {EXPLANATION}

{markdown_table(summary_table(measured))}

{markdown_table(identity_table(measured))}{without if left_out else ""}
"""
