"""Run `run_distillation.py` for several layer strategies and seeds, and collect the results in one table.

    python benchmarks/sweep_strategies.py --name sst2 --strategies top bottom odd even uniform random --seeds 0 1 2 \\
        --arguments examples/sst2.json

Every run is a process of its own with the folder `outputs/NAME/STRATEGY-METHOD-SEED`; finished runs are not repeated.
The teacher is fine-tuned once, in `outputs/NAME/teacher`. Writes `docs/results/NAME.csv` (a row a run) and `NAME.md`
(mean and standard deviation over seeds). The method `finetune` trains the same students without the teacher's outputs.
Arguments that are not its own go to `run_distillation.py`.
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
METHODS = {"distill": [], "finetune": ["--ce_weight", "1", "--kl_weight", "0", "--cosine_weight", "0"]}
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
    sweep = ROOT / "outputs" / args.name
    rows = []
    for method, seed, strategy in itertools.product(args.methods, args.seeds, args.strategies):
        folder = sweep / f"{strategy}-{method}-{seed}"
        if not is_finished(folder):
            run(args.arguments, folder, sweep / "teacher", strategy, seed, [*METHODS[method], *passed_on])
        record = json.loads((folder / "distillation.json").read_text())
        rows.append(row_of(strategy, method, seed, record["student"]))
    teacher = row_of("-", "teacher", "-", record["teacher"])

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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="name of the sweep's folder and result files")
    parser.add_argument("--arguments", required=True, help="file for run_distillation.py: data, teacher, recipe")
    parser.add_argument("--strategies", nargs="+", required=True)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["distill"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    return parser.parse_known_args()


def is_finished(folder: Path) -> bool:
    record = folder / "distillation.json"
    return record.is_file() and json.loads(record.read_text())["status"] == "finished"


def run(arguments: str, folder: Path, teacher: Path, strategy: str, seed: int, extra: list[str]) -> None:
    command = [sys.executable, "run_distillation.py", arguments, "--output_dir", str(folder.relative_to(ROOT))]
    command += ["--teacher_output_dir", str(teacher.relative_to(ROOT)), "--layer_strategy", strategy]
    print(f"{folder.name} ...", flush=True)
    subprocess.run([*command, "--seed", str(seed), *extra], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def row_of(strategy: str, method: str, seed: int | str, model: dict) -> dict:
    figures = {key: model["results"][key] for _, key, _ in COLUMNS if key in model["results"]}
    layers = " ".join(map(str, model["layers"])) or "none"
    return {"strategy": strategy, "method": method, "seed": seed, "layers": layers, **figures}


def summary(teacher: dict, rows: list[dict]) -> str:
    columns = [column for column in COLUMNS if column[1] in teacher]
    lines = ["| " + " | ".join(["Student layers", "Method", *(title for title, _, _ in columns)]) + " |"]
    lines.append("|" + "---|" * (len(columns) + 2))
    groups = {("teacher", "-"): [teacher]}
    for row in rows:
        groups.setdefault((f"{row['strategy']} ({row['layers']})", row["method"]), []).append(row)
    for (name, method), members in groups.items():
        cells = [spread([factor * row[key] for row in members], factor) for _, key, factor in columns]
        lines.append("| " + " | ".join([name, method, *cells]) + " |")
    return "\n".join(lines)


def spread(values: list[float], factor: float) -> str:
    digits = 1 if factor == 100 else 3
    text = f"{mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {stdev(values):.{digits}f}"


if __name__ == "__main__":
    main()
