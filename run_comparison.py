"""Which layers, which method: train students in every way with several seeds, and compare them with intervals.

With the sample data and an encoder from PyPI (this is what no arguments mean); both tables come out:

    python run_comparison.py

Other data, chosen as in `run_distillation.py`, and how long it would take:

    python run_comparison.py --task_name sst2 --strategies top odd even --methods distill lora --seeds 0 1 2 --dry_run
    python run_comparison.py examples/compare_rte.json --seeds 0 1 2 3 4

Four runs side by side; on GPUs, each has its own. The second command, typed elsewhere in the meantime, joins in, also
on another machine that sees the folder (a SLURM array, one process for each GPU):

    python run_comparison.py examples/compare_sst2.json --num_workers 4
    python run_comparison.py examples/compare_sst2.json

The teacher is fine-tuned once, if need be. Each run has a folder of its own, `OUTPUT_DIR/runs/METHOD-STRATEGY-SEED`,
with the student, its record and its model card. Started again, the grid goes on where it was interrupted; finished
runs are kept, also when strategies, methods or seeds are added.
"""

if __name__ == "__main__":
    from training.processor import share_processor

    share_processor()  # before torch is imported

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from comparison.arguments import Cell, ComparisonArguments, plan_cells
from comparison.document import Block, to_markdown, write_document
from comparison.figures import draw_figures
from comparison.grid import (
    TEACHER_SCORES,
    CellPlan,
    Grid,
    check_grid,
    check_holds_no_run,
    load_others,
    plan_cell,
    run_grid,
    state_of,
    use_one_device,
)
from comparison.identity_runs import check_measurable, identity_section, measure_groups
from comparison.identity_texts import IdentityArguments, read_identity_texts
from comparison.report import build_report
from comparison.results import (
    Results,
    compare_layers,
    read_results,
    remove_other_predictions,
    score_groups,
    write_results,
)
from comparison.sharing import share_grid, workers
from comparison.time_estimate import describe_plan, estimate_seconds
from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.atomic_files import remove_half_written, replacing
from layer_distillation.fingerprints import fingerprint_model
from layer_distillation.pretrained import allow_remote_code, resolve_checkpoint
from layer_distillation.record import RunRecord
from lora_adapters.arguments import LoraArguments
from text_data.arguments import DataArguments
from training.arguments import TeacherArguments, resolve_defaults
from training.command_line import check_trainer_arguments, parse_arguments, run_script, set_up_logging
from training.inputs import load_inputs
from training.output_folder import check_output_dir
from training.run import ALWAYS_SHOWN
from training.teacher import Teacher, check_teacher, check_teacher_output_dir, load_teacher, prepare_teacher

logger = logging.getLogger(__name__)

DEFAULT_ARGUMENTS = Path(__file__).parent / "defaults" / "run_comparison.json"


def main(argv: Sequence[str] | None = None) -> Results | None:
    """Runs the script with these words of a command line, `None` for those of the process.

    Returns:
        The results of all finished runs; `None` after `--dry_run`, if every run failed, or where another process that
        shares the grid writes the report.
    """
    settings = parse_arguments(
        (
            TeacherArguments,
            DataArguments,
            LoraArguments,
            ComparisonArguments,
            IdentityArguments,
            DistillationTrainingArguments,
        ),
        argv,
        DEFAULT_ARGUMENTS,
    )
    teacher_args, data_args, lora_args, comparison_args, identity_args, training_args = settings.arguments
    resolve_defaults(teacher_args, data_args, training_args, settings.sources, "comparison")
    allow_remote_code(teacher_args.trust_remote_code)
    check_trainer_arguments(training_args)
    set_up_logging(training_args)
    logger.info(settings.explanation((*ALWAYS_SHOWN, "strategies", "methods", "seeds")))
    check_output_dir(training_args.output_dir)
    check_holds_no_run(training_args.output_dir)
    check_teacher_output_dir(teacher_args.teacher_output_dir)
    use_one_device(training_args)

    # Data and plan
    path = resolve_checkpoint(teacher_args.teacher_name_or_path)
    inputs = load_inputs(path, teacher_args, data_args, training_args)
    identity_texts = read_identity_texts(identity_args) if identity_args.identity_file else None
    if identity_texts:
        check_measurable(identity_texts, inputs.data.labels, identity_args)
    start = load_teacher(path, teacher_args, inputs.data.labels)
    others = load_others(comparison_args, inputs.data.labels, training_args.seed)
    fingerprints = {name: fingerprint_model(model) for name, (model, _) in others.items()}
    training_args = training_args.for_models(start.model)
    grid = Grid(
        settings=settings,
        teacher_args=teacher_args,
        data_args=data_args,
        lora_args=lora_args,
        comparison_args=comparison_args,
        training_args=training_args,
        inputs=inputs,
        weights={"teacher": start.fingerprint, **fingerprints},
    )
    check_grid(grid, start, others)
    del others  # each cell loads what it starts from
    check_teacher(start, training_args, inputs)
    plans = [plan_cell(cell, grid) for cell in plan_cells(comparison_args)]
    states = {plan.cell: state_of(plan, grid) for plan in plans}
    if comparison_args.dry_run:
        print(describe_plan(plans, states, estimate_seconds(plans, states, grid, start.model)))
        return None

    # Teacher and students, shared with all processes that run this grid
    words = sys.argv[1:] if argv is None else [str(word) for word in argv]
    with share_grid(grid.folder) as share:
        with share.one_at_a_time("prepares the teacher"):
            # The record of an earlier comparison stays until there is a new report.
            if RunRecord.read(grid.folder) is None:
                grid.record.write(grid.folder)
            teacher = prepare_teacher(start, training_args, inputs, grid.folder / TEACHER_SCORES)
        del start  # loaded again by each cell
        fingerprint = fingerprint_model(teacher.load(training_args.device))
        waiting = [plan for plan in plans if state_of(plan, grid, fingerprint) != "finished"]
        number = min(comparison_args.num_workers, len(waiting))
        with workers(number, __file__, words, share) as helpers:
            failures = run_grid(waiting, grid, teacher, share, helpers)
        if failures is None:
            logger.info("The cells that are left run in other processes, the last of which writes the report.")
            return None
        finished, further = [plan for plan in plans if plan.cell not in failures], []
        if identity_texts and finished:
            measured = measure_groups(finished, grid, teacher, identity_texts, identity_args)
            further = identity_section(identity_texts, measured)
        results = report(finished, grid, teacher, failures, further)
    if failures:
        sys.exit(1)
    return results


def report(
    finished: Sequence[CellPlan],
    grid: Grid,
    teacher: Teacher,
    failures: Mapping[Cell, str],
    further: Sequence[Block],
) -> Results | None:
    """Writes and prints what the finished cells of the grid show; returns `None` if there is none.

    Args:
        failures: the cells that failed, with the reason.
        further: sections at the end of the report.
    """
    results = None
    if finished:
        results = read_results(finished, grid, teacher)
        scores = score_groups(results.predictions)
        remove_half_written(grid.folder)
        with replacing(grid.folder, grid.training_args.distributed_state) as folder:
            write_results(folder, results)
            figures = draw_figures(f"{folder}/figures", results, scores, compare_layers(finished, grid, teacher))
            reasons = {cell.name: reason for cell, reason in failures.items()}
            captions = {f"figures/{name}": caption for name, caption in figures.items()}
            blocks = [*build_report(results, scores, captions, reasons, grid.settings.command), *further]
            write_document(folder, "report", blocks)
            grid.record.write(folder)
        remove_other_predictions(grid.folder, results)
        print(to_markdown(blocks))
    for cell, reason in failures.items():
        print(f"error: the run {cell.name} failed: {reason}", file=sys.stderr)
    return results


if __name__ == "__main__":
    run_script(main)
