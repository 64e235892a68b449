"""Runs `run_distillation.py` for several layer strategies, recipes and seeds, and puts the results into one table.

    python -m experiments.sweep --name sst2 --arguments examples/sst2.json \\
        --strategies top bottom odd even random --seeds 0 1 2

Every run is a process of its own with the folder `outputs/NAME/STRATEGY-RECIPE-SEED`; finished runs are not repeated.
The teacher is fine-tuned once, in `outputs/NAME/teacher`. All runs in `outputs/NAME` go to `docs/results/NAME.csv`,
means and standard deviations over seeds to `NAME.md`. With `--against odd-default` the table also says how far each
student is ahead of these students, with 95% intervals over examples and over seeds, whose variance is pooled over all
runs of the sweep as in the report of a comparison (`comparison/bootstrap.py`). All other arguments are passed on to
`run_distillation.py`.
"""

import argparse
import itertools
import json
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from benchmarks.results import ROOT, write_results
from comparison.bootstrap import difference, pooled_seed_variance
from comparison.methods import COPY_NOTHING
from comparison.metrics import accuracy, macro_f1
from experiments.runs import bootstrap_runs, finished_record, scaled_spread
from layer_mapping import STRATEGIES
from training.tables import grouped, markdown_table


class Recipe(NamedTuple):
    """A way to train a student.

    Attributes:
        title: what the table calls it.
        settings: what differs from the argument file and from the settings that all runs have; None leaves an argument
            out, SWEEP stands for the folder of the sweep.
    """

    title: str
    settings: dict[str, object]


FROM_TEACHER_ALONE = {"ce_weight": 0, "kl_weight": 1}
A_THIRD_EACH = {"ce_weight": 1 / 3, "kl_weight": 1 / 3, "cosine_weight": 1 / 3, "temperature": 1}
RECIPES = {
    "default": Recipe("default", {}),
    "finetune": Recipe("labels alone", {"ce_weight": 1, "kl_weight": 0}),
    "mostly_kl": Recipe("weights 0.1 for CE, 0.9 for KL", {"ce_weight": 0.1, "kl_weight": 0.9}),
    "hot": Recipe("T = 4", {"temperature": 4}),
    "with_cosine": Recipe("a third each: CE, KL (T = 1), cosine", A_THIRD_EACH),
    "lr_5e5": Recipe("learning rate 5e-5", {"learning_rate": 5e-5}),
    "lr_2e4": Recipe("learning rate 2e-4", {"learning_rate": 2e-4}),
    "hidden": Recipe("with hidden states", {"hidden_weight": 1}),
    "hidden_10": Recipe("with hidden states, weight 10", {"hidden_weight": 10}),
    "hidden_first": Recipe("with the first token's hidden states", {"hidden_weight": 1, "hidden_tokens": "first"}),
    "attention": Recipe("with attention", {"attention_weight": 1}),
    "attention_mse": Recipe(
        "with attention, squared error, weight 10", {"attention_weight": 10, "attention_divergence": "mse"}
    ),
    "relation": Recipe("with relations of the last layers", {"relation_weight": 1}),
    "hidden_relation": Recipe("with hidden states and relations", {"hidden_weight": 1, "relation_weight": 1}),
    "hidden_fading": Recipe(
        "with hidden states, weight from 2 to 0", {"hidden_weight": 2, "linear_to": '{"hidden_weight": 0}'}
    ),
    "cooling": Recipe("T from 8 to 1", {"temperature": 8, "linear_to": '{"temperature": 1}'}),
    "stages": Recipe("stages of 5, 4 and 3 layers", {"stages": "5,4,3"}),
    "kl_alone": Recipe("no labels", FROM_TEACHER_ALONE),
    "hidden_kl_alone": Recipe("no labels, with hidden states", {**FROM_TEACHER_ALONE, "hidden_weight": 1}),
    # For SST-2: the teacher of the other recipes answers for all sentences, whose labels are left out.
    "more_text": Recipe(
        "no labels, all 67,349 sentences",
        {**FROM_TEACHER_ALONE, "max_train_samples": 67349, "teacher_name_or_path": "SWEEP/teacher"},
    ),
    # Layers of the encoder before the teacher was fine-tuned; docs/ANALYSIS.md says how to cut it.
    "pretrained": Recipe(
        "layers of the pretrained encoder", {"layer_strategy": None, "student_name_or_path": "SWEEP/encoder"}
    ),
    "twice_as_long": Recipe("twice the epochs", {"num_train_epochs": 4}),
    "hidden_twice_as_long": Recipe(
        "with hidden states, twice the epochs", {"hidden_weight": 1, "num_train_epochs": 4}
    ),
}
# Columns of the table: title, key in the results of student or teacher, and factor (100 for percent).
COLUMNS = (
    ("Training loss", "train_eval_loss", 1),
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
    """Returns the settings in which a run differs from the other runs of its sweep."""
    settings = {"teacher_output_dir": sweep / "teacher", "layer_strategy": strategy, "seed": seed} | RECIPES[
        recipe
    ].settings
    return {
        name: value.replace("SWEEP", str(sweep)) if isinstance(value, str) else value
        for name, value in settings.items()
        if value is not None
    }


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--name", required=True, help="name of the folder in outputs/ and of the result files")
    parser.add_argument("--arguments", help="argument file for run_distillation.py: data, teacher, default recipe")
    parser.add_argument(
        "--strategies", nargs="+", choices=STRATEGIES, required=True, help="which layers to start from"
    )
    parser.add_argument(
        "--recipes",
        nargs="+",
        choices=RECIPES,
        default=["default"],
        metavar="RECIPE",
        help="; ".join(f"{name}: {recipe.title}" for name, recipe in RECIPES.items()),
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument(
        "--against",
        choices=[f"{strategy}-{recipe}" for strategy in STRATEGIES for recipe in RECIPES],
        metavar="STRATEGY-RECIPE",
        help="reference students; the table gives each other student's difference to them",
    )
    parser.add_argument("--metric", choices=METRICS, default="accuracy", help="metric of the differences")
    return parser.parse_known_args()


def position_in_table(name: str) -> tuple[int, int, int]:
    """Returns what runs, named `STRATEGY-RECIPE-SEED`, are sorted by."""
    strategy, recipe, seed = name.split("-")
    return list(RECIPES).index(recipe), STRATEGIES.index(strategy), int(seed)


def row_of(strategy: str, recipe: str, seed: str, model: dict) -> dict:
    """Returns a row of the csv file; `model` is the teacher's or the student's part of a record."""
    figures = {key: model["results"][key] for _, key, _ in COLUMNS if key in model["results"]}
    layers = " ".join(map(str, model["layers"])) or "none"
    return {"strategy": strategy, "recipe": recipe, "seed": seed, "layers": layers, **figures}


def differences(folders: list[Path], reference: str, metric: str) -> dict[tuple[str, str], dict[str, str]]:
    """Returns a cell of the table for each strategy and recipe: its lead over the reference in points."""
    name, function = METRICS[metric]
    groups = grouped(folders, key=lambda folder: tuple(folder.name.split("-")[:2]))
    scores = {
        group: bootstrap_runs(function, members, fresh=group[0] in COPY_NOTHING) for group, members in groups.items()
    }
    seeds = pooled_seed_variance(scores.values())
    strategy, recipe = reference.split("-")
    title = f"{name} against {strategy}, {RECIPES[recipe].title} (points)"
    cells = {}
    for group in scores.keys() - {(strategy, recipe)}:
        margin = difference(scores[group], scores[strategy, recipe], seeds)
        cells[group] = {title: str(margin)}
    return cells


def summary(rows: list[dict], margins: dict[tuple[str, str], dict[str, str]]) -> str:
    """Returns a table with a row for every recipe and strategy: means and deviations over seeds, and `differences`."""
    no_margin = {title: "" for cells in margins.values() for title in cells}
    groups = grouped(rows, key=itemgetter("strategy", "recipe"))
    return markdown_table(
        [
            {
                "Student layers": student_title(strategy, [row["layers"] for row in members]),
                "Recipe": RECIPES[recipe].title if recipe in RECIPES else recipe,
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


def student_title(strategy: str, layers: list[str]) -> str:
    """Returns the strategy and the different sets of teacher layers of its students, if they have any."""
    if "none" in layers:
        return "random (fresh weights)" if strategy == "random" else strategy
    return f"{strategy} ({'; '.join(dict.fromkeys(layers))})"


if __name__ == "__main__":
    main()
