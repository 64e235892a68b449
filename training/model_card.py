"""The model card of a run."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from layer_distillation.record import RunRecord, StudentRecord
from text_data.arguments import GLUE
from text_data.names import split_names
from text_data.thresholds import THRESHOLDS_FILE, thresholds_table
from training.tables import METRIC_TITLES, format_layers, markdown_table, results_table

CARD_FILE = "README.md"
# A section of the card about the identity bias of the student, which is measured after the run.
IDENTITY_SECTION_FILE = "identity_bias.md"
# How a student was trained, in words and in the Hub's tags, by the `method` of its record.
METHODS = {
    "distill": ("distilled", ["distillation"]),
    "finetune": ("fine-tuned on the labels alone", []),
    "lora": ("trained with LoRA", ["lora"]),
    "lora_distill": ("trained with LoRA and distillation", ["lora", "distillation"]),
}


def write_model_card(output_dir: str | Path, record: RunRecord) -> None:
    """Writes the model card of a finished run to the folder of its student."""
    (Path(output_dir) / CARD_FILE).write_text(model_card(output_dir, record))


def card_was_changed(output_dir: str | Path, record: RunRecord) -> bool:
    """Whether the folder of a student has a model card that is not the one of its record, but changed by hand.

    Thresholds do not count: they may have been changed without the card.
    """
    file = Path(output_dir) / CARD_FILE
    expected = _without_thresholds(model_card(output_dir, record))
    return file.is_file() and _without_thresholds(file.read_text()) != expected


def _without_thresholds(card: str) -> str:
    return re.sub(r"\n## Thresholds\n.*?(?=\n## Training\n)", "", card, flags=re.DOTALL)


def model_card(output_dir: str | Path, record: RunRecord) -> str:
    """Returns the metadata that the Hub reads, the results, and where the student comes from, as Markdown.

    Args:
        output_dir: folder of the student.
        record: of a finished run.
    """
    name, student, data, results = record.name, record.student, record.data, record.student.results
    settings = record.settings
    prefix, split = record.evaluated_on
    _, tags = METHODS[record.method]
    metadata = ModelCardData(
        model_name=name,
        license=settings.get("license"),
        language=list(split_names(settings.get("languages"))) or None,
        datasets=_datasets(settings),
        base_model=student.pretrained["hub_name"] if student.pretrained else record.teacher.hub_name,
        library_name="peft" if student.adapter else "transformers",
        pipeline_tag="text-classification",
        tags=["text-classification", *tags],
        eval_results=[
            EvalResult(
                task_type="text-classification",
                dataset_type=data.source.split()[0],
                dataset_name=data.source,
                dataset_split=split.lower(),
                metric_type=metric,
                metric_value=results[f"{prefix}_{metric}"],
            )
            for metric in METRIC_TITLES
            if f"{prefix}_{metric}" in results
        ],
    )
    # In the form of floating-point numbers, a seed of many digits would be rounded.
    training = "\n".join(
        f"- `{setting}`: {value:g}" if isinstance(value, float) else f"- `{setting}`: {value}"
        for setting, value in {"seed": record.seed, **record.training, **record.loss}.items()
    )
    versions = ", ".join(f"{library} {version}" for library, version in record.libraries.items())
    return f"""---
{metadata.to_yaml()}
---

# {name}

{_origin(record)}{_vocabulary(record)} It predicts
{", ".join(f"`{label}`" for label in data.labels)}.

{_usage(name, student)}

## Results

{results_table(record)}

Losses are those of the labels alone, without the distillation terms. The time is the median of single examples on the
machine that trained the model.
{_adjustment(results)}{_labels(Path(output_dir), results, prefix)}
## Training

{training}

```bash
{record.command}
```

{versions}
{_identity_bias(Path(output_dir))}"""


def _identity_bias(folder: Path) -> str:
    """The section about identity bias, as Markdown; nothing where it was not measured."""
    file = folder / IDENTITY_SECTION_FILE
    return f"\n{file.read_text()}" if file.is_file() else ""


def _datasets(settings: Mapping) -> list[str] | None:
    """The names of the data on the Hub, `None` for files and for local folders."""
    name = GLUE if settings.get("task_name") else settings.get("dataset_name")
    return [name] if name and not Path(name).exists() else None


def _adjustment(results: Mapping[str, float]) -> str:
    """What adjusted logits mean for a reader of the results, as Markdown; nothing where they are as trained."""
    power = results.get("logit_adjustment")
    if power is None:
        return ""
    return f"""
After the training, its logits were adjusted for rare classes: `--logit_adjustment`, t = {power:.2f}. So probabilities
are not calibrated, and scores on the validation split, which t was chosen on, are slightly too high.
"""


def _labels(folder: Path, results: Mapping[str, float], prefix: str) -> str:
    """The thresholds of several labels and what they do, as Markdown; nothing where the student chooses one class."""
    file = folder / THRESHOLDS_FILE
    if not file.is_file():
        return ""
    report = json.loads(file.read_text())
    rows = [
        {**row, "F1 at 0.5": f"{results[score]:.4f}" if (score := f"{prefix}_f1_{row['Label']}") in results else "-"}
        for row in thresholds_table(report)
    ]
    return f"""
## Thresholds

A text has a label if its probability (the sigmoid of its logit) reaches the threshold in `{THRESHOLDS_FILE}`.
`classifier(text, top_k=None)` gives all probabilities; without `top_k` it gives the highest one alone. The
thresholds were chosen by `{report["rule"]}` on the {report["split"]} split, which precision, recall and the share of
flagged texts come from.

{markdown_table(rows)}
"""


def _origin(record: RunRecord) -> str:
    """Where the student comes from, as Markdown."""
    student, teacher, source = record.student, record.teacher.name, record.data.source
    method, tags = METHODS[record.method]
    if student.pretrained:
        is_taught = "distillation" in tags
        other = f"Its teacher is `{teacher}`" if is_taught else f"The results compare it with `{teacher}`"
        return f"""A text classifier of {student.num_layers} layers, started from
`{student.pretrained["name"]}` and {method} on {source}.
{other}, none of whose layers it has."""
    depths = ", ".join(str(stage.num_layers) for stage in student.stages)
    stages = f", through students of {depths} layers" if depths else ""
    neurons = f" Each layer keeps {len(student.neurons[0]):,} of its inner neurons." if student.neurons else ""
    return f"""A text classifier of {student.num_layers} layers, built from `{teacher}` and
{method} on {source}.
Teacher layers that it started from: {format_layers(student.layers)}{stages}; layer 1 is nearest the input.{neurons}"""


def _vocabulary(record: RunRecord) -> str:
    """What is kept of the vocabulary, as Markdown; nothing where it is whole."""
    vocabulary = record.student.vocabulary
    if vocabulary is None:
        return ""
    shares = vocabulary["other_pieces"]
    others = ", ".join(f"{share['texts']:.1%} of the {split} texts" for split, share in shares.items())
    return f"""
It keeps {vocabulary["pieces"]:,} of {vocabulary["pieces_before"]:,} pieces of the vocabulary. The others are spelled
with shorter pieces; {others} have some."""


def _usage(name: str, student: StudentRecord) -> str:
    """How to load the student, as Markdown."""
    if student.adapter is None:
        return f"""```python
from transformers import pipeline

classifier = pipeline("text-classification", model="{name}")
```"""
    size, trained = student.adapter["megabytes"], student.trainable_parameters
    fetch, load = "", f'load_adapter("{name}")'
    if "/" in name:  # on the Hub, where the teacher is not beside it
        fetch = "from huggingface_hub import snapshot_download\n"
        load = f'load_adapter(snapshot_download("{name}"), teacher_name_or_path="...")'
    base = "the checkpoint that it started from" if student.pretrained else "layers of its teacher"
    return f"""The folder holds an adapter of {size:.1f} MB with {trained:,} trained parameters. It belongs on
{base}, so it is loaded with the project that made it:

```python
{fetch}from transformers import pipeline
from lora_adapters.loading import load_adapter

model = {load}.merge_and_unload()
classifier = pipeline("text-classification", model=model, tokenizer="{name}")
```

On any other model the adapter gives wrong answers without an error. `run_lora.py
--merge_adapter` also writes a plain checkpoint, which `transformers` loads alone."""
