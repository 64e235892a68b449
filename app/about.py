"""What the page tells about a model, as HTML: facts from its export, its thresholds, and its identity bias.

The text for all models is in about.html.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from html import escape

from app.cards import in_words, percent
from app.models import Model

MAX_IDENTITIES = 10
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
        at = "" if model.thresholds is None else " (each label from 50 % on)"
        for split in ("validation", "test"):
            if split in scores:
                facts[f"{split.capitalize()} split"] = (
                    f"accuracy {percent(scores[split]['accuracy'])}, macro-F1 {percent(scores[split]['macro_f1'])}{at}"
                )
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in facts.items()
    )
    return (
        f'<h2>{escape(model.name)}</h2><div class="scroll" tabindex="0"><table><tbody>{rows}</tbody></table></div>'
        f"{_thresholds(model)}{_identity_bias(model)}"
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
        # A long curve is thinned out to some of its points, among them the threshold unless it was changed by hand.
        point = bisect_right(curve["threshold"], threshold) - 1
        about = "" if curve["threshold"][point] == threshold else "about "
        values = (f"{about}{percent(curve[name][point])}" for name in CURVES)
        cells = [f"{threshold:.3f}", *values, _chart(threshold, curve)]
    return f'<tr><th scope="row">{escape(in_words(label))}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _chart(threshold: float, curve: Mapping[str, Sequence[float]]) -> str:
    """Returns precision, recall and share flagged by threshold as a drawing 2 wide and 1 high."""
    lines = ""
    for name, tone in CURVES.items():
        points = zip(curve["threshold"], curve[name], curve["flagged"], strict=True)
        # Where nothing is flagged there is no precision.
        drawn = (f"{2 * at:.3f},{1 - value:.3f}" for at, value, flagged in points if flagged or name != "precision")
        lines += f'<polyline class="{tone}" points="{" ".join(drawn)}"/>'
    return (
        '<svg class="curves" viewBox="-0.02 -0.02 2.04 1.04" role="img" aria-label="Precision, recall and share '
        f'flagged by threshold">{lines}<line x1="{2 * threshold:.3f}" x2="{2 * threshold:.3f}" y1="0" y2="1"/></svg>'
    )


def _identity_bias(model: Model) -> str:
    """Returns how the model judges texts that mention identities, as far as it was measured."""
    if not model.identity_bias:
        return ""
    # The file has the checkpoint, and int8 if there was an export.
    forms = {entry["model"]: entry for entry in model.identity_bias["models"]}
    measured = forms.get("int8" if "int8" in model.backend else "checkpoint") or next(iter(forms.values()))
    mean = {name: interval["estimate"] for name, interval in measured["mean"].items()}
    called_toxic = [row for row in measured["identities"] if row["false_positive_rate"]["estimate"] > 0]
    worst_first = sorted(called_toxic, key=lambda row: -row["false_positive_rate"]["estimate"])
    said = (
        f"<h3>Identity bias</h3><p>On {escape(model.identity_bias['source'])}, {percent(mean['false_positive_rate'])} "
        "of the harmless texts that mention an identity are called toxic, on average over "
        f"{len(measured['identities'])} identities. "
    )
    if not worst_first:
        return f"{said}There are none.</p>"
    rows = "".join(
        f'<tr><th scope="row">{escape(row["identity"])}</th><td>{row["harmless_texts"]:,}</td>'
        f"<td>{_interval(row['false_positive_rate'])}</td><td>{_interval(row['bpsn_auc'])}</td></tr>"
        for row in worst_first[:MAX_IDENTITIES]
    )
    return (
        f"{said}{len(worst_first)} of them have such texts; the table has the worst. BPSN AUC: how well "
        "harmless texts with the identity are told from toxic texts without it; 100 % is best. Brackets are 95 % "
        "intervals.</p>"
        '<div class="scroll" tabindex="0"><table><thead><tr><th scope="col">Identity</th>'
        '<th scope="col">Harmless texts</th><th scope="col">Called toxic</th><th scope="col">BPSN AUC</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _interval(interval: Mapping[str, float]) -> str:
    return f"{percent(interval['estimate'])} [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"
