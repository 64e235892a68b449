"""How many steps the trials of a layer search need to tell which layers make the best student.

    python -m experiments.trial_length --name sst2_5000_trial_length --steps 32 96 --layer_sets sst2_5000_layer_sets \\
        examples/sst2.json --max_train_samples 5000 --seed 0

`experiments.layer_sets` has trained every set of layers in full, with results in `docs/results/LAYER_SETS.csv`. This
study trains each set again for fewer steps, as a trial of `--layer_strategy search`. Spearman's correlation compares
two orders of the sets: that of the trials, by divergence from the teacher on held-out training examples, and that of
the full runs, by mean score. The losses of all trials go to `docs/results/NAME.csv`, the correlations to `NAME.md`.
All other arguments are those of `run_distillation.py`.
"""

import argparse
from statistics import mean

from scipy.stats import spearmanr
from tqdm.auto import tqdm
from transformers import set_seed

from benchmarks.results import RESULTS, ROOT, write_results
from experiments.known_figures import read_rows
from experiments.layer_sets import metric_of, ranked
from experiments.runs import metric_title
from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.pretrained import resolve_checkpoint
from layer_mapping import build_student, parse_layers
from run_distillation import DEFAULT_ARGUMENTS
from text_data.arguments import DataArguments
from training.arguments import StudentArguments, TeacherArguments, resolve_defaults
from training.command_line import check_trainer_arguments, parse_arguments, set_up_logging
from training.inputs import load_inputs
from training.layer_search import run_trial, split_held_out, trial_arguments
from training.run import num_steps
from training.search_plan import held_out_size
from training.stored_or_live import with_teacher_logits
from training.tables import format_layers, markdown_table
from training.teacher import load_teacher


def main():
    options, passed_on = read_options()
    rows_of_runs = read_rows(RESULTS / f"{options.layer_sets}.csv")
    full_runs, metric = mean_scores(rows_of_runs), metric_of(rows_of_runs[0])
    settings = parse_arguments(
        (TeacherArguments, StudentArguments, DataArguments, DistillationTrainingArguments),
        [*passed_on, f"--teacher_name_or_path={ROOT / 'outputs' / options.layer_sets / 'teacher'}"],
        DEFAULT_ARGUMENTS,
    )
    teacher_args, _, data_args, training_args = settings.arguments
    resolve_defaults(teacher_args, data_args, training_args, settings.sources, "trials")
    check_trainer_arguments(training_args)
    set_up_logging(training_args)

    # The data that a search trains and scores on.
    path = resolve_checkpoint(teacher_args.teacher_name_or_path)
    inputs = load_inputs(path, teacher_args, data_args, training_args)
    source = load_teacher(path, teacher_args, inputs.data.labels).model.to(training_args.device)
    dataset = with_teacher_logits(inputs, source, teacher_args, training_args)
    num_held_out, full_run = held_out_size(training_args, len(dataset)), num_steps(training_args, len(dataset))
    training, held_out = split_held_out(dataset, num_held_out, training_args.seed)

    rows = []
    for steps in options.steps:
        trial_args = trial_arguments(training_args, steps, full_run)
        for layers in tqdm(full_runs, desc=f"{steps} steps"):
            set_seed(training_args.seed)
            trial = run_trial(build_student(source, layers), trial_args, training, held_out, inputs)
            rows.append({"steps": steps, "layers": format_layers(layers), "loss": trial["loss"]})
    write_results(options.name, rows, correlations(rows, full_runs, full_run, metric))


def read_options() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--name", required=True, help="name of the result files")
    parser.add_argument("--layer_sets", required=True, help="--name of the full runs of experiments.layer_sets")
    parser.add_argument("--steps", nargs="+", type=int, required=True, help="lengths of the trials, in steps")
    return parser.parse_known_args()


def mean_scores(rows: list[dict]) -> dict[tuple[int, ...], float]:
    """Returns the mean score over seeds of every set of layers in a table of full runs, the best set first."""
    return {parse_layers(layers): mean(scores) for layers, scores in ranked(rows).items()}


def correlations(rows: list[dict], full_runs: dict[tuple[int, ...], float], full_run: int, metric: str) -> str:
    """Returns a table with a row for each length of the trials; ranks are those of the full runs, from 1."""
    ranks = {format_layers(layers): rank for rank, layers in enumerate(full_runs, start=1)}
    table = []
    for steps in dict.fromkeys(row["steps"] for row in rows):
        losses = {row["layers"]: row["loss"] for row in rows if row["steps"] == steps}
        correlation = spearmanr([losses[layers] for layers in ranks], [-score for score in full_runs.values()])
        leaders = sorted(losses, key=losses.get)[:4]
        table.append(
            {
                "Steps": f"{steps} of {full_run}",
                f"Spearman's correlation with {metric_title(metric)}": f"{correlation.statistic:.2f}",
                "First four sets in the trials (ranks after full runs)": ", ".join(
                    f"{layers.replace(',', ' ')} ({ranks[layers]})" for layers in leaders
                ),
            }
        )
    return markdown_table(table)


if __name__ == "__main__":
    main()
