"""What the runs of a comparison have come to: read from their folders, scored together, and written as csv and json.

results = read_results(runs, grid, teacher)
scores = score_groups(results)              # for intervals of scores and differences (see bootstrap.py)
write_results(OUTPUT_DIR, results)          # results.csv and results.json, a row a run
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, set_seed

from comparison.arguments import Cell
from comparison.bootstrap import Scores, accuracy, bootstrap, macro_f1
from comparison.calibration import expected_calibration_error, reliability, softmax
from comparison.grid import CellPlan, Grid
from layer_distillation.model_outputs import compute_logits
from layer_distillation.record import ModelRecord, RunRecord, StudentRecord, TeacherRecord
from layer_mapping import build_random_student, build_student
from lora_adapters.loading import load_adapter
from training.checkpoints import load_classifier
from training.evaluation import measure_latency
from training.layer_similarity import cka_matrix, layer_features
from training.teacher import Teacher

TEACHER = ("teacher", "")  # its place among the groups of runs
NUM_SIMILARITY_EXAMPLES = 500
MAX_CLASSES_SHOWN = 20
METRICS = {"accuracy": accuracy, "macro_f1": macro_f1}


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        record: as in `distillation.json`.
        logits: on the reported split, `(examples, labels)`.
        history: what the trainer has logged, a dictionary of numbers for each time.
        folder: of the student.
    """

    cell: Cell
    record: RunRecord
    logits: np.ndarray
    history: Sequence[dict]
    folder: Path

    @property
    def student(self) -> StudentRecord:
        return self.record.student


@dataclass(frozen=True)
class Results:
    """All finished runs and their teacher, on one split.

    Attributes:
        runs: in the order of the grid.
        teacher: its part of a run's record.
        teacher_logits: `(examples, labels)`.
        label_ids: true class ids `(examples,)`.
        label_names: in the order of their ids.
        latency_ms: milliseconds of the teacher and of each group's first student on single examples, all measured in
            turns: runs that have been timed an hour apart cannot be compared.
        split: name of the split that is reported on.
        source: of the data.
    """

    runs: Sequence[Run]
    teacher: TeacherRecord
    teacher_logits: np.ndarray
    label_ids: np.ndarray
    label_names: Sequence[str]
    latency_ms: Mapping[tuple[str, str], float]
    split: str
    source: str

    @property
    def prefix(self) -> str:
        """Of the metrics on the reported split."""
        return "predict" if self.split.startswith("test") else "eval"

    @property
    def split_title(self) -> str:
        return "Test" if self.prefix == "predict" else "Validation"

    @property
    def shows_classes(self) -> bool:
        """Whether the classes are so few that a report can show each of them; `results.csv` has them all."""
        return len(self.label_names) <= MAX_CLASSES_SHOWN

    @property
    def groups(self) -> dict[tuple[str, str], list[Run]]:
        """The runs of all seeds by method and strategy."""
        groups = {}
        for run in self.runs:
            groups.setdefault(run.cell.group, []).append(run)
        return groups

    def groups_of(self, method: str) -> dict[tuple[str, str], list[Run]]:
        """Those of `groups` that were trained in one way."""
        return {group: runs for group, runs in self.groups.items() if group[0] == method}


def read_results(runs: Sequence[CellPlan], grid: Grid, teacher: Teacher) -> Results:
    """Reads the folders of finished cells, runs the teacher over the reported split, and measures latencies."""
    inputs, args = grid.inputs, grid.training_args
    split = inputs.reported_split
    tokenized, names = inputs.tokenized[split], inputs.data.labels.names
    finished = [
        Run(
            run.cell,
            RunRecord.read(run.folder),
            _read_logits(run.folder / f"predictions_{split}.csv", names),
            json.loads((run.folder / "trainer_state.json").read_text())["log_history"],
            run.folder,
        )
        for run in runs
    ]
    models = {TEACHER: teacher.load(args.device)}
    for run in runs:
        if run.cell.group not in models:
            models[run.cell.group] = _load_student(run, grid).to(args.device)
    return Results(
        runs=finished,
        teacher=finished[0].record.teacher,
        teacher_logits=compute_logits(
            models[TEACHER], tokenized, inputs.collator, args.per_device_eval_batch_size, args.bf16
        ),
        label_ids=np.array(tokenized["labels"]),
        label_names=names,
        latency_ms=dict(zip(models, measure_latency(list(models.values()), tokenized), strict=True)),
        split=split,
        source=inputs.data.source,
    )


def compare_layers(runs: Sequence[CellPlan], grid: Grid, teacher: Teacher) -> dict[str, dict[str, np.ndarray]]:
    """Linear CKA of the teacher's layers (rows) and the students', before and after training.

    Returns:
        Matrices for "before training" and "after training" by strategy, of the first method's first run with it.
    """
    inputs = grid.inputs
    examples = inputs.tokenized[inputs.data.validation_splits[0]]
    examples = examples.select(range(min(NUM_SIMILARITY_EXAMPLES, len(examples))), keep_in_memory=True)
    teacher_model = teacher.load(grid.training_args.device)
    of_teacher = layer_features(teacher_model, examples, inputs.collator)
    first_runs, matrices = {}, {}
    for run in runs:
        if run.cell.method == runs[0].cell.method:
            first_runs.setdefault(run.cell.strategy, run)
    for strategy, run in first_runs.items():
        layers = RunRecord.read(run.folder).student.layers
        set_seed(run.training_args.seed)
        if layers:
            before = build_student(teacher_model, layers)
        else:
            before = build_random_student(teacher_model, run.student_args.num_student_layers)
        students = {"before training": before, "after training": _load_student(run, grid).to(teacher_model.device)}
        matrices[strategy] = {
            moment: cka_matrix(of_teacher, layer_features(student, examples, inputs.collator))
            for moment, student in students.items()
        }
    return matrices


def _load_student(run: CellPlan, grid: Grid) -> PreTrainedModel:
    if run.lora_args is not None:
        return load_adapter(run.folder).merge_and_unload()
    student, _ = load_classifier(str(run.folder), grid.inputs.data.labels)
    return student


def _read_logits(file: Path, label_names: Sequence[str]) -> np.ndarray:
    with open(file, newline="") as stream:
        return np.array([[float(row[f"logit_{name}"]) for name in label_names] for row in csv.DictReader(stream)])


def score_groups(results: Results) -> dict[str, dict[tuple[str, str], Scores]]:
    """For every metric the scores of the teacher and of each group of runs, all paired with each other."""
    predictions = {TEACHER: [results.teacher_logits]}
    predictions |= {group: [run.logits for run in runs] for group, runs in results.groups.items()}
    predictions = {group: np.stack(logits).argmax(axis=-1) for group, logits in predictions.items()}
    return {
        name: {group: bootstrap(metric, results.label_ids, classes) for group, classes in predictions.items()}
        for name, metric in METRICS.items()
    }


def calibration_error(logits: np.ndarray, label_ids: np.ndarray) -> float:
    """Expected calibration error of the probabilities that the logits stand for."""
    return expected_calibration_error(reliability(label_ids, softmax(logits)))


def agreement(logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    """Share of the examples for which student and teacher predict the same class."""
    return float(np.mean(logits.argmax(axis=1) == teacher_logits.argmax(axis=1)))


def result_rows(results: Results) -> list[dict]:
    """A row for the teacher and one for each run; a figure that a row lacks is missing in it."""
    rows = [{"method": "teacher", **_row(TEACHER, results.teacher, results.teacher_logits, results)}]
    for run in results.runs:
        cell = {"method": run.cell.method, "strategy": run.cell.strategy, "seed": run.cell.seed}
        adapter = {"adapter_megabytes": run.student.adapter["megabytes"]} if run.student.adapter else {}
        trained = {"trainable_parameters": run.student.trainable_parameters, **adapter}
        rows.append(cell | trained | _row(run.cell.group, run.student, run.logits, results))
    return rows


def _row(group: tuple[str, str], model: ModelRecord, logits: np.ndarray, results: Results) -> dict:
    metrics = {
        name: value
        for name, value in model.results.items()
        if name in ("train_loss", "train_runtime") or name.startswith(("train_loss_", "eval_", "predict_"))
    }
    by_clock = ("_runtime", "_per_second", "_time")
    return {
        "layers": " ".join(map(str, model.layers)) or "none",
        **{name: getattr(model, name) for name in ("parameters", "megabytes")},
        "latency_ms": results.latency_ms[group],
        "calibration_error": calibration_error(logits, results.label_ids),
        "agreement_with_teacher": agreement(logits, results.teacher_logits),
        **{name: value for name, value in metrics.items() if name == "train_runtime" or not name.endswith(by_clock)},
    }


def write_results(folder: Path, results: Results) -> None:
    """Writes `results.csv` and `results.json`: a row a run, the teacher's first."""
    rows = result_rows(results)
    columns = sorted(dict.fromkeys(name for row in rows for name in row), key=_column_position)
    with open(folder / "results.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (folder / "results.json").write_text(json.dumps(rows, indent=2) + "\n")


def _column_position(name: str) -> tuple[int, str]:
    first = ("method", "strategy", "seed", "layers", "parameters", "trainable_parameters", "megabytes")
    return (first.index(name), "") if name in first else (len(first), name)
