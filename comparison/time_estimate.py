"""What a comparison is going to do, and how long it will take.

print(describe_plan(runs, states, estimate_seconds(runs, states, grid, teacher)))
"""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from statistics import mean

from transformers import PreTrainedModel, PrinterCallback

from comparison.arguments import Cell
from comparison.grid import CellRun, Grid
from distill_trainer import DistillationTrainer
from layer_distillation.record import read_record
from lora_adapters.adapters import add_lora
from training.run import num_steps
from training.student import stand_in
from training.tables import markdown_table

# Optimizer steps and examples from which the time is estimated.
PROBE_STEPS = 6
PROBE_EXAMPLES = 128


def describe_plan(runs: Sequence[CellRun], states: Mapping[Cell, str], seconds: Mapping[Cell, float]) -> str:
    """The plan as a table, with the time that the unfinished cells will take together."""
    rows = [
        {
            "Run": run.cell.name,
            "Folder": str(run.folder),
            "State": states[run.cell],
            "Minutes": f"{seconds[run.cell] / 60:.1f}" if run.cell in seconds else "-",
        }
        for run in runs
    ]
    total = sum(seconds.values()) / 60
    return (
        f"{markdown_table(rows)}\n\n{len(seconds)} of {len(runs)} runs to do, about {total:.0f} minutes, "
        "and the teacher's fine-tuning where it has to be done."
    )


def estimate_seconds(
    runs: Sequence[CellRun], states: Mapping[Cell, str], grid: Grid, teacher: PreTrainedModel
) -> dict:
    """Seconds that each unfinished cell will take: as long as finished ones of its kind, else from a few steps."""
    estimates = {}
    for with_lora in (False, True):
        kind = [run for run in runs if (run.lora_args is not None) == with_lora]
        waiting = [run.cell for run in kind if states[run.cell] != "finished"]
        if waiting:
            times = [_recorded_seconds(run) for run in kind if states[run.cell] == "finished"]
            seconds = mean(times) if times else _probe(kind[0], grid, teacher)
            search = grid.comparison_args.search_budget
            estimates |= {cell: seconds * (1 + search * (cell.strategy == "search")) for cell in waiting}
    return estimates


def _recorded_seconds(run: CellRun) -> float:
    results = read_record(run.folder)["student"]["results"]
    return sum(results.get(f"{stage}_runtime", 0.0) for stage in ("train", "eval", "predict"))


def _probe(run: CellRun, grid: Grid, teacher: PreTrainedModel) -> float:
    """Trains and evaluates a student for a moment, and says how long the whole run would take.

    The labels' loss stands for all: the teacher's outputs are stored, and their losses cost next to nothing.
    """
    args = copy.copy(run.training_args)
    args.learn_from_labels_alone()
    args.only_train()
    args.max_steps, args.report_to = PROBE_STEPS, []
    inputs = grid.inputs
    train_dataset = inputs.tokenized["train"].shuffle(seed=0, keep_in_memory=True)
    number = min(len(train_dataset), PROBE_STEPS * args.train_batch_size * args.gradient_accumulation_steps)
    student = stand_in(teacher, run.student_args)
    if run.lora_args is not None:
        student = add_lora(student, run.lora_args, train_dataset, inputs.collator)
    evaluated = inputs.tokenized[inputs.data.validation_splits[0]]
    sample = evaluated.select(range(min(PROBE_EXAMPLES, len(evaluated))), keep_in_memory=True)
    with tempfile.TemporaryDirectory() as folder:
        args.output_dir = folder
        trainer = DistillationTrainer(
            model=student,
            args=args,
            train_dataset=train_dataset.select(range(number), keep_in_memory=True),
            data_collator=inputs.collator,
            processing_class=inputs.tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        step = trainer.train().metrics["train_runtime"] / PROBE_STEPS
        example = trainer.evaluate(sample)["eval_runtime"] / len(sample)
    steps = num_steps(run.training_args, len(inputs.tokenized["train"]))
    evaluations = 2 + (run.training_args.num_train_epochs if run.training_args.eval_strategy == "epoch" else 0)
    return steps * step + evaluations * example * len(evaluated)
