"""Run `run_distillation.py` for several layer strategies, recipes and seeds, and collect the results in one table.

    python benchmarks/sweep.py --name sst2 --arguments examples/sst2.json \\
        --strategies top bottom odd even random --seeds 0 1 2

Every run is a process of its own with the folder `outputs/NAME/STRATEGY-RECIPE-SEED`; finished runs are not repeated.
The teacher is fine-tuned once, in `outputs/NAME/teacher`. All runs of that name go to `docs/results/NAME.csv`, their
means and standard deviations over seeds to `NAME.md`. The recipe `finetune` trains the same student without the
teacher's outputs. Arguments that are not the sweep's own are passed on to `run_distillation.py`.
"""

import argparse
import csv
import itertools
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from layer_mapping import STRATEGIES  # noqa: E402

# What a recipe changes of the argument file.
RECIPES = {
    "default": {},
    "finetune": {"ce_weight": 1, "kl_weight": 0},
    "mostly_kl": {"ce_weight": 0.1, "kl_weight": 0.9},
    "hot": {"temperature": 4},
    "with_cosine": {"ce_weight": 1 / 3, "kl_weight": 1 / 3, "cosine_weight": 1 / 3, "temperature": 1},
    "lr_5e5": {"learning_rate": 5e-5},
    "lr_2e4": {"learning_rate": 2e-4},
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


def main():
    args, passed_on = parse_arguments()
    sweep = Path("outputs") / args.name
    for recipe, seed, strategy in itertools.product(args.recipes, args.seeds, args.strategies):
        folder = sweep / f"{strategy}-{recipe}-{seed}"
        if not is_finished(folder):
            print(f"{folder.name} ...", flush=True)
            settings = {
                "output_dir": folder,
                "teacher_output_dir": sweep / "teacher",
                "layer_strategy": strategy,
                "seed": seed,
                **RECIPES[recipe],
            }
            file = [args.arguments] if args.arguments else []
            flags = [f"--{name}={value}" for name, value in settings.items()]
            command = [sys.executable, "run_distillation.py", *file, *flags, *passed_on]
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)

    runs = sorted((folder for folder in (ROOT / sweep).iterdir() if is_finished(folder)), key=position_in_table)
    records = {folder.name: json.loads((folder / "distillation.json").read_text()) for folder in runs}
    rows = [row_of(*name.split("-"), record["student"]) for name, record in records.items()]
    teacher = row_of("-", "teacher", "-", next(iter(records.values()))["teacher"])
    results = ROOT / "docs" / "results"
    results.mkdir(parents=True, exist_ok=True)
    with open(results / f"{args.name}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(teacher), lineterminator="\n")
        writer.writeheader()
        writer.writerows([teacher, *rows])
    table = summary(teacher, rows)
    (results / f"{args.name}.md").write_text(table + "\n")
    print(table)


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--name", required=True, help="name of the sweep's folder and result files")
    parser.add_argument("--arguments", help="file for run_distillation.py: data, teacher, recipe")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, required=True)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=["default"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    return parser.parse_known_args()


def is_finished(folder: Path) -> bool:
    return (ROOT / folder / "distillation.json").is_file()


def position_in_table(folder: Path) -> tuple[int, int, int]:
    strategy, recipe, seed = folder.name.split("-")
    return list(RECIPES).index(recipe), STRATEGIES.index(strategy), int(seed)


def row_of(strategy: str, recipe: str, seed: str, model: dict) -> dict:
    figures = {key: model["results"][key] for _, key, _ in COLUMNS if key in model["results"]}
    layers = " ".join(map(str, model["layers"])) or "none"
    return {"strategy": strategy, "recipe": recipe, "seed": seed, "layers": layers, **figures}


def summary(teacher: dict, rows: list[dict]) -> str:
    columns = [column for column in COLUMNS if column[1] in teacher]
    lines = ["| " + " | ".join(["Student layers", "Recipe", *(title for title, _, _ in columns)]) + " |"]
    lines.append("|" + "---|" * (len(columns) + 2))
    groups = {("teacher", "-"): [teacher]}
    for row in rows:
        groups.setdefault((f"{row['strategy']} ({row['layers']})", row["recipe"]), []).append(row)
    for (name, recipe), members in groups.items():
        cells = [spread([factor * row[key] for row in members], factor) for _, key, factor in columns]
        lines.append("| " + " | ".join([name, recipe, *cells]) + " |")
    return "\n".join(lines)


def spread(values: list[float], factor: float) -> str:
    digits = 1 if factor == 100 else 3
    text = f"{mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {stdev(values):.{digits}f}"


if __name__ == "__main__":
    main()
