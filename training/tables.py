"""Tables of results as people read them."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from statistics import mean, stdev

from layer_distillation.record import RunRecord
from training.evaluation import TRAINING_LOSS

# Metrics that tables and model cards show, in order, as far as a task has them.
METRIC_TITLES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "matthews_correlation": "Matthews",
    "pearson": "Pearson",
    "spearmanr": "Spearman",
}


def results_table(record: RunRecord) -> str:
    """Returns teacher, students of stages and student of a finished run as a Markdown table, padded for a terminal."""
    prefix, split = record.evaluated_on
    stages = [(f"stage of {stage.num_layers}", stage) for stage in record.student.stages]
    models = [("teacher", record.teacher), *stages, ("student", record.student)]
    scored = {metric for _, model in models for metric in model.results}  # a correlation may be undefined for some
    rows = []
    for name, model in models:
        is_pretrained = model is record.student and record.student.pretrained is not None
        row = {
            "Model": name,
            "Layers": "none (pretrained)" if is_pretrained else format_layers(model.layers),
            "Parameters": f"{model.parameters:,}",
            "Size (MB)": f"{model.megabytes:.1f}",
            "Training loss": _number(model.results.get(TRAINING_LOSS)),
            "Validation loss": _number(model.results.get("eval_loss")),
        }
        for metric, title in METRIC_TITLES.items():
            for key, of_split in ((f"{prefix}_{metric}", split), (f"{prefix}_{metric}_mm", "Mismatched")):
                if key in scored:
                    row[f"{of_split} {title}"] = _number(model.results.get(key))
        row["ms an example"] = f"{model.latency_ms:.2f}"
        rows.append(row)
    return markdown_table(rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def markdown_table(rows: Sequence[dict[str, str]]) -> str:
    """A padded Markdown table with the columns of all rows, `-` where a row lacks one."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, *([row.get(column, "-") for column in columns] for row in rows)]
    lines = [[cell.replace("|", r"\|") for cell in line] for line in lines]  # names of labels may hold one
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def spread(values: Sequence[float | None], digits: int) -> str:
    """Mean ± standard deviation; the mean alone of one value, `-` where one is missing."""
    if None in values:
        return "-"
    text = f"{mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {stdev(values):.{digits}f}"


def format_layers(layers: Sequence[int]) -> str:
    """`(2, 4, 6)` as `2,4,6`; no layers as `none (random)`."""
    return ",".join(map(str, layers)) or "none (random)"


def grouped(items: Iterable, key: Callable[..., Hashable]) -> dict[Hashable, list]:
    """Returns the items by their keys, in the order of first appearance."""
    groups = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
