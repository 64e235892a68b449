"""Results of runs as people read them: tables and model cards."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from huggingface_hub import EvalResult, ModelCardData

# How a student was trained, in words and in the Hub's tags, by the `method` of its record.
METHODS = {
    "distill": ("distilled", ["distillation"]),
    "finetune": ("fine-tuned on the labels alone", []),
    "lora": ("trained with LoRA", ["lora"]),
    "lora_distill": ("trained with LoRA and distillation", ["lora", "distillation"]),
}
# Columns of the results table for each metric, in order; a run shows those that its task has.
METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "matthews_correlation": "Matthews",
    "pearson": "Pearson",
    "spearmanr": "Spearman",
}


def results_table(record: dict) -> str:
    """Teacher, students of stages if there are any, and student, as a Markdown table that reads well in a terminal.

    Args:
        record: of a finished run, as in `distillation.json`.
    """
    prefix, split = evaluated_on(record)
    teacher, student = record["teacher"], record["student"]
    stages = [(f"stage of {stage['num_layers']}", stage) for stage in student.get("stages", [])]
    rows = []
    for name, model in [("teacher", teacher), *stages, ("student", student)]:
        results = model["results"]
        row = {
            "Model": name,
            "Layers": "none (pretrained)" if "pretrained" in model else format_layers(model["layers"]),
            "Parameters": f"{model['parameters']:,}",
            "Size (MB)": f"{model['megabytes']:.1f}",
            "Training loss": _number(results.get("train_loss_ce")),
            "Validation loss": _number(results.get("eval_loss")),
        }
        for metric, title in METRICS.items():
            if f"{prefix}_{metric}" in results:
                row[f"{split} {title}"] = _number(results[f"{prefix}_{metric}"])
            if f"{prefix}_{metric}_mm" in results:
                row[f"Mismatched {title}"] = _number(results[f"{prefix}_{metric}_mm"])
        row["ms an example"] = f"{model['latency_ms']:.2f}"
        rows.append(row)
    return markdown_table(rows)


def evaluated_on(record: dict) -> tuple[str, str]:
    """Prefix of the metrics to report and name of their split: test where its labels are known, else validation."""
    has_test = "predict_loss" in record["student"]["results"]
    return ("predict", "Test") if has_test else ("eval", "Validation")


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


def write_model_card(output_dir: str | Path, record: dict) -> None:
    """Writes `README.md`: the metadata that the Hub reads, the results, and where the student comes from.

    Args:
        output_dir: folder of the student.
        record: of a finished run, as in `distillation.json`.
    """
    name = record["name"]
    student, data, results = record["student"], record["data"], record["student"]["results"]
    prefix, split = evaluated_on(record)
    _, tags = METHODS[record["method"]]
    metadata = ModelCardData(
        model_name=name,
        base_model=student.get("pretrained", record["teacher"])["hub_name"],
        library_name="peft" if "adapter" in student else "transformers",
        pipeline_tag="text-classification",
        tags=["text-classification", *tags],
        eval_results=[
            EvalResult(
                task_type="text-classification",
                dataset_type=data["source"].split()[0],
                dataset_name=data["source"],
                dataset_split=split.lower(),
                metric_type=metric,
                metric_value=results[f"{prefix}_{metric}"],
            )
            for metric in METRICS
            if f"{prefix}_{metric}" in results
        ],
    )
    settings = {"seed": record["seed"], **record["training"], **record["loss"]}
    settings = "\n".join(
        f"- `{setting}`: {value}" if isinstance(value, str) else f"- `{setting}`: {value:g}"
        for setting, value in settings.items()
    )
    versions = ", ".join(f"{library} {version}" for library, version in record["libraries"].items())
    text = f"""---
{metadata.to_yaml()}
---

# {name}

{_origin(record)} It predicts
{", ".join(f"`{label}`" for label in data["labels"])}.

{_usage(name, student)}

## Results

{results_table(record)}

Losses are those of the labels alone, without the distillation terms. The time is the median of single examples on the
machine that trained the model.

## Training

{settings}

```bash
{record["command"]}
```

{versions}
"""
    (Path(output_dir) / "README.md").write_text(text)


def _origin(record: dict) -> str:
    """Where the student comes from, as Markdown."""
    student, teacher, source = record["student"], record["teacher"]["name"], record["data"]["source"]
    method, _ = METHODS[record["method"]]
    if "pretrained" in student:
        return f"""A text classifier of {student["num_layers"]} layers, started from
`{student["pretrained"]["name"]}` and {method} on {source}.
Its teacher is `{teacher}`, none of whose layers it has."""
    depths = ", ".join(str(stage["num_layers"]) for stage in student.get("stages", []))
    stages = f", through students of {depths} layers" if depths else ""
    return f"""A text classifier of {student["num_layers"]} layers, built from `{teacher}` and
{method} on {source}.
Teacher layers that it started from: {format_layers(student["layers"])}{stages}; layer 1 is nearest the input."""


def _usage(name: str, student: dict) -> str:
    """How to load the student, as Markdown."""
    if "adapter" not in student:
        return f"""```python
from transformers import pipeline

classifier = pipeline("text-classification", model="{name}")
```"""
    size, trained = student["adapter"]["megabytes"], student["trainable_parameters"]
    fetch, load = "", f'load_adapter("{name}")'
    if "/" in name:  # on the Hub, where the teacher is not beside it
        fetch = "from huggingface_hub import snapshot_download\n"
        load = f'load_adapter(snapshot_download("{name}"), teacher_name_or_path="...")'
    return f"""The folder holds an adapter of {size:.1f} MB with {trained:,} trained parameters. It belongs on layers
of its teacher, so it is loaded with the project that made it:

```python
{fetch}from transformers import pipeline
from lora import load_adapter

model = {load}.merge_and_unload()
classifier = pipeline("text-classification", model=model, tokenizer="{name}")
```"""
