"""Run `run_distillation.py` for several layer strategies, recipes and seeds, and collect the results in one table.

    python -m experiments.sweep --name sst2 --arguments examples/sst2.json \\
        --strategies top bottom odd even random --seeds 0 1 2

Every run is a process of its own with the folder `outputs/NAME/STRATEGY-RECIPE-SEED`; finished runs are not repeated.
The teacher is fine-tuned once, in `outputs/NAME/teacher`. All runs of that name go to `docs/results/NAME.csv`, their
means and standard deviations over seeds to `NAME.md`. With `--against odd-default` the table also says by how much the
other students differ from those, with 95% intervals over examples and seeds (see `bootstrap.py`). The recipe
`finetune` trains the same student without the teacher's outputs. Arguments that are not the sweep's own are passed on
to `run_distillation.py`.
"""

import argparse
import itertools
import json
from operator import itemgetter
from pathlib import Path

from benchmarks.results import write_results
from comparison.bootstrap import accuracy, difference, macro_f1
from experiments.runs import bootstrap_runs, finished_record, grouped, scaled_spread
from layer_mapping import STRATEGIES
from training.tables import markdown_table

ROOT = Path(__file__).resolve().parent.parent

# What a recipe changes of the argument file, and of what `settings_of` gives all runs; None leaves an argument out.
# SWEEP is the folder of the sweep.
RECIPES = {
    "default": {},
    "finetune": {"ce_weight": 1, "kl_weight": 0},
    "mostly_kl": {"ce_weight": 0.1, "kl_weight": 0.9},
    "hot": {"temperature": 4},
    "with_cosine": {"ce_weight": 1 / 3, "kl_weight": 1 / 3, "cosine_weight": 1 / 3, "temperature": 1},
    "lr_5e5": {"learning_rate": 5e-5},
    "lr_2e4": {"learning_rate": 2e-4},
    "hidden": {"hidden_weight": 1},
    "hidden_10": {"hidden_weight": 10},
    "hidden_first": {"hidden_weight": 1, "hidden_tokens": "first"},
    "attention": {"attention_weight": 1},
    "attention_mse": {"attention_weight": 10, "attention_divergence": "mse"},
    "relation": {"relation_weight": 1},
    "hidden_relation": {"hidden_weight": 1, "relation_weight": 1},
    "hidden_fading": {"hidden_weight": 2, "linear_to": '{"hidden_weight": 0}'},
    "cooling": {"temperature": 8, "linear_to": '{"temperature": 1}'},
    "stages": {"stages": "5,4,3"},
    "kl_alone": {"ce_weight": 0, "kl_weight": 1},
    "hidden_kl_alone": {"ce_weight": 0, "kl_weight": 1, "hidden_weight": 1},
    # On SST-2, with the other recipes' teacher: what it says of all sentences, whose labels are left out.
    "more_text": {"ce_weight": 0, "kl_weight": 1, "max_train_samples": 67349, "teacher_name_or_path": "SWEEP/teacher"},
    # Layers of the encoder as it was before the teacher was fine-tuned; docs/ANALYSIS.md says how to cut it.
    "pretrained": {"layer_strategy": None, "student_name_or_path": "SWEEP/encoder"},
    "twice_as_long": {"num_train_epochs": 4},
    "hidden_twice_as_long": {"hidden_weight": 1, "num_train_epochs": 4},
}
# Columns of the table: title, key in the student's or teacher's results, factor for people.
COLUMNS = (
    ("Training loss", "train_loss_ce", 1),
    ("Validation loss", "eval_loss", 1),
    ("Validation accuracy (%)", "eval_accuracy", 100),
    ("Validation macro-F1 (%)", "eval_macro_f1", 100),
    ("Test accuracy (%)", "predict_accuracy", 100),
    ("Test macro-F1 (%)", "predict_macro_f1", 100),
)
METRICS = {"accuracy": ("Accuracy", accuracy), "macro_f1": ("Macro-F1", macro_f1)}


def main():
    args, passed_on = parse_arguments()
    sweep = ROOT / "outputs" / args.name
    arguments = [*([args.arguments] if args.arguments else []), *passed_on]
    for recipe, seed, strategy in itertools.product(args.recipes, args.seeds, args.strategies):
        settings = settings_of(sweep, strategy, recipe, seed)
        finished_record(sweep / f"{strategy}-{recipe}-{seed}", settings, arguments)
    files = sorted(sweep.glob("*-*-*/distillation.json"), key=lambda file: position_in_table(file.parent.name))
    records = {file.parent.name: json.loads(file.read_text()) for file in files}
    teacher = row_of("teacher", "-", "-", next(iter(records.values()))["teacher"])
    rows = [row_of(*name.split("-"), record["student"]) for name, record in records.items()]
    margins = {}
    if args.against:
        margins = differences([file.parent for file in files], args.against, args.metric)
    write_results(args.name, [teacher, *rows], summary([teacher, *rows], margins))


def settings_of(sweep: Path, strategy: str, recipe: str, seed: int) -> dict[str, object]:
    """What tells a run from the others of a sweep."""
    settings = {"teacher_output_dir": sweep / "teacher", "layer_strategy": strategy, "seed": seed} | RECIPES[recipe]
    return {
        name: value.replace("SWEEP", str(sweep)) if isinstance(value, str) else value
        for name, value in settings.items()
        if value is not None
    }


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--name", required=True, help="name of the sweep's folder and result files")
    parser.add_argument("--arguments", help="file for run_distillation.py: data, teacher, recipe")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, required=True)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=["default"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--against",
        choices=[f"{strategy}-{recipe}" for strategy in STRATEGIES for recipe in RECIPES],
        metavar="STRATEGY-RECIPE",
        help="students to give the others' difference to",
    )
    parser.add_argument("--metric", choices=METRICS, default="accuracy", help="of the differences")
    return parser.parse_known_args()


def position_in_table(name: str) -> tuple[int, int, int]:
    strategy, recipe, seed = name.split("-")
    return list(RECIPES).index(recipe), STRATEGIES.index(strategy), int(seed)


def row_of(strategy: str, recipe: str, seed: str, model: dict) -> dict:
    figures = {key: model["results"][key] for _, key, _ in COLUMNS if key in model["results"]}
    layers = " ".join(map(str, model["layers"])) or "none"
    return {"strategy": strategy, "recipe": recipe, "seed": seed, "layers": layers, **figures}


def differences(folders: list[Path], reference: str, metric: str) -> dict[tuple[str, str], dict[str, str]]:
    """A cell of the table for each strategy and recipe: how far it is ahead of the reference, in points."""
    name, function = METRICS[metric]
    groups = grouped(folders, key=lambda folder: tuple(folder.name.split("-")[:2]))
    scores = {group: bootstrap_runs(function, members) for group, members in groups.items()}
    title = f"{name} against {reference} (points)"
    cells = {}
    for group in scores.keys() - {tuple(reference.split("-"))}:
        margin = difference(scores[group], scores[tuple(reference.split("-"))])
        cells[group] = {title: str(margin)}
    return cells


def summary(rows: list[dict], margins: dict[tuple[str, str], dict[str, str]]) -> str:
    """A row for every recipe and strategy: means and standard deviations over seeds, and the `differences`."""
    no_margin = {title: "" for cells in margins.values() for title in cells}
    groups = grouped(rows, key=itemgetter("strategy", "recipe"))
    return markdown_table(
        [
            {
                "Student layers": f"{strategy} ({'; '.join(dict.fromkeys(row['layers'] for row in members))})",
                "Recipe": recipe,
                **{
                    title: scaled_spread([row.get(key) for row in members], factor)
                    for title, key, factor in COLUMNS
                    if key in rows[0]
                },
                **margins.get((strategy, recipe), no_margin),
            }
            for (strategy, recipe), members in groups.items()
        ]
    )


if __name__ == "__main__":
    main()
