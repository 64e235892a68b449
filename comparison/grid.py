"""A grid of runs: layer strategies x methods x seeds, with one teacher and one tokenised data set for all of them.

    cells = plan_cells(comparison_args)
    runs = [prepare_cell(cell, grid) for cell in cells]     # each with its own arguments and folder
    failures = run_grid(runs, grid, teacher)                # what run_distillation.py and run_lora.py do, for each

A cell is an ordinary run: its folder OUTPUT_DIR/runs/METHOD-STRATEGY-SEED has a record, a model card and the student,
and an interrupted one continues from its last checkpoint.
"""

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import datasets
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback
from transformers.utils.logging import disable_progress_bar

from comparison.arguments import LORA_METHODS, Cell, ComparisonArguments
from layer_distillation.arguments import WEIGHTS, DistillationTrainingArguments
from layer_distillation.errors import UserError
from lora_adapters.adapters import add_lora, target_modules
from lora_adapters.arguments import LoraArguments
from text_data.arguments import DataArguments
from training.arguments import StudentArguments, TeacherArguments
from training.inputs import Inputs
from training.lora import finish_adapter
from training.output_folder import earlier_records, remove_checkpoints
from training.run import begin_run, build_trainer, new_record, num_steps, train_and_finish
from training.student import check_student, start_student
from training.teacher import Teacher

logger = logging.getLogger(__name__)

# Settings of a cell that are recorded also where they are at their default.
DECIDED_BY_GRID = (
    *("layer_strategy", "num_student_layers", "seed", "learning_rate"),
    *(*WEIGHTS, "temperature", "linear_to"),
)


@dataclass(frozen=True)
class Grid:
    """What all cells share: the arguments as they were given, where they came from, and the data."""

    teacher_args: TeacherArguments
    data_args: DataArguments
    lora_args: LoraArguments
    comparison_args: ComparisonArguments
    training_args: DistillationTrainingArguments
    sources: Mapping[str, str]
    inputs: Inputs

    @property
    def folder(self) -> Path:
        return Path(self.training_args.output_dir)


@dataclass(frozen=True)
class CellRun:
    """A cell with its own arguments.

    Attributes:
        lora_args: `None` where all weights are trained.
        sources: of the settings that decide what the cell makes.
    """

    cell: Cell
    student_args: StudentArguments
    lora_args: LoraArguments | None
    training_args: DistillationTrainingArguments
    arguments: tuple
    sources: Mapping[str, str]

    @property
    def folder(self) -> Path:
        return Path(self.training_args.output_dir)


def prepare_cell(cell: Cell, grid: Grid) -> CellRun:
    """The arguments of a cell: those of the grid, with what the cell's method, strategy and seed change."""
    comparison_args = grid.comparison_args
    training_args = copy.copy(grid.training_args)
    training_args.output_dir = str(grid.folder / "runs" / cell.name)
    training_args.seed = cell.seed
    training_args.disable_tqdm, training_args.resume_from_checkpoint = True, None
    training_args.do_train = training_args.do_eval = training_args.do_predict = True
    if cell.method in ("finetune", "lora"):
        training_args.learn_from_labels_alone()
    lora_args = grid.lora_args if cell.method in LORA_METHODS else None
    if lora_args is not None:
        training_args.learning_rate = comparison_args.lora_learning_rate
    student_args = comparison_args.student(cell.strategy)

    arguments = (grid.teacher_args, student_args, grid.data_args, *([lora_args] if lora_args else []), training_args)
    known = {item.name for instance in arguments for item in fields(instance)}
    without_effect = ("output_dir",) if cell.strategy == "search" else ("output_dir", "search_budget")
    sources = {name: source for name, source in grid.sources.items() if name in known and name not in without_effect}
    sources |= dict.fromkeys(DECIDED_BY_GRID, "the grid")
    return CellRun(cell, student_args, lora_args, training_args, arguments, sources)


def state_of(run: CellRun, grid: Grid, teacher_fingerprint: str | None = None) -> str:
    """Whether a cell is "finished", "interrupted" or "new".

    Args:
        teacher_fingerprint: of the teacher that the grid's students are built from, once it is known.

    Raises:
        UserError: its folder holds a run with other settings, other data or another teacher.
    """
    record = new_record(run.arguments, run.sources, grid.inputs, run.training_args)
    finished, unfinished = earlier_records(run.folder, record)
    if unfinished is not None or finished is None:
        return "new" if unfinished is None else "interrupted"
    if teacher_fingerprint not in (None, finished["teacher"]["fingerprint"]):
        raise UserError(
            f"{run.folder} holds a student of another teacher than the one in use now. Choose another --output_dir, "
            "or remove that folder."
        )
    return "finished"


def check_grid(grid: Grid, teacher: PreTrainedModel) -> None:
    """Raises a `UserError` for what no cell of the grid could do."""
    labels, args = grid.inputs.data.labels, grid.training_args
    if labels.problem_type != "single_label_classification":
        raise UserError(
            f"Comparisons are of classifiers with one label an example, but found {labels.problem_type}. Train such "
            "students one by one with run_distillation.py."
        )
    if args.world_size > 1 or args.push_to_hub:
        raise UserError(
            "A comparison runs in one process and uploads nothing. Start it without a launcher and without "
            "--push_to_hub; a single student can be trained on several GPUs and pushed with run_distillation.py."
        )
    if "labels" not in grid.inputs.tokenized["train"].column_names:
        raise UserError(
            "A comparison trains with labels, but the training examples have none. Distil on texts without labels "
            "with run_distillation.py."
        )
    for strategy in dict.fromkeys((*grid.comparison_args.strategies, *grid.comparison_args.method_strategies)):
        check_student(teacher, grid.comparison_args.student(strategy), grid.teacher_args, args, grid.inputs)
    if any(method in LORA_METHODS for method in grid.comparison_args.methods):
        target_modules(teacher, grid.lora_args.lora_target_modules)


class _StepsOnBar(TrainerCallback):
    """Moves the grid's bar by every optimizer step."""

    def __init__(self, bar: tqdm):
        self.bar = bar

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar.update(state.global_step)  # those before the checkpoint of an interrupted run

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update()


def run_grid(runs: Sequence[CellRun], grid: Grid, teacher: Teacher) -> dict[Cell, str]:
    """Runs the cells one after another, and goes on after one that fails.

    Returns:
        The cells that failed, with the reason.
    """
    failures = {}
    steps = num_steps(grid.training_args, len(grid.inputs.tokenized["train"]))
    datasets.disable_progress_bars()  # the grid has one bar
    disable_progress_bar()
    with logging_redirect_tqdm(), tqdm(total=steps * len(runs), unit="step", desc="Runs") as bar:
        for number, run in enumerate(runs, start=1):
            bar.set_postfix_str(f"{number}/{len(runs)} {run.cell.name}")
            try:
                run_cell(run, grid, teacher, bar)
            except Exception as error:  # whatever it is, the other cells do not depend on it
                logger.exception(f"{run.cell.name} failed.")
                first_line = next(iter(str(error).splitlines()), "")
                failures[run.cell] = f"{type(error).__name__}: {first_line}"
            bar.update(number * steps - bar.n)
    return failures


def run_cell(run: CellRun, grid: Grid, teacher: Teacher, bar: tqdm) -> None:
    """Builds, trains, scores and records the student of one cell."""
    args, inputs = run.training_args, grid.inputs
    record, checkpoint = begin_run(run.arguments, run.sources, inputs, args)
    if run.lora_args is None:
        student, origin = start_student(teacher, run.student_args, args, inputs, record)
        finish = None
    else:
        record["teacher_folder"] = teacher.seen_from(args.output_dir)
        prepare = partial(
            add_lora, lora_args=run.lora_args, examples=inputs.tokenized["train"], collator=inputs.collator
        )
        base, origin = start_student(teacher, run.student_args, args, inputs, record, prepare)
        student = prepare(base)
        finish = partial(finish_adapter, trained=student, lora_args=run.lora_args)
    trainer = build_trainer(student, inputs, args, teacher, origin["layers"])
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_StepsOnBar(bar))
    train_and_finish(trainer, checkpoint, record, origin, teacher, inputs, finish)
    remove_checkpoints(args.output_dir)
