"""What the page tells about a model, as HTML: facts from its export, and its thresholds.

The text for all models is in about.html.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from html import escape

from app.cards import in_words, percent
from app.models import Model

CURVES = {"precision": "welcome", "recall": "unwelcome", "flagged": "neutral"}


def describe(model: Model) -> str:
    """Returns facts about a model, from the files of its export."""
    metrics = model.metrics
    facts = {
        "Runs as": model.backend,
        "Labels": ", ".join(map(in_words, model.labels)),
        "Version": model.version or "none given",
        "Fingerprint": model.fingerprint,
    }
    if metrics:
        facts["Trained on"] = metrics["data"]
        facts["Size"] = f"{metrics['layers']} layers, {metrics['parameters'] / 1e6:.1f} million parameters"
        facts["Reads"] = f"the first {model.max_length} tokens of a comment"
        scores = metrics["int8" if "int8" in model.backend else "float32"]
        for split in ("validation", "test"):
            if split in scores:
                facts[f"{split.capitalize()} split"] = (
                    f"accuracy {percent(scores[split]['accuracy'])}, macro-F1 {percent(scores[split]['macro_f1'])}"
                )
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in facts.items()
    )
    return (
        f'<h2>{escape(model.name)}</h2><div class="scroll" tabindex="0"><table><tbody>{rows}</tbody></table></div>'
        f"{_thresholds(model)}"
    )


def _thresholds(model: Model) -> str:
    """Returns the thresholds of a model with several labels, and what others would do on the validation split."""
    if model.thresholds is None:
        return ""
    rows = "".join(
        _threshold_row(label, at, model.threshold_curves.get(label)) for label, at in model.thresholds.items()
    )
    return (
        "<h3>Thresholds</h3><p>A comment has a label if its probability reaches the label's threshold. Precision: how "
        "many of these comments have the label. Recall: how many comments with the label are found. Flagged: how many "
        "of all comments. All were measured on the validation split; the charts show them from threshold 0 to 1.</p>"
        '<div class="scroll" tabindex="0"><table class="thresholds"><thead><tr><th scope="col">Label</th>'
        '<th scope="col">Threshold</th>'
        + "".join(f'<th scope="col" class="{tone}">{name.capitalize()}</th>' for name, tone in CURVES.items())
        + f'<th scope="col">At other thresholds</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _threshold_row(label: str, threshold: float, curve: Mapping[str, Sequence[float]] | None) -> str:
    cells = [f"{threshold:.3f}", *("–" for _ in CURVES), "–"]
    if curve:
        # The curve is a step function, which holds from one of its thresholds to the next.
        point = bisect_right(curve["threshold"], threshold) - 1
        cells = [f"{threshold:.3f}", *(percent(curve[name][point]) for name in CURVES), _chart(threshold, curve)]
    return f'<tr><th scope="row">{escape(in_words(label))}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _chart(threshold: float, curve: Mapping[str, Sequence[float]]) -> str:
    """Returns precision, recall and share flagged by threshold as a drawing 2 wide and 1 high."""
    lines = "".join(
        f'<polyline class="{tone}" points="'
        + " ".join(f"{2 * at:.3f},{1 - value:.3f}" for at, value in zip(curve["threshold"], curve[name], strict=True))
        + '"/>'
        for name, tone in CURVES.items()
    )
    return (
        '<svg class="curves" viewBox="-0.02 -0.02 2.04 1.04" role="img" aria-label="Precision, recall and share '
        f'flagged by threshold">{lines}<line x1="{2 * threshold:.3f}" x2="{2 * threshold:.3f}" y1="0" y2="1"/></svg>'
    )
