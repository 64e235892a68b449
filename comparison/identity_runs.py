"""The identity bias of the teacher and of the students of a grid.

texts = read_identity_texts(identity_args)
check_measurable(texts, labels, identity_args)
measured = measure_groups(plans, grid, teacher, texts, identity_args)    # {"teacher": ..., "odd, distilled": ...}
report += identity_section(texts, measured)
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel

from comparison.document import Block, Heading, Table, Text
from comparison.grid import CellPlan, Grid
from comparison.identity_bias import IdentityBias, identity_bias, measurable
from comparison.identity_report import (
    EXPLANATION,
    difference_table,
    identity_table,
    summary_table,
    write_beside_model,
)
from comparison.identity_texts import IdentityArguments, IdentityTexts, toxic_probabilities
from comparison.methods import METHODS
from comparison.results import TEACHER, load_student
from comparison.styles import group_title
from layer_distillation.model_outputs import compute_logits
from text_data.labels import LabelMap
from training.tables import grouped
from training.teacher import Teacher


def check_measurable(texts: IdentityTexts, labels: LabelMap, args: IdentityArguments) -> None:
    """Raises a `UserError`, before hours of training, for what would end in one afterwards."""
    measurable(texts.is_toxic, texts.mentions)
    args.toxic_positions(labels.names)


def measure_groups(
    plans: Sequence[CellPlan], grid: Grid, teacher: Teacher, texts: IdentityTexts, args: IdentityArguments
) -> dict[str, IdentityBias]:
    """Returns the bias of the teacher and of every group of runs, by its title, over the seeds of the group.

    Groups that are no networks with the teacher's tokenizer are left out.

    Each run's own goes into its folder, as `identity_bias.json` and as a section of its model card.
    """
    tokenizer = grid.inputs.tokenizer
    max_length = min(grid.data_args.max_seq_length, tokenizer.model_max_length)
    tokenized = Dataset.from_dict(dict(tokenizer(list(texts.texts), truncation=True, max_length=max_length)))

    def score(models: Iterable[PreTrainedModel]) -> np.ndarray:
        """Returns probabilities of toxic, `(models, texts)`."""
        batch_size, bf16 = grid.training_args.per_device_eval_batch_size, grid.training_args.bf16
        logits = [compute_logits(model, tokenized, grid.inputs.collator, batch_size, bf16) for model in models]
        return toxic_probabilities(np.stack(logits), grid.inputs.data.labels, args)

    def measure(probabilities: np.ndarray, varies: bool = True) -> IdentityBias:
        return identity_bias(texts.is_toxic, probabilities, texts.mentions, varies=varies)

    measured = {group_title(TEACHER): measure(score([teacher.load(grid.training_args.device)]), varies=False)}
    plans = [plan for plan in plans if METHODS[plan.cell.method].reads_teacher_tokens]
    for group, cells in grouped(plans, key=lambda plan: plan.cell.group).items():
        probabilities = score(load_student(plan, grid).to(grid.training_args.device) for plan in cells)
        measured[group_title(group)] = measure(probabilities)
        for plan, of_one in zip(cells, probabilities, strict=True):
            write_beside_model(plan.folder, texts.source, {"checkpoint": measure(of_one[None])})
    return measured


def identity_section(texts: IdentityTexts, measured: Mapping[str, IdentityBias]) -> list[Block]:
    """Returns the section of a report."""
    return [
        Heading("Identity bias"),
        Text(f"{len(texts.texts):,} texts of {texts.source}. {EXPLANATION}"),
        Table(summary_table(measured)),
        Text("Differences from the teacher, in points, each at 95% by itself:"),
        Table(difference_table(measured)),
        Text("Subgroup, BPSN and BNSP AUC and false positives by identity, in per cent:"),
        Table(identity_table(measured)),
    ]
