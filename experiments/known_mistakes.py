"""What the usual mistakes in this exercise cost: each is made on purpose, beside the run as it is meant.

    python -m experiments.known_mistakes --name known_mistakes examples/sst2.json --max_train_samples 5000

- `odd_slip`: the odd layers taken with the index `2 * i - 1` from 0: the last layer comes first, then layers 2, 4, ...
- `even_slip`: the even layers taken with `2 * i` from 0: layers 1, 3, 5, ..., which are the odd ones.
- `untrained_teacher`: the teacher's encoder as it was pretrained, its head fresh.
- `untrained_teacher_alone`: the same, and the student learns from nothing but its outputs.

Arguments that are not this program's own are passed on to `run_distillation.py`. Every run has the folder
`outputs/NAME/VARIANT-SEED`; finished ones are not repeated. All runs go to `docs/results/NAME.csv`, their means and
standard deviations over seeds to `NAME.md`.
"""

import argparse
from pathlib import Path

from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, set_seed

from benchmarks.results import write_results
from experiments.runs import finished_record, scaled_spread
from layer_distillation.pretrained import PACKAGED_TEACHER, resolve_checkpoint
from layer_mapping import select_layers
from training.tables import markdown_table

ROOT = Path(__file__).resolve().parent.parent

DEPTH = 6
LAYERS = list(range(1, DEPTH + 1))
# Layers, whether the teacher is trained, and arguments of the loss.
VARIANTS = {
    "odd": (select_layers("odd", DEPTH), True, {}),
    "odd_slip": ([LAYERS[2 * i - 1] for i in range(DEPTH // 2)], True, {}),
    "even": (select_layers("even", DEPTH), True, {}),
    "even_slip": ([LAYERS[2 * i] for i in range(DEPTH // 2)], True, {}),
    "untrained_teacher": (select_layers("odd", DEPTH), False, {}),
    "untrained_teacher_alone": (select_layers("odd", DEPTH), False, {"ce_weight": 0, "kl_weight": 1}),
}
COLUMNS = {
    "train_loss_ce": ("Training loss", 1),
    "eval_loss": ("Validation loss", 1),
    "eval_accuracy": ("Validation accuracy (%)", 100),
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--name", required=True, help="name of the folder and of the result files")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args, passed_on = parser.parse_known_args()
    folder = ROOT / "outputs" / args.name
    rows = []
    for seed in args.seeds:
        for variant, (layers, teacher_is_trained, losses) in VARIANTS.items():
            settings = {
                "layers": ",".join(map(str, layers)),
                "seed": seed,
                "teacher_output_dir": folder / "teacher",
                **losses,
            }
            if not teacher_is_trained:
                settings["teacher_name_or_path"] = untrained_teacher(folder)
            record = finished_record(folder / f"{variant}-{seed}", settings, passed_on)
            figures = {key: record["student"]["results"][key] for key in COLUMNS}
            layers = " ".join(map(str, record["student"]["layers"]))
            teacher = record["teacher"]["results"]["eval_accuracy"]
            rows.append(
                {"variant": variant, "seed": seed, "layers": layers, **figures, "teacher_eval_accuracy": teacher}
            )
    write_results(args.name, rows, markdown_table([summary(variant, rows) for variant in VARIANTS]))


def untrained_teacher(folder: Path) -> Path:
    """A checkpoint with a fresh head for the labels of the trained teacher in `folder`."""
    path, untrained = resolve_checkpoint(PACKAGED_TEACHER), folder / "untrained_teacher"
    if not untrained.is_dir():
        set_seed(0)
        names = AutoConfig.from_pretrained(folder / "teacher").id2label
        labels = {"id2label": names, "label2id": {name: i for i, name in names.items()}}
        AutoModelForSequenceClassification.from_pretrained(path, **labels).save_pretrained(untrained)
        AutoTokenizer.from_pretrained(path).save_pretrained(untrained)
    return untrained


def summary(variant: str, rows: list[dict]) -> dict[str, str]:
    members = [row for row in rows if row["variant"] == variant]
    return {
        "Variant": variant,
        "Layers": members[0]["layers"],
        "Teacher's accuracy (%)": f"{100 * members[0]['teacher_eval_accuracy']:.1f}",
        **{title: scaled_spread([row[key] for row in members], factor) for key, (title, factor) in COLUMNS.items()},
    }


if __name__ == "__main__":
    main()
