"""A grid of runs: layer strategies x methods x seeds, with one teacher and one tokenized data set for all of them.

    cells = plan_cells(comparison_args)
    plans = [plan_cell(cell, grid) for cell in cells]       # each with its own arguments and folder
    failures = run_grid(plans, grid, teacher)               # what run_distillation.py and run_lora.py do, for each

A cell is an ordinary run: its folder OUTPUT_DIR/runs/METHOD-STRATEGY-SEED has a record, a model card and the student,
and an interrupted one continues from its last checkpoint.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import datasets
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import PrinterCallback, TrainerCallback
from transformers.utils.logging import disable_progress_bar

from comparison.arguments import LORA_METHODS, Cell, ComparisonArguments
from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.errors import UserError
from layer_distillation.loss_table import WEIGHTS
from layer_distillation.problem_types import SINGLE_LABEL
from layer_distillation.record import UNFINISHED_RECORD_FILE, RunRecord
from lora_adapters.adapters import target_modules
from lora_adapters.arguments import LoraArguments
from text_data.arguments import DataArguments
from training.arguments import StudentArguments, TeacherArguments
from training.command_line import Settings
from training.inputs import Inputs
from training.output_folder import earlier_records, remove_checkpoints
from training.run import Run, begin_run, build_trainer, new_record, num_steps, train_and_finish
from training.student import check_student, start_student
from training.teacher import Teacher, TeacherStart

logger = logging.getLogger(__name__)

# Settings of a cell that are recorded also where they are at their default.
DECIDED_BY_GRID = (
    "layer_strategy",
    "num_student_layers",
    "seed",
    "learning_rate",
    *WEIGHTS,
    "temperature",
    "linear_to",
)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What all cells share: the arguments, as they were given and one by one, and the data."""

    settings: Settings
    teacher_args: TeacherArguments
    data_args: DataArguments
    lora_args: LoraArguments
    comparison_args: ComparisonArguments
    training_args: DistillationTrainingArguments
    inputs: Inputs

    @property
    def folder(self) -> Path:
        return Path(self.training_args.output_dir)


@dataclass(frozen=True)
class CellPlan:
    """A cell with its own arguments.

    Attributes:
        lora_args: `None` where all weights are trained.
        settings: those that decide what the cell makes, for its record.
    """

    cell: Cell
    student_args: StudentArguments
    lora_args: LoraArguments | None
    training_args: DistillationTrainingArguments
    settings: Settings

    @property
    def folder(self) -> Path:
        return Path(self.training_args.output_dir)


def plan_cell(cell: Cell, grid: Grid) -> CellPlan:
    """Returns the arguments of a cell: those of the grid, with what the cell's method, strategy and seed change."""
    training_args = grid.training_args
    if cell.method in ("finetune", "lora"):
        training_args = training_args.for_labels_alone()
    lora_args = grid.lora_args if cell.method in LORA_METHODS else None
    learning_rate = training_args.learning_rate if lora_args is None else grid.comparison_args.lora_learning_rate
    training_args = training_args.derived(
        output_dir=str(grid.folder / "runs" / cell.name),
        seed=cell.seed,
        learning_rate=learning_rate,
        disable_tqdm=True,
        resume_from_checkpoint=None,
        do_train=True,
        do_eval=True,
        do_predict=True,
    )
    student_args = grid.comparison_args.student(cell.strategy)

    arguments = [grid.teacher_args, student_args, grid.data_args, training_args]
    if lora_args is not None:
        arguments.append(lora_args)
    known = {item.name for instance in arguments for item in fields(instance)}
    without_effect = {"output_dir"} if cell.strategy == "search" else {"output_dir", "search_budget"}
    given = grid.settings.sources
    sources = {name: source for name, source in given.items() if name in known - without_effect}
    sources |= dict.fromkeys(DECIDED_BY_GRID, "the grid")
    return CellPlan(
        cell, student_args, lora_args, training_args, Settings(tuple(arguments), sources, grid.settings.command)
    )


def state_of(plan: CellPlan, grid: Grid, teacher_fingerprint: str | None = None) -> str:
    """Returns whether a cell is "finished", "interrupted" or "new".

    Args:
        teacher_fingerprint: of the teacher that the grid's students are built from, once it is known.

    Raises:
        UserError: its folder holds a run with other settings, other data or another teacher.
    """
    record = new_record(plan.settings, grid.inputs, plan.training_args)
    finished, unfinished = earlier_records(plan.folder, record)
    if unfinished is not None or finished is None:
        return "new" if unfinished is None else "interrupted"
    if teacher_fingerprint not in (None, finished.teacher.fingerprint):
        raise UserError(
            f"{plan.folder} holds a student of another teacher than the one in use now. Choose another --output_dir, "
            "or remove that folder."
        )
    return "finished"


def check_holds_no_run(output_dir: str | Path) -> None:
    """Raises a `UserError` if the folder holds a single run, whose record a comparison would replace."""
    record = RunRecord.read(output_dir)
    is_finished_run = record is not None and record.student is not None
    if is_finished_run or (Path(output_dir) / UNFINISHED_RECORD_FILE).is_file():
        raise UserError(
            f"--output_dir {output_dir} holds the student of a run, whose record a comparison would replace. Choose "
            "another folder."
        )


def check_grid(grid: Grid, start: TeacherStart) -> None:
    """Raises a `UserError` for what no cell of the grid could do."""
    labels, args = grid.inputs.data.labels, grid.training_args
    if labels.problem_type != SINGLE_LABEL:
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
        check_student(start, grid.comparison_args.student(strategy), args, grid.inputs)
    if any(method in LORA_METHODS for method in grid.comparison_args.methods):
        target_modules(start.model, grid.lora_args.lora_target_modules)


class _StepsOnBar(TrainerCallback):
    """Moves the grid's bar by every optimizer step."""

    def __init__(self, bar: tqdm):
        self.bar = bar

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar.update(state.global_step)  # those before the checkpoint of an interrupted run

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update()


def run_grid(plans: Sequence[CellPlan], grid: Grid, teacher: Teacher) -> dict[Cell, str]:
    """Runs the cells one after another; a cell that fails does not stop the others.

    Returns:
        The cells that failed, with the reason.
    """
    failures = {}
    steps = num_steps(grid.training_args, len(grid.inputs.tokenized["train"]))
    datasets.disable_progress_bars()  # the grid has one bar
    disable_progress_bar()
    with logging_redirect_tqdm(), tqdm(total=steps * len(plans), unit="step", desc="Runs") as bar:
        for number, plan in enumerate(plans, start=1):
            bar.set_postfix_str(f"{number}/{len(plans)} {plan.cell.name}")
            try:
                run_cell(plan, grid, teacher, bar)
            except Exception as error:  # whatever it is, the other cells do not depend on it
                logger.exception(f"{plan.cell.name} failed.")
                first_line = next(iter(str(error).splitlines()), "")
                failures[plan.cell] = f"{type(error).__name__}: {first_line}"
            bar.update(number * steps - bar.n)
    return failures


def run_cell(plan: CellPlan, grid: Grid, teacher: Teacher, bar: tqdm) -> None:
    """Builds, trains, scores and records the student of one cell."""
    args, inputs = plan.training_args, grid.inputs
    record, checkpoint = begin_run(plan.settings, inputs, args)
    if plan.lora_args is not None:
        record = replace(record, teacher_folder=teacher.seen_from(args.output_dir))
    run = Run(args, inputs, teacher, record, checkpoint, plan.lora_args)
    student, origin = start_student(run, plan.student_args)
    trainer = build_trainer(run.prepared(student), inputs, args, teacher, origin.layers)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_StepsOnBar(bar))
    train_and_finish(run, trainer, origin)
    remove_checkpoints(args.output_dir)
