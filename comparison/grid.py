"""A grid of runs: layer strategies x methods x seeds, with one teacher and one tokenized data set for all of them.

    cells = plan_cells(comparison_args)
    plans = [plan_cell(cell, grid) for cell in cells]       # each with its own arguments and folder
    failures = run_grid(plans, grid, teacher, share)        # what run_distillation.py and run_lora.py do, for each

A cell is an ordinary run: its folder OUTPUT_DIR/runs/METHOD-STRATEGY-SEED has a record, a model card and the student,
and an interrupted one continues from its last checkpoint. Other processes may run cells of the same grid.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import datasets
import numpy as np
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback
from transformers.utils.logging import disable_progress_bar

from comparison import baselines
from comparison.arguments import Cell, ComparisonArguments
from comparison.methods import ENCODER, METHODS, RIVAL
from comparison.sharing import Share, Workers
from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.errors import UserError
from layer_distillation.loss_table import WEIGHTS
from layer_distillation.pretrained import path_from, resolve_checkpoint
from layer_distillation.problem_types import SINGLE_LABEL
from layer_distillation.record import UNFINISHED_RECORD_FILE, Origin, RunRecord
from lora_adapters.adapters import adapted_modules
from lora_adapters.arguments import LoraArguments
from text_data.answers import label_array
from text_data.arguments import DataArguments
from text_data.labels import LabelMap
from training.arguments import StudentArguments, TeacherArguments
from training.checkpoints import load_for_labels, load_tokenizer
from training.command_line import Settings, message_for_user
from training.evaluation import true_answers
from training.inputs import Inputs, read_by_student
from training.output_folder import FolderInUseError, claimed, earlier_records, remove_checkpoints
from training.run import Run, begin_run, build_trainer, new_record, num_steps, train_and_finish
from training.student import check_student, start_pretrained, start_student
from training.teacher import Teacher, TeacherStart

logger = logging.getLogger(__name__)

# Scores of the teacher, in the output folder.
TEACHER_SCORES = "teacher_scores.json"
# Time between two looks at the cells of other processes.
POLL_SECONDS = 1.0
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


# What `load_for_labels` returns.
Loaded = tuple[PreTrainedModel, LabelMap | None]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What all cells share: the arguments, as they were given and one by one, and what they start from.

    Attributes:
        weights: fingerprints of the checkpoints that cells start from, before any training: "teacher", and the
            arguments that name others.
    """

    settings: Settings
    teacher_args: TeacherArguments
    data_args: DataArguments
    lora_args: LoraArguments
    comparison_args: ComparisonArguments
    training_args: DistillationTrainingArguments
    inputs: Inputs
    weights: Mapping[str, str]

    @property
    def folder(self) -> Path:
        return Path(self.training_args.output_dir)

    @property
    def record(self) -> RunRecord:
        """The record of the comparison itself, in its folder."""
        return new_record(self.settings, self.inputs, self.training_args, self.weights)

    def record_of(self, plan: "CellPlan") -> RunRecord:
        """The record of a cell that begins."""
        method = plan.cell.method
        starts_from = ("teacher", METHODS[method].checkpoint)
        weights = {name: fingerprint for name, fingerprint in self.weights.items() if name in starts_from}
        return new_record(plan.settings, self.inputs_of(method), plan.training_args, weights)

    @property
    def encoder_name(self) -> str:
        """The encoder before its fine-tuning."""
        return self.comparison_args.encoder_name_or_path or self.teacher_args.teacher_name_or_path

    @property
    def encoder_path(self) -> str:
        """Where the encoder before its fine-tuning is loaded from."""
        return resolve_checkpoint(self.encoder_name)

    @property
    def rival_path(self) -> str:
        return resolve_checkpoint(self.comparison_args.rival_name_or_path)

    @cached_property
    def rival_inputs(self) -> Inputs:
        """The data as the rival's tokenizer reads them."""
        return read_by_student(self.inputs, self.rival_path, self.data_args, self.training_args)

    def inputs_of(self, method: str) -> Inputs:
        """Returns the data as a method reads them."""
        return self.rival_inputs if METHODS[method].checkpoint == RIVAL else self.inputs


@dataclass(frozen=True)
class CellPlan:
    """A cell with its own arguments.

    Attributes:
        student_args: without meaning for methods without strategies, but for the depth.
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
    training_args, method = grid.training_args, METHODS[cell.method]
    if method.labels_alone:
        training_args = training_args.for_labels_alone()
    lora_args = grid.lora_args if method.has_adapters else None
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
    without_effect = set() if cell.strategy == "search" else {"search_budget"}
    if method.checkpoint is not None:
        arguments.insert(0, grid.comparison_args)
        known.add(method.checkpoint)
    given = grid.settings.sources
    sources = {name: source for name, source in given.items() if name in known - without_effect}
    sources |= dict.fromkeys(DECIDED_BY_GRID, "the grid")
    if not method.has_strategies:
        del sources["layer_strategy"]
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
    finished, unfinished = earlier_records(plan.folder, grid.record_of(plan))
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


def load_others(comparison_args: ComparisonArguments, labels: LabelMap, seed: int) -> dict[str, Loaded]:
    """Loads the named checkpoints other than the teacher that cells start from, by the argument that names each.

    Raises:
        UserError: as `load_for_labels`.
    """
    arguments = {METHODS[method].checkpoint for method in comparison_args.methods} - {None}
    paths = {name: getattr(comparison_args, name) for name in sorted(arguments)}
    return {name: load_for_labels(resolve_checkpoint(path), labels, seed) for name, path in paths.items() if path}


def check_grid(grid: Grid, start: TeacherStart, others: Mapping[str, Loaded]) -> None:
    """Raises a `UserError` for what no cell of the grid could do.

    Args:
        others: as `load_others` returns them.
    """
    labels, args, methods = grid.inputs.data.labels, grid.training_args, grid.comparison_args.methods
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
    classical = [method for method in methods if METHODS[method].is_classical]
    if classical and np.isnan(true_answers(grid.inputs.tokenized["train"], labels)).any():
        raise UserError(
            f"The methods of scikit-learn need all labels of all training examples, but some are unknown. Complete "
            f"them, or leave {' and '.join(classical)} out of --methods."
        )
    weighted = [method for method in methods if METHODS[method].weights_classes]
    if weighted and (labels.problem_type != SINGLE_LABEL or labels.is_soft):
        kind = "shares of the classes" if labels.is_soft else labels.problem_type
        raise UserError(
            f"Classes are weighted where each example has one, but the labels are {kind}. Leave "
            f"{' and '.join(weighted)} out of --methods."
        )
    for strategy in dict.fromkeys((*grid.comparison_args.strategies, *grid.comparison_args.method_strategies)):
        check_student(start, grid.comparison_args.student(strategy), args, grid.inputs)
    if any(METHODS[method].has_adapters for method in methods):
        adapted_modules(start.model, grid.lora_args)
    of_encoder = [method for method in methods if METHODS[method].checkpoint == ENCODER]
    if of_encoder:
        _check_encoder(grid, start, of_encoder, others)


def _check_encoder(grid: Grid, start: TeacherStart, methods: Sequence[str], others: Mapping[str, Loaded]) -> None:
    name = grid.comparison_args.encoder_name_or_path
    if name is None:
        if start.is_trained:
            raise UserError(
                f"--methods {' '.join(methods)} start from the encoder before its fine-tuning, but "
                f"--teacher_name_or_path {start.path} is fine-tuned. Name the encoder: --encoder_name_or_path."
            )
        if grid.teacher_args.teacher_revision is not None:
            raise UserError(
                f"--methods {' '.join(methods)} would start from the encoder's main branch, but --teacher_revision is "
                f"{grid.teacher_args.teacher_revision}. Fetch it and name its folder: --encoder_name_or_path."
            )
        return
    _, trained_for = others[ENCODER]
    if trained_for is not None:
        raise UserError(
            f"--encoder_name_or_path must be a pretrained encoder, but {name} has a head that is trained for "
            f"{', '.join(trained_for.names)}. Name the checkpoint that the teacher was fine-tuned from."
        )
    if load_tokenizer(grid.encoder_path).get_vocab() != grid.inputs.tokenizer.get_vocab():
        raise UserError(
            f"--encoder_name_or_path must have the teacher's vocabulary, but {name} has another. Name the checkpoint "
            "that the teacher was fine-tuned from."
        )


def use_one_device(training_args: DistillationTrainingArguments) -> None:
    """Has the teacher and all cells use one GPU. With several, `Trainer` shares each batch among them (DataParallel).

    A cell would then take larger steps than the same cell in a process that sees one GPU.
    """
    if training_args.n_gpu > 1:
        training_args._n_gpu = 1


class _StepsOnBar(TrainerCallback):
    """Moves the grid's bar by every optimizer step."""

    def __init__(self, bar: tqdm):
        self.bar = bar

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar.update(state.global_step)  # those before the checkpoint of an interrupted run

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update()


def run_grid(
    plans: Sequence[CellPlan], grid: Grid, teacher: Teacher, share: Share, helpers: Workers
) -> dict[Cell, str] | None:
    """Runs the cells that no other process has run; a cell that fails does not stop the others.

    Args:
        helpers: processes that this one has started.

    Returns:
        The cells that failed, in any process, with the reason. `None` if another process waits for the last cells.
    """
    steps = num_steps(grid.training_args, len(grid.inputs.tokenized["train"]))
    datasets.disable_progress_bars()  # the grid has one bar
    disable_progress_bar()
    waiting = list(plans)
    if helpers.are_working():
        share.waits_for_the_end()  # before any of them asks: the process that was typed reports
    with logging_redirect_tqdm(), tqdm(total=steps * len(plans), unit="step", desc="Runs") as bar:
        while waiting:
            for plan in tuple(waiting):
                if _settle(plan, grid, share, teacher, bar):
                    waiting.remove(plan)
                    bar.update((len(plans) - len(waiting)) * steps - bar.n)
            waits_for_others = helpers.are_working() or share.waits_for_the_end()
            if waiting and not waits_for_others:
                return None
            time.sleep(POLL_SECONDS if waiting else 0)
    if not share.waits_for_the_end():
        return None
    return {plan.cell: reason for plan in plans if (reason := share.failure_of(plan.cell)) is not None}


def _is_settled(plan: CellPlan, grid: Grid, share: Share) -> bool:
    return share.failure_of(plan.cell) is not None or state_of(plan, grid) == "finished"


def _settle(plan: CellPlan, grid: Grid, share: Share, teacher: Teacher, bar: tqdm) -> bool:
    """Runs a cell unless another process does or did; returns whether it is finished or has failed."""
    try:
        with claimed(plan.training_args):
            if not _is_settled(plan, grid, share):
                if state_of(plan, grid) == "interrupted":
                    logger.warning(f"{plan.cell.name} was begun by a process that has ended without finishing it.")
                bar.set_postfix_str(plan.cell.name)
                run_cell(plan, grid, teacher, bar)
                share.note_failure(plan.cell, None)
    except FolderInUseError:
        return False
    except Exception as error:  # whatever it is, the other cells do not depend on it
        message = message_for_user(error)
        logger.error(f"{plan.cell.name} failed.", exc_info=message is None)
        reason = message or f"{type(error).__name__}: {error}"
        share.note_failure(plan.cell, reason.splitlines()[0])
    return True


def run_cell(plan: CellPlan, grid: Grid, teacher: Teacher, bar: tqdm) -> None:
    """Builds, trains, scores and records what one cell asks for."""
    args, method = plan.training_args, METHODS[plan.cell.method]
    inputs = grid.inputs_of(plan.cell.method)
    record, checkpoint = begin_run(grid.record_of(plan), inputs, args)
    if plan.lora_args is not None:
        base = teacher.path if method.checkpoint is None else grid.encoder_name
        record = replace(record, teacher_folder=path_from(args.output_dir, base))
    run = Run(args, inputs, teacher, record, checkpoint, plan.lora_args)
    if method.is_classical:
        baselines.run_classical(plan.cell.method, run, grid.encoder_path)
        return
    student, origin = _start(plan, grid, run)
    label_loss = None
    if method.weights_classes:
        label_ids, num_labels = label_array(inputs.tokenized["train"]), inputs.data.labels.num_labels
        label_loss = baselines.weighted_loss(label_ids, num_labels, args.label_smoothing_factor)
    trainer = build_trainer(run.prepared(student), inputs, args, teacher, origin.layers, label_loss)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_StepsOnBar(bar))
    train_and_finish(run, trainer, origin)
    remove_checkpoints(args.output_dir)


def _start(plan: CellPlan, grid: Grid, run: Run) -> tuple[PreTrainedModel, Origin]:
    """Makes the student of a cell as it is before its training."""
    match plan.cell.method:
        case "pretrained":
            return baselines.from_encoder(grid.encoder_path, plan.student_args, run)
        case "fresh_layers":
            return baselines.with_fresh_layers(plan.student_args, run)
        case "rival":
            return start_pretrained(grid.comparison_args.rival_name_or_path, run)
        case "lora_full":
            return start_pretrained(grid.encoder_name, run)
        case _:
            return start_student(run, plan.student_args)
