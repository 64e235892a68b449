"""What the usual mistakes of this exercise cost: each is made on purpose and compared with the correct run.

    python -m experiments.known_mistakes --name known_mistakes examples/sst2.json --max_train_samples 5000

- `odd_slip`: the odd layers chosen with the index `2 * i - 1` from 0: the last layer, then layers 2, 4, ...
- `even_slip`: the even layers chosen with the index `2 * i` from 0: layers 1, 3, 5, ..., which are the odd ones.
- `untrained_teacher`: the teacher is the pretrained encoder with an untrained head.
- `untrained_teacher_alone`: the same teacher, and the student learns from its outputs without labels.

All other arguments are passed on to `run_distillation.py`. Every run has the folder `outputs/NAME/VARIANT-SEED`;
finished runs are not repeated. All runs go to `docs/results/NAME.csv`, means and standard deviations over seeds to
`NAME.md`.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, set_seed

from benchmarks.results import ROOT, write_results
from experiments.runs import finished_record, scaled_spread
from layer_distillation.pretrained import PACKAGED_TEACHER, resolve_checkpoint
from layer_mapping import select_layers
from training.tables import markdown_table

DEPTH = 6
LAYERS = list(range(1, DEPTH + 1))


class Variant(NamedTuple):
    """A way to build and train a student, right or wrong."""

    title: str
    layers: tuple[int, ...]
    teacher_is_trained: bool = True
    losses: dict[str, float] = {}


VARIANTS = {
    "odd": Variant("odd layers", select_layers("odd", DEPTH)),
    "odd_slip": Variant("odd layers by 2i - 1", tuple(LAYERS[2 * i - 1] for i in range(DEPTH // 2))),
    "even": Variant("even layers", select_layers("even", DEPTH)),
    "even_slip": Variant("even layers by 2i", tuple(LAYERS[2 * i] for i in range(DEPTH // 2))),
    "untrained_teacher": Variant("untrained teacher", select_layers("odd", DEPTH), teacher_is_trained=False),
    "untrained_teacher_alone": Variant(
        "untrained teacher, no labels",
        select_layers("odd", DEPTH),
        teacher_is_trained=False,
        losses={"ce_weight": 0, "kl_weight": 1},
    ),
}
COLUMNS = {
    "train_eval_loss": ("Training loss", 1),
    "eval_loss": ("Validation loss", 1),
    "eval_accuracy": ("Validation accuracy (%)", 100),
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--name", required=True, help="name of the folder in outputs/ and of the result files")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    args, passed_on = parser.parse_known_args()
    folder = ROOT / "outputs" / args.name
    rows = []
    for seed in args.seeds:
        for name, variant in VARIANTS.items():
            settings = {
                "layers": ",".join(map(str, variant.layers)),
                "seed": seed,
                "teacher_output_dir": folder / "teacher",
                **variant.losses,
            }
            if not variant.teacher_is_trained:
                settings["teacher_name_or_path"] = untrained_teacher(folder)
            record = finished_record(folder / f"{name}-{seed}", settings, passed_on)
            figures = {key: record["student"]["results"][key] for key in COLUMNS}
            layers = " ".join(map(str, record["student"]["layers"]))
            teacher = record["teacher"]["results"]["eval_accuracy"]
            rows.append({"variant": name, "seed": seed, "layers": layers, **figures, "teacher_eval_accuracy": teacher})
    write_results(args.name, rows, markdown_table([summary(name, rows) for name in VARIANTS]))


def untrained_teacher(folder: Path) -> Path:
    """Returns the folder of the encoder with an untrained head for the labels of the trained teacher in `folder`."""
    path, untrained = resolve_checkpoint(PACKAGED_TEACHER), folder / "untrained_teacher"
    if not untrained.is_dir():
        set_seed(0)
        names = AutoConfig.from_pretrained(folder / "teacher").id2label
        labels = {"id2label": names, "label2id": {name: i for i, name in names.items()}}
        AutoModelForSequenceClassification.from_pretrained(path, **labels).save_pretrained(untrained)
        AutoTokenizer.from_pretrained(path).save_pretrained(untrained)
    return untrained


def summary(variant: str, rows: list[dict]) -> dict[str, str]:
    """Returns a variant's row of the table: means and standard deviations over seeds."""
    members = [row for row in rows if row["variant"] == variant]
    return {
        "Variant": VARIANTS[variant].title,
        "Layers": members[0]["layers"],
        "Teacher's accuracy (%)": f"{100 * members[0]['teacher_eval_accuracy']:.1f}",
        **{title: scaled_spread([row[key] for row in members], factor) for key, (title, factor) in COLUMNS.items()},
    }


if __name__ == "__main__":
    main()
