"""Whether a smaller model judges texts that mention an identity worse: teacher, student, LoRA and int8 side by side.

    python -m experiments.identity_bias --identity_file ../shared/data/identity_templates/intersectional.csv \
        --identity_text_column phrase --identity_label_column toxicity \
        --published ../shared/data/identity_templates/perspective_published_auc.csv \
        --model_dirs outputs/toxic_comments-odd/teacher outputs/toxic_comments-odd outputs/lora/merged
    python -m experiments.identity_bias --identity_file civil_comments.parquet --identity_label_column toxicity \
        --identities male female muslim black white --model_dirs student --name civil_comments_bias

Every folder is measured as a checkpoint and, if `run_export.py` has exported it, in int8. All models are compared with
the first. `docs/results/NAME.json` has all scores with intervals, `NAME.md` the tables. Each folder gets its scores as
`identity_bias.json`, and as a section of its model card.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from transformers import HfArgumentParser

from app.models import EXPORT_FOLDERS, Model, load_model
from benchmarks.results import RESULTS
from comparison.identity_bias import AUCS, POWER, IdentityBias, identity_bias
from comparison.identity_report import (
    EXPLANATION,
    TITLES,
    difference_table,
    identity_table,
    summary_table,
    to_json,
    write_beside_model,
)
from comparison.identity_texts import IdentityArguments, IdentityTexts, read_identity_texts
from layer_distillation.errors import UserError
from training.tables import markdown_table

BATCH_SIZE = 64


@dataclass
class StudyArguments:
    """What is measured."""

    model_dirs: list[str] = field(metadata={"help": "Folders of models, as for `python -m app`."})
    published: str | None = field(
        default=None, metadata={"help": "File with the AUCs that Perspective's models reached on the same texts."}
    )
    name: str = field(default="identity_bias", metadata={"help": "Name of the result files."})


def main(argv: Sequence[str] | None = None) -> None:
    identity_args, args = HfArgumentParser((IdentityArguments, StudyArguments)).parse_args_into_dataclasses(argv)
    texts = read_identity_texts(identity_args)
    measured, folders = {}, [Path(folder) for folder in args.model_dirs]
    if len({folder.name for folder in folders}) < len(folders):
        raise UserError("--model_dirs must have names of their own: the tables tell the models apart by them.")
    for folder in folders:
        exported = any((folder / name).is_dir() for name in EXPORT_FOLDERS)
        backends = {"checkpoint": "pytorch"} | ({"int8": "int8"} if exported else {})
        forms = {
            form: _measure(load_model(folder, backend), texts, identity_args) for form, backend in backends.items()
        }
        write_beside_model(folder, texts.source, forms)
        measured |= {f"{folder.name}, {form}": bias for form, bias in forms.items()}
    published = _read_published(args.published) if args.published else {}
    results = {
        "source": texts.source,
        "num_texts": len(texts.texts),
        "models": [{"model": name, **to_json(bias)} for name, bias in measured.items()],
        "published": published,
    }
    report = _report(texts, measured, published)
    (RESULTS / f"{args.name}.json").write_text(json.dumps(results, separators=(",", ":")) + "\n")
    (RESULTS / f"{args.name}.md").write_text(report + "\n", encoding="utf-8")
    print(report)


def _measure(model: Model, texts: IdentityTexts, args: IdentityArguments) -> IdentityBias:
    labels = [model.labels[position] for position in args.toxic_positions(model.labels)]
    join = sum if model.thresholds is None else max  # as `toxic_probabilities`
    toxic = np.empty(len(texts.texts))
    order = sorted(range(len(toxic)), key=lambda i: len(texts.texts[i]))  # batches of similar length
    for start in range(0, len(order), BATCH_SIZE):
        batch = order[start : start + BATCH_SIZE]
        answers = model.classify([texts.texts[i] for i in batch])
        toxic[batch] = [join(answer.scores[label] for label in labels) for answer in answers]
    return identity_bias(texts.is_toxic, toxic[None], texts.mentions)


def _read_published(file: str) -> dict[str, dict[str, dict[str, float]]]:
    """Returns the AUCs by model, then by identity."""
    with open(file, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    models = [column.removesuffix("_bpsn_auc") for column in rows[0] if column.endswith("_bpsn_auc")]
    return {
        model: {row["subgroup"]: {auc: round(float(row[f"{model}_{auc}"]), 4) for auc in AUCS} for row in rows}
        for model in models
    }


def _report(texts: IdentityTexts, measured: dict[str, IdentityBias], published: dict) -> str:
    summaries = [
        *summary_table(measured),
        *(
            {
                "Model": f"Perspective, {model}",
                **{TITLES[auc]: _power_mean([scores[auc] for scores in identities.values()]) for auc in AUCS},
            }
            for model, identities in published.items()
        ),
    ]
    last = next(reversed(published.values()), {})
    rows = identity_table(measured)
    for row in rows:
        if row["Identity"] in last:
            values = [100 * last[row["Identity"]][auc] for auc in AUCS]
            row["Perspective (last model): AUCs"] = "{:.1f}, {:.1f}, {:.1f}".format(*values)
    parts = [f"{len(texts.texts):,} texts of {texts.source}. {EXPLANATION}", markdown_table(summaries)]
    if len(measured) > 1:
        parts += [f"Differences from {next(iter(measured))}, in points:", markdown_table(difference_table(measured))]
    return "\n\n".join([*parts, "Subgroup, BPSN and BNSP AUC by identity:", markdown_table(rows)])


def _power_mean(values: Sequence[float]) -> str:
    return f"{100 * np.mean(np.array(values) ** POWER) ** (1 / POWER):.1f}"


if __name__ == "__main__":
    main()
