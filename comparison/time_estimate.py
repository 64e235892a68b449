"""What a comparison is going to do, and how long it will take.

print(describe_plan(plans, states, estimate_seconds(plans, states, grid, teacher)))
"""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from statistics import mean
from time import perf_counter

from transformers import PreTrainedModel, PrinterCallback, TrainerCallback

from comparison.arguments import Cell
from comparison.grid import CellPlan, Grid
from comparison.methods import METHODS, RIVAL
from distill_trainer import DistillationTrainer
from layer_distillation.arguments import ONLY_TRAIN
from layer_distillation.record import RunRecord
from lora_adapters.adapters import add_lora
from training.checkpoints import load_for_labels
from training.run import num_steps
from training.student import stand_in
from training.tables import grouped, markdown_table

# Optimizer steps and examples from which the time is estimated.
PROBE_STEPS = 6
PROBE_EXAMPLES = 128


class StepClock(TrainerCallback):
    """Keeps when each optimizer step ended."""

    def __init__(self):
        self.ends = []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(perf_counter())

    def seconds_per_step(self) -> float:
        """Returns the mean over all steps but the first, in which libraries prepare what they need for all."""
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)


def describe_plan(plans: Sequence[CellPlan], states: Mapping[Cell, str], seconds: Mapping[Cell, float]) -> str:
    """Returns the plan as a table, with the time that the unfinished cells will take together."""
    rows = [
        {
            "Run": plan.cell.name,
            "Folder": str(plan.folder),
            "State": states[plan.cell],
            "Minutes": f"{seconds[plan.cell] / 60:.1f}" if plan.cell in seconds else "-",
        }
        for plan in plans
    ]
    total, todo = sum(seconds.values()) / 60, sum(state != "finished" for state in states.values())
    return (
        f"{markdown_table(rows)}\n\n{todo} of {len(plans)} runs to do, about {total:.0f} minutes "
        "in one process, and the teacher's fine-tuning where it has to be done."
    )


def estimate_seconds(
    plans: Sequence[CellPlan], states: Mapping[Cell, str], grid: Grid, teacher: PreTrainedModel
) -> dict[Cell, float]:
    """Returns the seconds of each unfinished cell: as finished cells of its kind took, else from a few steps.

    The methods of scikit-learn have no estimate: they take moments, or for the linear probe one pass over the data.

    Args:
        teacher: of the architecture that the teacher will have; its weights do not matter.
    """
    estimates = {}
    networks = [plan for plan in plans if not METHODS[plan.cell.method].is_classical]
    kinds = grouped(networks, key=_kind)
    for kind in kinds.values():
        waiting = [plan.cell for plan in kind if states[plan.cell] != "finished"]
        if waiting:
            times = [_recorded_seconds(plan) for plan in kind if states[plan.cell] == "finished"]
            seconds = mean(times) if times else _probe(kind[0], grid, teacher)
            search = grid.comparison_args.search_budget
            estimates |= {cell: seconds * (1 + search * (cell.strategy == "search")) for cell in waiting}
    return estimates


def _kind(plan: CellPlan) -> tuple[bool, bool, bool]:
    """Returns what tells apart cells that take different times."""
    method = METHODS[plan.cell.method]
    return plan.lora_args is not None, method.all_layers, method.checkpoint == RIVAL


def _recorded_seconds(plan: CellPlan) -> float:
    results = RunRecord.read(plan.folder).student.results
    return sum(results.get(f"{stage}_runtime", 0.0) for stage in ("train", "eval", "predict"))


def _probe(plan: CellPlan, grid: Grid, teacher: PreTrainedModel) -> float:
    """Trains and evaluates a student for a moment, and returns how long the whole run would take.

    The labels' loss stands for all losses: the teacher's outputs are stored, and comparing with them costs little.
    """
    args, method, inputs = plan.training_args, METHODS[plan.cell.method], grid.inputs_of(plan.cell.method)
    train_dataset = inputs.tokenized["train"].shuffle(seed=0, keep_in_memory=True)
    number = min(len(train_dataset), PROBE_STEPS * args.train_batch_size * args.gradient_accumulation_steps)
    if method.checkpoint == RIVAL:
        student, _ = load_for_labels(grid.rival_path, inputs.data.labels, args.seed)
    else:
        student = copy.deepcopy(teacher) if method.all_layers else stand_in(teacher, plan.student_args)[0]
    if plan.lora_args is not None:
        student = add_lora(student, plan.lora_args, train_dataset, inputs.collator)
    evaluated = inputs.validation
    sample = evaluated.select(range(min(PROBE_EXAMPLES, len(evaluated))), keep_in_memory=True)
    clock = StepClock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = DistillationTrainer(
            model=student,
            args=args.for_labels_alone().derived(output_dir=folder, max_steps=PROBE_STEPS, report_to=[], **ONLY_TRAIN),
            train_dataset=train_dataset.select(range(number), keep_in_memory=True),
            data_collator=inputs.collator,
            processing_class=inputs.tokenizer,
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        example = trainer.evaluate(sample)["eval_runtime"] / len(sample)
    steps = num_steps(args, len(inputs.tokenized["train"]))
    evaluations = 2 + (args.num_train_epochs if args.eval_strategy == "epoch" else 0)
    return steps * clock.seconds_per_step() + evaluations * example * len(evaluated)
