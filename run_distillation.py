"""Distil a fine-tuned classifier into a shallower student built from its own layers.

With the sample data and an encoder from PyPI, on any laptop (this is what no arguments mean):

    python run_distillation.py

A GLUE task with BERT from the Hub, on one process or several:

    python run_distillation.py --task_name mnli --layer_strategy even
    accelerate launch run_distillation.py --task_name mnli --layer_strategy even
    torchrun --nproc_per_node 2 run_distillation.py --task_name mnli --layer_strategy even

Your own data, and a file of arguments that the command line may override:

    python run_distillation.py --train_file train.csv --validation_file dev.csv --test_file test.csv
    python run_distillation.py examples/case_study.json --seed 1

Layers chosen by a tournament of short runs, a gradual shrinking, and a student that is no part of the teacher:

    python run_distillation.py --task_name sst2 --layer_strategy search --search_budget 0.5
    python run_distillation.py --task_name sst2 --layer_strategy odd --stages 9,6
    python run_distillation.py --task_name sst2 --student_name_or_path google/bert_uncased_L-4_H-256_A-4
"""

if __name__ == "__main__":
    from training.processor import share_processor

    share_processor()  # before torch is imported

import logging
from collections.abc import Sequence
from pathlib import Path

from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.pretrained import allow_remote_code, resolve_checkpoint
from layer_distillation.record import RunRecord
from text_data.arguments import DataArguments
from training.arguments import (
    OutputArguments,
    StudentArguments,
    TeacherArguments,
    VocabularyArguments,
    resolve_defaults,
)
from training.checkpoints import load_classifier
from training.command_line import check_trainer_arguments, parse_arguments, run_script, set_up_logging
from training.hub import open_repository, push_student
from training.inputs import check_training_labels, load_inputs, read_by_student, with_trimmed_vocabulary
from training.output_folder import check_output_dir, claimed
from training.run import (
    ALWAYS_SHOWN,
    Run,
    begin_run,
    build_trainer,
    finished_run,
    new_record,
    score_again,
    train_and_finish,
)
from training.student import check_student, load_pretrained, start_student, starting_weights
from training.tables import results_table
from training.teacher import check_teacher, check_teacher_output_dir, load_teacher, prepare_teacher

logger = logging.getLogger(__name__)

DEFAULT_ARGUMENTS = Path(__file__).parent / "defaults" / "run_distillation.json"


def main(argv: Sequence[str] | None = None) -> RunRecord | None:
    """Runs the script with these words of a command line, `None` for those of the process.

    Returns:
        The record of the run; `None` where an existing student is only evaluated (without `--do_train`).
    """
    settings = parse_arguments(
        (
            TeacherArguments,
            StudentArguments,
            VocabularyArguments,
            DataArguments,
            OutputArguments,
            DistillationTrainingArguments,
        ),
        argv,
        DEFAULT_ARGUMENTS,
    )
    teacher_args, student_args, vocabulary_args, data_args, output_args, training_args = settings.arguments
    overwrite = output_args.overwrite_output_dir
    resolve_defaults(teacher_args, data_args, training_args, settings.sources, student_args.short_name)
    allow_remote_code(teacher_args.trust_remote_code)
    check_trainer_arguments(training_args)
    set_up_logging(training_args)
    logger.info(settings.explanation(ALWAYS_SHOWN))
    check_output_dir(training_args.output_dir, must_hold_run=not training_args.do_train)
    check_teacher_output_dir(teacher_args.teacher_output_dir)
    # `Trainer` would upload at every save, and the teacher and its outputs with the student.
    push_to_hub, training_args.push_to_hub = training_args.push_to_hub, False

    # An existing student is only scored.
    if not training_args.do_train:
        with claimed(training_args):
            inputs = load_inputs(training_args.output_dir, teacher_args, data_args, training_args)
            student, _ = load_classifier(training_args.output_dir, inputs.data.labels)
            trainer = build_trainer(student, inputs, training_args.for_labels_alone())
            score_again(trainer, inputs, settings)
        return None

    # Data and teacher. Nothing is written before data, teacher and student are known to fit together.
    path = resolve_checkpoint(teacher_args.teacher_name_or_path)
    inputs = load_inputs(path, teacher_args, data_args, training_args)
    start = load_teacher(path, teacher_args, inputs.data.labels)
    pretrained = load_pretrained(student_args, inputs.data.labels, training_args.seed)
    training_args = training_args.for_models(start.model, pretrained)
    check_training_labels(inputs, training_args, start.is_trained)
    inputs = read_by_student(inputs, student_args.student_name_or_path, data_args, training_args)
    inputs = with_trimmed_vocabulary(inputs, vocabulary_args, data_args, training_args)
    check_student(start, student_args, training_args, inputs, pretrained)
    record = new_record(settings, inputs, training_args, starting_weights(start, pretrained))
    del pretrained  # loaded again when it is trained
    if finished_run(record, training_args, overwrite) is None:
        check_teacher(start, training_args, inputs.read_by_teacher)
    with claimed(training_args):
        record, checkpoint = begin_run(record, inputs, training_args, overwrite)
        repository = open_repository(training_args) if push_to_hub else None
        if record.student is None:  # otherwise the run is finished
            teacher = prepare_teacher(start, training_args, inputs.read_by_teacher)
            del start  # loaded again when it is needed

            # Student, after the search for its layers or the stages before it if there are any.
            run = Run(training_args, inputs, teacher, record, checkpoint, overwrite=overwrite)
            student, origin = start_student(run, student_args)
            trainer = build_trainer(student, inputs, training_args, teacher, origin.layers)
            record = train_and_finish(run, trainer, origin, student_args.logit_adjustment)
        if training_args.process_index == 0:
            print(results_table(record))
            if repository:
                push_student(training_args, repository, record)
    return record


if __name__ == "__main__":
    run_script(main)
