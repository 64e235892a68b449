"""The results of a comparison: read from the folders of its runs, scored together, written as csv and json.

results = read_results(plans, grid, teacher)
scores = score_groups(results.predictions)  # for intervals of scores and differences, see bootstrap.py
write_results(OUTPUT_DIR, results)          # results.csv and results.json, one row for each run, and the predictions
"""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, set_seed
from transformers.trainer import TRAINER_STATE_NAME

from comparison.arguments import Cell
from comparison.bootstrap import Scores, bootstrap
from comparison.grid import CellPlan, Grid
from comparison.methods import COPY_NOTHING, METHODS
from comparison.metrics import METRICS, Metric, calibration_error
from comparison.predictions import Predictions
from layer_distillation.model_outputs import compute_logits
from layer_distillation.problem_types import REGRESSION
from layer_distillation.record import RunRecord, StudentRecord, TeacherRecord
from layer_mapping import build_random_student, build_student
from lora_adapters.loading import load_adapter
from text_data.labels import LabelMap
from text_data.thresholds import THRESHOLDS_FILE, read_thresholds
from training.checkpoints import load_classifier
from training.evaluation import TRAINING_LOSS, measure_latency, true_answers
from training.layer_similarity import cka_matrix, layer_features
from training.tables import grouped
from training.teacher import Teacher

Group = tuple[str, str]  # method and strategy, which the runs of all seeds share
TEACHER: Group = ("teacher", "")  # stands among the groups of runs
NUM_SIMILARITY_EXAMPLES = 500
MAX_CLASSES_SHOWN = 20
# What a trainer says about the speed of an evaluation. The name of a label, as in `eval_f1_full_time`, may end alike.
BY_CLOCK = re.compile(r"(eval|predict)_(runtime|(samples|steps)_per_second|(model_preparation|jit_compilation)_time)")


@dataclass(frozen=True)
class FinishedRun:
    """A finished cell of the grid.

    Attributes:
        predictions: on the reported split.
        history: the numbers that the trainer logged, one dictionary for each time.
        thresholds: from which probability a text has a label, by its name; empty where none were chosen.
    """

    cell: Cell
    record: RunRecord
    predictions: Predictions
    history: Sequence[dict]
    thresholds: Mapping[str, float] = field(default_factory=dict)

    @property
    def student(self) -> StudentRecord:
        return self.record.student


@dataclass(frozen=True)
class Results:
    """All finished runs and their teacher, on one split.

    Attributes:
        runs: in the order of the grid.
        teacher_predictions: on the reported split.
        label_names: in the order of their ids.
        latency_ms: milliseconds on one example, of the teacher and of each group's first student. Networks take turns:
            times that were measured an hour apart cannot be compared.
        split: name of the reported split.
        source: of the data.
    """

    runs: Sequence[FinishedRun]
    teacher: TeacherRecord
    teacher_predictions: Predictions
    label_names: Sequence[str]
    latency_ms: Mapping[Group, float]
    split: str
    source: str

    @property
    def problem_type(self) -> str:
        return self.teacher_predictions.problem_type

    @property
    def labels(self) -> np.ndarray:
        """What is true, in the form of `Predictions.labels`."""
        return self.teacher_predictions.labels

    @property
    def metrics(self) -> Sequence[Metric]:
        """The metric of the table of layers, then the one of the table of methods."""
        return METRICS[self.problem_type]

    @property
    def prefix(self) -> str:
        """Prefix of the metrics on the reported split."""
        return "predict" if self.split.startswith("test") else "eval"

    @property
    def split_title(self) -> str:
        return "Test" if self.prefix == "predict" else "Validation"

    @property
    def shows_classes(self) -> bool:
        """Whether there are few enough classes for a report to show each; `results.csv` always has all of them."""
        return self.problem_type != REGRESSION and len(self.label_names) <= MAX_CLASSES_SHOWN

    @property
    def first_method(self) -> str | None:
        """The first method that builds students from the teacher and has finished runs, if any: it has all strategies.

        If all runs of the method with all strategies failed, it is the next one.
        """
        return next((run.cell.method for run in self.runs if METHODS[run.cell.method].from_teacher), None)

    @property
    def groups(self) -> dict[Group, list[FinishedRun]]:
        """The runs of all seeds by method and strategy."""
        return grouped(self.runs, key=lambda run: run.cell.group)

    def groups_of(self, method: str) -> dict[Group, list[FinishedRun]]:
        """Returns the `groups` of one method."""
        return {group: runs for group, runs in self.groups.items() if group[0] == method}

    @property
    def predictions(self) -> dict[Group, list[Predictions]]:
        """The predictions of the teacher and of every run, by group."""
        return {TEACHER: [self.teacher_predictions]} | {
            group: [run.predictions for run in runs] for group, runs in self.groups.items()
        }


# ---- Reading ----


def read_results(plans: Sequence[CellPlan], grid: Grid, teacher: Teacher) -> Results:
    """Reads the folders of finished cells, runs the teacher on the reported split, and measures latencies."""
    inputs, args = grid.inputs, grid.training_args
    split, labels = inputs.reported_split, inputs.data.labels
    tokenized = inputs.tokenized[split]
    true = true_answers(tokenized, labels)
    runs = [_read_run(plan, split, labels, true) for plan in plans]
    teacher_model = teacher.load(args.device)
    logits = compute_logits(teacher_model, tokenized, inputs.collator, args.per_device_eval_batch_size, args.bf16)
    networks, latency_ms = {TEACHER: (teacher_model, tokenized)}, {}
    for group, (first, *_) in grouped(plans, key=lambda plan: plan.cell.group).items():
        if METHODS[first.cell.method].is_classical:
            latency_ms[group] = RunRecord.read(first.folder).student.latency_ms
        else:
            networks[group] = load_student(first, grid).to(args.device), grid.inputs_of(group[0]).tokenized[split]
    latency_ms |= dict(zip(networks, measure_latency(list(networks.values())), strict=True))
    return Results(
        runs=runs,
        teacher=runs[0].record.teacher,
        teacher_predictions=Predictions.from_logits(logits, true, labels.problem_type),
        label_names=labels.names,
        latency_ms=latency_ms,
        split=split,
        source=inputs.data.source,
    )


def _read_run(plan: CellPlan, split: str, labels: LabelMap, true: np.ndarray) -> FinishedRun:
    with open(plan.folder / f"predictions_{split}.csv", newline="") as stream:
        logits = [[float(row[f"logit_{name}"]) for name in labels.names] for row in csv.DictReader(stream)]
    predictions = Predictions.from_logits(np.array(logits), true, labels.problem_type)
    state, history = plan.folder / TRAINER_STATE_NAME, []
    if state.is_file():  # the classical methods have none
        history = json.loads(state.read_text())["log_history"]
    file, thresholds = plan.folder / THRESHOLDS_FILE, {}
    if file.is_file():  # only runs on several labels have one
        thresholds = read_thresholds(file, labels.names)["thresholds"]
    return FinishedRun(plan.cell, RunRecord.read(plan.folder), predictions, history, thresholds)


def load_student(plan: CellPlan, grid: Grid) -> PreTrainedModel:
    """Loads the student of a finished cell, with its adapter merged."""
    if plan.lora_args is not None:
        return load_adapter(plan.folder).merge_and_unload()
    student, _ = load_classifier(str(plan.folder), grid.inputs.data.labels)
    return student


def compare_layers(plans: Sequence[CellPlan], grid: Grid, teacher: Teacher) -> dict[str, dict[str, np.ndarray]]:
    """Compares the teacher's layers (rows) with the students' layers (columns) by linear CKA.

    Returns:
        By strategy the matrices "before training" and "after training", of the first run of the first method that
        builds students from the teacher.
    """
    plans = [plan for plan in plans if METHODS[plan.cell.method].from_teacher]
    if not plans:
        return {}
    of_first_method = [plan for plan in plans if plan.cell.method == plans[0].cell.method]
    inputs, args = grid.inputs, grid.training_args
    examples = inputs.validation
    examples = examples.select(range(min(NUM_SIMILARITY_EXAMPLES, len(examples))), keep_in_memory=True)
    features = partial(layer_features, dataset=examples, collator=inputs.collator, bf16=args.bf16)
    teacher_model = teacher.load(args.device)
    teacher_features = features(teacher_model)
    matrices = {}
    for strategy, (first, *_) in grouped(of_first_method, key=lambda plan: plan.cell.strategy).items():
        students = {
            "before training": _untrained_student(first, teacher_model),
            "after training": load_student(first, grid).to(teacher_model.device),
        }
        matrices[strategy] = {
            moment: cka_matrix(teacher_features, features(student)) for moment, student in students.items()
        }
    return matrices


def _untrained_student(plan: CellPlan, teacher: PreTrainedModel) -> PreTrainedModel:
    """Builds the student of a finished cell again, as it was before its training."""
    origin = RunRecord.read(plan.folder).student
    set_seed(plan.training_args.seed)
    if origin.layers:
        return build_student(teacher, origin.layers, origin.neurons)
    return build_random_student(teacher, plan.student_args.num_student_layers)


# ---- Scoring ----


def score_groups(
    predictions: Mapping[Group, Sequence[Predictions]], with_calibration: bool = True
) -> dict[str, dict[Group, Scores]]:
    """Returns for every metric the scores of the teacher and of each group of runs, all paired with each other.

    The metrics are those of the problem type and, where there are probabilities, the calibration error.

    Args:
        predictions: of the runs of each group, and of the teacher.
        with_calibration: whether the calibration error, which takes most of the time, is wanted.
    """
    (teacher,) = predictions[TEACHER]
    metrics = list(METRICS[teacher.problem_type])
    if with_calibration and teacher.problem_type != REGRESSION:
        metrics.append(calibration_error)
    return {
        metric.name: {
            group: bootstrap(
                metric,
                teacher.labels,
                [of_run.outputs_for(metric) for of_run in of_group],
                varies=group != TEACHER and METHODS[group[0]].has_seeds,
                fresh=group != TEACHER and (group[1] in COPY_NOTHING or METHODS[group[0]].draws_weights),
            )
            for group, of_group in predictions.items()
        }
        for metric in metrics
    }


def read_predictions(folder: Path) -> dict[Group, list[Predictions]]:
    """Reads the predictions that `write_results` has written to a folder: those of the teacher, then all groups."""
    groups = {TEACHER: [Predictions.read(folder / "teacher.npz")]}
    for file in sorted(folder.glob("*-*.npz")):
        method, *strategy, _ = file.stem.split("-")
        groups.setdefault((method, "".join(strategy)), []).append(Predictions.read(file))
    return groups


def agreement(predictions: Predictions, teacher: Predictions) -> float:
    """Returns the share of the examples to which student and teacher give the same answer.

    For regression, it is the correlation of their answers.
    """
    metric, _ = METRICS[teacher.problem_type]
    return metric(teacher.answers, predictions.answers)


# ---- Writing ----


def write_results(folder: str | Path, results: Results) -> None:
    """Writes `results.csv` and `results.json`: one row for the teacher, then one for each run.

    The predictions of each go to `predictions/RUN.npz` (see `comparison/predictions.py`).
    """
    folder, rows = Path(folder), result_rows(results)
    columns = sorted(dict.fromkeys(name for row in rows for name in row), key=_column_position)
    with open(folder / "results.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (folder / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    results.teacher_predictions.write(folder / "predictions" / "teacher.npz")
    for run in results.runs:
        run.predictions.write(folder / "predictions" / f"{run.cell.name}.npz")


def remove_other_predictions(folder: Path, results: Results) -> None:
    """Removes the predictions of runs that an earlier report had and this one has not."""
    kept = {"teacher", *(run.cell.name for run in results.runs)}
    for file in (folder / "predictions").glob("*.npz"):
        if file.stem not in kept:
            file.unlink()


def result_rows(results: Results) -> list[dict]:
    """Returns one row for the teacher and one for each run. A row has no entry for a number that it lacks."""
    rows = [{"method": "teacher", **_row(TEACHER, results.teacher, results.teacher_predictions, results)}]
    for run in results.runs:
        cell = {"method": run.cell.method, "strategy": run.cell.strategy, "seed": run.cell.seed}
        adapter = {"adapter_megabytes": run.student.adapter["megabytes"]} if run.student.adapter else {}
        trained = {"trainable_parameters": run.student.trainable_parameters, **adapter}
        rows.append(cell | trained | _row(run.cell.group, run.student, run.predictions, results))
    return rows


def _row(group: Group, model: TeacherRecord | StudentRecord, predictions: Predictions, results: Results) -> dict:
    metrics = {
        name: value
        for name, value in model.results.items()
        if name in ("train_loss", "train_runtime", TRAINING_LOSS)
        or (name.startswith(("train_loss_", "eval_", "predict_")) and not BY_CLOCK.match(name))
    }
    calibration = {}
    if results.problem_type != REGRESSION:
        calibration = {"calibration_error": calibration_error(results.labels, predictions.probabilities)}
    return {
        "layers": " ".join(map(str, model.layers)) or "none",
        "parameters": model.parameters,
        "megabytes": model.megabytes,
        "latency_ms": results.latency_ms[group],
        **calibration,
        "agreement_with_teacher": agreement(predictions, results.teacher_predictions),
        **metrics,
    }


def _column_position(name: str) -> tuple[int, str]:
    first = ("method", "strategy", "seed", "layers", "parameters", "trainable_parameters", "megabytes")
    return (first.index(name), "") if name in first else (len(first), name)
