"""The results of a comparison: read from the folders of its runs, scored together, written as csv and json.

results = read_results(plans, grid, teacher)
scores = score_groups(results)              # for intervals of scores and differences, see bootstrap.py
write_results(OUTPUT_DIR, results)          # results.csv and results.json, one row for each run
"""

import csv
import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import softmax
from transformers import PreTrainedModel, set_seed

from comparison.arguments import Cell
from comparison.bootstrap import Scores, accuracy, bootstrap, macro_f1
from comparison.calibration import expected_calibration_error, reliability
from comparison.grid import CellPlan, Grid
from layer_distillation.model_outputs import compute_logits
from layer_distillation.record import RunRecord, StudentRecord, TeacherRecord
from layer_mapping import build_random_student, build_student
from lora_adapters.loading import load_adapter
from training.checkpoints import load_classifier
from training.evaluation import measure_latency
from training.layer_similarity import cka_matrix, layer_features
from training.teacher import Teacher

Group = tuple[str, str]  # method and strategy, which the runs of all seeds share
TEACHER: Group = ("teacher", "")  # stands among the groups of runs
NUM_SIMILARITY_EXAMPLES = 500
MAX_CLASSES_SHOWN = 20
# The report's metrics, each with its function of confusion counts. Their titles are in `training.tables`.
METRICS = {"accuracy": accuracy, "macro_f1": macro_f1}


@dataclass(frozen=True)
class FinishedRun:
    """A finished cell of the grid.

    Attributes:
        logits: on the reported split, `(examples, labels)`.
        history: the numbers that the trainer logged, one dictionary for each time.
    """

    cell: Cell
    record: RunRecord
    logits: np.ndarray
    history: Sequence[dict]

    @property
    def student(self) -> StudentRecord:
        return self.record.student


@dataclass(frozen=True)
class Results:
    """All finished runs and their teacher, on one split.

    Attributes:
        runs: in the order of the grid.
        teacher_logits: `(examples, labels)`.
        label_ids: true class ids `(examples,)`.
        label_names: in the order of their ids.
        latency_ms: milliseconds on one example, of the teacher and of each group's first student. The models take
            turns: times that were measured an hour apart cannot be compared.
        split: name of the reported split.
        source: of the data.
    """

    runs: Sequence[FinishedRun]
    teacher: TeacherRecord
    teacher_logits: np.ndarray
    label_ids: np.ndarray
    label_names: Sequence[str]
    latency_ms: Mapping[Group, float]
    split: str
    source: str

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
        return len(self.label_names) <= MAX_CLASSES_SHOWN

    @property
    def first_method(self) -> str:
        """The method that ran with every strategy."""
        return self.runs[0].cell.method

    @property
    def groups(self) -> dict[Group, list[FinishedRun]]:
        """The runs of all seeds by method and strategy."""
        return grouped(self.runs, key=lambda run: run.cell.group)

    def groups_of(self, method: str) -> dict[Group, list[FinishedRun]]:
        """Returns the `groups` of one method."""
        return {group: runs for group, runs in self.groups.items() if group[0] == method}

    @property
    def logits(self) -> dict[Group, list[np.ndarray]]:
        """The logits of the teacher and of every run, by group."""
        return {TEACHER: [self.teacher_logits]} | {
            group: [run.logits for run in runs] for group, runs in self.groups.items()
        }


def grouped(items: Iterable, key: Callable[..., Hashable]) -> dict[Hashable, list]:
    """Returns the items by their keys, in the order of first appearance."""
    groups = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


# ---- Reading ----


def read_results(plans: Sequence[CellPlan], grid: Grid, teacher: Teacher) -> Results:
    """Reads the folders of finished cells, runs the teacher on the reported split, and measures latencies."""
    inputs, args = grid.inputs, grid.training_args
    split = inputs.reported_split
    tokenized, label_names = inputs.tokenized[split], inputs.data.labels.names
    runs = [_read_run(plan, split, label_names) for plan in plans]
    models = {TEACHER: teacher.load(args.device)}
    for group, (first, *_) in grouped(plans, key=lambda plan: plan.cell.group).items():
        models[group] = load_student(first, grid).to(args.device)
    return Results(
        runs=runs,
        teacher=runs[0].record.teacher,
        teacher_logits=compute_logits(
            models[TEACHER], tokenized, inputs.collator, args.per_device_eval_batch_size, args.bf16
        ),
        label_ids=np.array(tokenized["labels"]),
        label_names=label_names,
        latency_ms=dict(zip(models, measure_latency(list(models.values()), tokenized), strict=True)),
        split=split,
        source=inputs.data.source,
    )


def _read_run(plan: CellPlan, split: str, label_names: Sequence[str]) -> FinishedRun:
    with open(plan.folder / f"predictions_{split}.csv", newline="") as stream:
        logits = [[float(row[f"logit_{name}"]) for name in label_names] for row in csv.DictReader(stream)]
    history = json.loads((plan.folder / "trainer_state.json").read_text())["log_history"]
    return FinishedRun(plan.cell, RunRecord.read(plan.folder), np.array(logits), history)


def load_student(plan: CellPlan, grid: Grid) -> PreTrainedModel:
    """Loads the student of a finished cell, with its adapter merged."""
    if plan.lora_args is not None:
        return load_adapter(plan.folder).merge_and_unload()
    student, _ = load_classifier(str(plan.folder), grid.inputs.data.labels)
    return student


def compare_layers(plans: Sequence[CellPlan], grid: Grid, teacher: Teacher) -> dict[str, dict[str, np.ndarray]]:
    """Compares the teacher's layers (rows) with the students' layers (columns) by linear CKA.

    Returns:
        By strategy the matrices "before training" and "after training", of the first run of the first method.
    """
    inputs = grid.inputs
    examples = inputs.tokenized[inputs.data.validation_splits[0]]
    examples = examples.select(range(min(NUM_SIMILARITY_EXAMPLES, len(examples))), keep_in_memory=True)
    teacher_model = teacher.load(grid.training_args.device)
    teacher_features = layer_features(teacher_model, examples, inputs.collator)
    of_first_method = [plan for plan in plans if plan.cell.method == plans[0].cell.method]
    matrices = {}
    for strategy, (first, *_) in grouped(of_first_method, key=lambda plan: plan.cell.strategy).items():
        students = {
            "before training": _untrained_student(first, teacher_model),
            "after training": load_student(first, grid).to(teacher_model.device),
        }
        matrices[strategy] = {
            moment: cka_matrix(teacher_features, layer_features(student, examples, inputs.collator))
            for moment, student in students.items()
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


def score_groups(results: Results) -> dict[str, dict[Group, Scores]]:
    """Returns for every metric the scores of the teacher and of each group of runs, all paired with each other."""
    predictions = {group: np.stack(logits).argmax(axis=-1) for group, logits in results.logits.items()}
    return {
        name: {group: bootstrap(metric, results.label_ids, classes) for group, classes in predictions.items()}
        for name, metric in METRICS.items()
    }


def calibration_error(logits: np.ndarray, label_ids: np.ndarray) -> float:
    """Returns the expected calibration error of the probabilities that the logits stand for."""
    return expected_calibration_error(reliability(label_ids, softmax(logits, axis=1)))


def agreement(logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    """Returns the share of the examples for which student and teacher predict the same class."""
    return float(np.mean(logits.argmax(axis=1) == teacher_logits.argmax(axis=1)))


# ---- Writing ----


def write_results(folder: Path, results: Results) -> None:
    """Writes `results.csv` and `results.json`: one row for the teacher, then one for each run."""
    rows = result_rows(results)
    columns = sorted(dict.fromkeys(name for row in rows for name in row), key=_column_position)
    with open(folder / "results.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (folder / "results.json").write_text(json.dumps(rows, indent=2) + "\n")


def result_rows(results: Results) -> list[dict]:
    """Returns one row for the teacher and one for each run. A row has no entry for a number that it lacks."""
    rows = [{"method": "teacher", **_row(TEACHER, results.teacher, results.teacher_logits, results)}]
    for run in results.runs:
        cell = {"method": run.cell.method, "strategy": run.cell.strategy, "seed": run.cell.seed}
        adapter = {"adapter_megabytes": run.student.adapter["megabytes"]} if run.student.adapter else {}
        trained = {"trainable_parameters": run.student.trainable_parameters, **adapter}
        rows.append(cell | trained | _row(run.cell.group, run.student, run.logits, results))
    return rows


def _row(group: Group, model: TeacherRecord | StudentRecord, logits: np.ndarray, results: Results) -> dict:
    metrics = {
        name: value
        for name, value in model.results.items()
        if name in ("train_loss", "train_runtime") or name.startswith(("train_loss_", "eval_", "predict_"))
    }
    by_clock = ("_runtime", "_per_second", "_time")
    return {
        "layers": " ".join(map(str, model.layers)) or "none",
        "parameters": model.parameters,
        "megabytes": model.megabytes,
        "latency_ms": results.latency_ms[group],
        "calibration_error": calibration_error(logits, results.label_ids),
        "agreement_with_teacher": agreement(logits, results.teacher_logits),
        **{name: value for name, value in metrics.items() if name == "train_runtime" or not name.endswith(by_clock)},
    }


def _column_position(name: str) -> tuple[int, str]:
    first = ("method", "strategy", "seed", "layers", "parameters", "trainable_parameters", "megabytes")
    return (first.index(name), "") if name in first else (len(first), name)
