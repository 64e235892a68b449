"""Results of a comparison that no training has made, for the tests of its report and its figures."""

from pathlib import Path

import numpy as np

from comparison.arguments import Cell
from comparison.results import TEACHER, Results, Run

LABELS = ("neither", "offensive_language", "hate_speech")
LAYERS = {"top": [1, 2, 3], "bottom": [4, 5, 6], "odd": [1, 3, 5], "even": [2, 4, 6], "random": []}
NUM_EXAMPLES = 120


def logits_with_accuracy(label_ids, accuracy, draws):
    right = draws.random(len(label_ids)) < accuracy
    predicted = np.where(right, label_ids, (label_ids + 1) % len(LABELS))
    return 2 * np.eye(len(LABELS))[predicted] + draws.normal(size=(len(label_ids), len(LABELS))) * 0.3


def model(layers, accuracy, **extra):
    results = {"train_loss_ce": 1 - accuracy, "eval_loss": 1.1 - accuracy, "eval_accuracy": accuracy}
    results |= {"predict_loss": 1.1 - accuracy, "predict_accuracy": accuracy, "predict_macro_f1": accuracy - 0.05}
    results |= {f"predict_f1_{name}": accuracy - 0.1 for name in LABELS}
    sizes = {"parameters": 17_390_594, "megabytes": 69.56, "num_layers": len(layers) or 3}
    return {"layers": layers, **sizes, "results": results, **extra}


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
            trained = {"trainable_parameters": 17_390_594}
            if method.startswith("lora"):
                trained = {"trainable_parameters": 480_386, "adapter": {"megabytes": 1.93}}
            student = model(LAYERS[strategy], accuracy + 0.01 * seed, **trained)
            record = {"method": method, "seed": seed, "student": student}
            logits = logits_with_accuracy(label_ids, accuracy, draws)
            runs.append(
                Run(Cell(method, strategy, seed), record, logits, history("distill" in method), Path("nowhere"))
            )
    teacher = {"name": "a-teacher", **model([1, 2, 3, 4, 5, 6], 0.95)}
    teacher |= {"parameters": 22_713_986, "megabytes": 90.86, "num_layers": 6}
    teacher_logits = logits_with_accuracy(label_ids, 0.95, draws)
    latency_ms = {TEACHER: 10.0} | dict.fromkeys(accuracies, 5.0)
    return Results(runs, teacher, teacher_logits, label_ids, LABELS, latency_ms, "test", "some tweets")
