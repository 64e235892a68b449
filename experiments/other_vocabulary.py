"""Distils a teacher into students with another vocabulary, against the same students on the labels alone: SST-2.

    python -m experiments.other_vocabulary
    python -m experiments.other_vocabulary --teacher_name_or_path all-mpnet-base-v2    # from a folder

The teacher is a fine-tuned MPNet of 12 layers; the students are MiniLM with all of its 6 layers and with its layers 1,
3 and 5. All other arguments are passed on to `run_distillation.py`. Finished runs in `outputs/other_vocabulary` are
not repeated. Results go to `docs/results/other_vocabulary.csv` and `.md`, packed predictions of the validation split
to `docs/results/other_vocabulary`.
"""

import argparse
import itertools
from collections.abc import Mapping
from pathlib import Path

from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.results import RESULTS, ROOT, write_results
from comparison.bootstrap import difference, pooled_seed_variance
from comparison.methods import METHODS
from comparison.metrics import METRICS, accuracy
from comparison.predictions import Predictions
from experiments.kept_sentences import predict
from experiments.known_figures import scores_of
from experiments.runs import finished_record, scaled_spread
from layer_distillation.pretrained import PACKAGED_TEACHER, resolve_checkpoint
from layer_distillation.problem_types import SINGLE_LABEL
from layer_mapping import build_student
from training.evaluation import TRAINING_LOSS
from training.tables import format_layers, grouped, markdown_table

NAME = "other_vocabulary"
ARGUMENTS = "examples/other_vocabulary_sst2.json"
FOLDER = ROOT / "outputs" / NAME
LAYERS = {"all": (1, 2, 3, 4, 5, 6), "odd": (1, 3, 5)}
SETTINGS = {"distill": {}, "finetune": {"ce_weight": 1, "kl_weight": 0}}
SEEDS = (0, 1, 2)
COLUMNS = {
    TRAINING_LOSS: ("Training loss", 1),
    "eval_loss": ("Validation loss", 1),
    "eval_accuracy": ("Validation accuracy (%)", 100),
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    _, passed_on = parser.parse_known_args()
    students = {name: encoder_of_layers(layers) for name, layers in LAYERS.items()}
    sentences, rows = load_dataset("nyu-mll/glue", "sst2", split="validation"), []
    for seed, (name, student), method in itertools.product(SEEDS, students.items(), SETTINGS):
        run = FOLDER / "runs" / f"{method}-{name}-{seed}"
        settings = {"teacher_output_dir": FOLDER / "teacher", "student_name_or_path": student, "seed": seed}
        record = finished_record(run, settings | SETTINGS[method], [ARGUMENTS, *passed_on])
        if not rows:
            rows.append(row_of(("teacher", "", ""), record["teacher"], predict(FOLDER / "teacher", sentences)))
        rows.append(row_of((method, name, seed), record["student"], predict(run, sentences)))
    write_results(NAME, rows, table(rows))


def encoder_of_layers(layers: tuple[int, ...]) -> Path:
    """Returns the folder of some layers of the pretrained MiniLM, after writing it."""
    path, folder = resolve_checkpoint(PACKAGED_TEACHER), FOLDER / f"encoder-{len(layers)}"
    encoder = build_student(AutoModelForSequenceClassification.from_pretrained(path, dtype="float32"), layers)
    encoder.base_model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(path).save_pretrained(folder)
    return folder


def row_of(cell: tuple[str, str, object], model: Mapping, predictions: Predictions) -> dict:
    """Returns a row of the csv file, in the columns of a comparison, and writes the predictions.

    Args:
        cell: method, layers of the student, and seed; empty where there are none.
        model: the teacher's or the student's part of a record.
    """
    method, layers, seed = cell
    predictions.write(RESULTS / NAME / f"{'-'.join(str(part) for part in cell if part != '')}.npz")
    return {
        "method": method,
        "strategy": layers,
        "seed": seed,
        "trainable_parameters": model.get("trainable_parameters", ""),
        TRAINING_LOSS: model["results"][TRAINING_LOSS],
        "eval_loss": model["results"]["eval_loss"],
        **{f"eval_{metric.name}": metric(predictions.labels, predictions.answers) for metric in METRICS[SINGLE_LABEL]},
    }


def table(rows: list[dict]) -> str:
    """Returns one line for each kind of student: means over seeds, and what distilling adds with its 95% interval."""
    scores = scores_of(NAME)[accuracy.name]
    seeds, lines = pooled_seed_variance(scores.values()), []
    for (method, layers), runs in grouped(rows, key=lambda row: (row["method"], row["strategy"])).items():
        title, margin = "MPNet, the teacher", "-"
        if layers:
            title = f"MiniLM, layers {format_layers(LAYERS[layers])}, {METHODS[method].title}"
        if method == "distill":
            margin = difference(scores[method, layers], scores["finetune", layers], seeds).in_print
        line = {"Model": title}
        for column, (column_title, factor) in COLUMNS.items():
            line[column_title] = scaled_spread([run[column] for run in runs], factor)
        lines.append(line | {"Accuracy minus that of fine-tuned (points)": margin})
    return markdown_table(lines)


if __name__ == "__main__":
    main()
