"""Results of a comparison without any training, for the tests of its report and its figures."""

import numpy as np

from comparison.arguments import Cell
from comparison.predictions import Predictions
from comparison.results import TEACHER, FinishedRun, Results
from layer_distillation.problem_types import SINGLE_LABEL
from layer_distillation.record import DataRecord, RunRecord, StudentRecord, TeacherRecord

LABELS = ("neither", "offensive_language", "hate_speech")
LAYERS = {"top": (1, 2, 3), "bottom": (4, 5, 6), "odd": (1, 3, 5), "even": (2, 4, 6), "cka": (1, 2, 6), "random": ()}
NUM_EXAMPLES = 120


def predictions_with_accuracy(label_ids, accuracy, draws):
    right = draws.random(len(label_ids)) < accuracy
    predicted = np.where(right, label_ids, (label_ids + 1) % len(LABELS))
    logits = 2 * np.eye(len(LABELS))[predicted] + draws.normal(size=(len(label_ids), len(LABELS))) * 0.3
    return Predictions.from_logits(logits, label_ids, SINGLE_LABEL)


def metrics(accuracy):
    results = {"train_eval_loss": 1 - accuracy, "eval_loss": 1.1 - accuracy, "eval_accuracy": accuracy}
    results |= {"predict_loss": 1.1 - accuracy, "predict_accuracy": accuracy, "predict_macro_f1": accuracy - 0.05}
    return results | {f"predict_f1_{name}": accuracy - 0.1 for name in LABELS}


def student(strategy, accuracy, with_adapter):
    return StudentRecord(
        layer_strategy=strategy,
        layers=LAYERS.get(strategy, ()),
        num_layers=3,
        parameters=17_390_594,
        megabytes=69.56,
        latency_ms=5.0,
        results=metrics(accuracy),
        trainable_parameters=480_386 if with_adapter else 17_390_594,
        adapter={"megabytes": 1.93} if with_adapter else None,
    )


def record(method, seed, scored_student):
    data = DataRecord(source="some tweets", labels=LABELS, fingerprints={}, split_seed=None)
    return RunRecord(
        name="a-run",
        command="python run_comparison.py",
        settings={},
        data=data,
        seed=seed,
        libraries={},
        method=method,
        student=scored_student,
    )


def history(with_teacher):
    """Losses that fall, as a trainer logs them."""
    entries = []
    for step in range(1, 13):
        entry = {"epoch": step / 4, "step": step, "loss": 1 / step, "loss_ce": 1 / step}
        entries.append({**entry, **({"loss_kl": 0.5 / step} if with_teacher else {})})
        if step % 4 == 0:
            entries.append({"epoch": step / 4, "step": step, "eval_loss": 0.5 + 1 / step})
    return entries


def make_results(accuracies, seeds=(0, 1, 2)):
    """Results with the given accuracy of each group, a little more for every seed.

    Args:
        accuracies: by (method, strategy).
    """
    draws = np.random.default_rng(0)
    label_ids = np.arange(NUM_EXAMPLES) % len(LABELS)
    runs = []
    for (method, strategy), accuracy in accuracies.items():
        for seed in seeds:
            scored = student(strategy, accuracy + 0.01 * seed, with_adapter=method.startswith("lora"))
            predictions = predictions_with_accuracy(label_ids, accuracy, draws)
            cell = Cell(method, strategy, seed)
            runs.append(FinishedRun(cell, record(method, seed, scored), predictions, history("distill" in method)))
    teacher = TeacherRecord(
        name="a-teacher",
        hub_name=None,
        fingerprint="0",
        layers=(1, 2, 3, 4, 5, 6),
        num_layers=6,
        parameters=22_713_986,
        megabytes=90.86,
        latency_ms=10.0,
        results=metrics(0.95),
    )
    teacher_predictions = predictions_with_accuracy(label_ids, 0.95, draws)
    latency_ms = {TEACHER: 10.0} | dict.fromkeys(accuracies, 5.0)
    return Results(runs, teacher, teacher_predictions, LABELS, latency_ms, "test", "some tweets")
