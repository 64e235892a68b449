"""Which layers, which method: train students in every way with several seeds, and compare them with intervals.

With the sample data and an encoder from PyPI (this is what no arguments mean); both tables come out:

    python run_comparison.py

Other data, chosen as in `run_distillation.py`, and how long it would take:

    python run_comparison.py --task_name sst2 --strategies top odd even --methods distill lora --seeds 0 1 2 --dry_run
    python run_comparison.py examples/compare_rte.json --seeds 0 1 2 3 4

The teacher is fine-tuned once, if need be. Each run has a folder of its own, `OUTPUT_DIR/runs/METHOD-STRATEGY-SEED`,
with the student, its record and its model card. Started again, the grid goes on where it was interrupted; finished
runs are kept, also when strategies, methods or seeds are added.
"""

import logging
import sys
from pathlib import Path

from comparison.arguments import ComparisonArguments, plan_cells
from comparison.document import to_markdown, write_document
from comparison.figures import draw_figures
from comparison.grid import Grid, check_grid, prepare_cell, run_grid, state_of
from comparison.report import build_report
from comparison.results import compare_layers, read_results, score_groups, write_results
from comparison.time_estimate import describe_plan, estimate_seconds
from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.errors import UserError
from layer_distillation.fingerprints import fingerprint_model
from layer_distillation.pretrained import resolve_checkpoint
from layer_distillation.record import UNFINISHED_RECORD_FILE, read_record, write_record
from lora_adapters.arguments import LoraArguments
from text_data.arguments import DataArguments
from training.arguments import TeacherArguments, resolve_defaults
from training.checkpoints import load_classifier
from training.command_line import command_line, explain_settings, parse_arguments, run, set_up_logging
from training.inputs import load_inputs
from training.output_folder import check_output_dir
from training.run import ALWAYS_SHOWN, new_record
from training.teacher import check_teacher_output_dir, prepare_teacher

logger = logging.getLogger(__name__)

DEFAULT_ARGUMENTS = Path(__file__).parent / "defaults" / "run_comparison.json"


def main():
    arguments, sources = parse_arguments(
        (TeacherArguments, DataArguments, LoraArguments, ComparisonArguments, DistillationTrainingArguments),
        sys.argv[1:],
        DEFAULT_ARGUMENTS,
    )
    teacher_args, data_args, lora_args, comparison_args, training_args = arguments
    resolve_defaults(teacher_args, data_args, training_args, sources, "comparison")
    set_up_logging(training_args)
    logger.info(explain_settings(arguments, sources, (*ALWAYS_SHOWN, "strategies", "methods", "seeds")))
    check_output_dir(training_args.output_dir)
    is_run = (Path(training_args.output_dir) / UNFINISHED_RECORD_FILE).is_file()
    if is_run or "student" in (read_record(training_args.output_dir) or {}):
        raise UserError(
            f"--output_dir {training_args.output_dir} holds the student of a run, whose record a comparison would "
            "replace. Choose another folder."
        )
    check_teacher_output_dir(teacher_args.teacher_output_dir)

    # Data and plan
    path = resolve_checkpoint(teacher_args.teacher_name_or_path)
    inputs = load_inputs(path, teacher_args, data_args, training_args)
    teacher_model, is_trained = load_classifier(path, inputs.data.labels, teacher_args)
    grid = Grid(*arguments, sources, inputs)
    check_grid(grid, teacher_model)
    runs = [prepare_cell(cell, grid) for cell in plan_cells(comparison_args)]
    states = {run.cell: state_of(run, grid) for run in runs}
    if comparison_args.dry_run:
        print(describe_plan(runs, states, estimate_seconds(runs, states, grid, teacher_model)))
        return

    # Teacher and students
    write_record(training_args.output_dir, new_record(arguments, sources, inputs, training_args))
    teacher = prepare_teacher(path, teacher_model, is_trained, teacher_args, training_args, inputs)
    fingerprint = fingerprint_model(teacher.load(training_args.device))
    waiting = [run for run in runs if state_of(run, grid, fingerprint) != "finished"]
    failures = run_grid(waiting, grid, teacher)

    # Report
    finished = [run for run in runs if run.cell not in failures]
    if finished:
        results = read_results(finished, grid, teacher)
        scores = score_groups(results)
        write_results(grid.folder, results)
        figures = draw_figures(grid.folder / "figures", results, scores, compare_layers(finished, grid, teacher))
        reasons = {cell.name: reason for cell, reason in failures.items()}
        captions = {f"figures/{name}": caption for name, caption in figures.items()}
        report = build_report(results, scores, captions, reasons, command_line(training_args))
        write_document(grid.folder, "report", report)
        print(to_markdown(report))
    for cell, reason in failures.items():
        print(f"error: the run {cell.name} failed: {reason}", file=sys.stderr)
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    run(main)
