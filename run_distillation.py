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

import logging
import sys
from pathlib import Path

from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.pretrained import resolve_checkpoint
from text_data.arguments import DataArguments
from training.arguments import StudentArguments, TeacherArguments, resolve_defaults
from training.checkpoints import load_classifier
from training.command_line import explain_settings, parse_arguments, run, set_up_logging
from training.inputs import check_training_labels, load_inputs
from training.output_folder import check_output_dir
from training.run import ALWAYS_SHOWN, begin_run, build_trainer, push_student, score, train_and_finish
from training.student import check_student, start_student
from training.tables import results_table
from training.teacher import check_teacher_output_dir, prepare_teacher

logger = logging.getLogger(__name__)

DEFAULT_ARGUMENTS = Path(__file__).parent / "defaults" / "run_distillation.json"


def main():
    arguments, sources = parse_arguments(
        (TeacherArguments, StudentArguments, DataArguments, DistillationTrainingArguments),
        sys.argv[1:],
        DEFAULT_ARGUMENTS,
    )
    teacher_args, student_args, data_args, training_args = arguments
    resolve_defaults(teacher_args, data_args, training_args, sources, student_args.short_name)
    set_up_logging(training_args)
    logger.info(explain_settings(arguments, sources, ALWAYS_SHOWN))
    check_output_dir(training_args.output_dir, must_hold_run=not training_args.do_train)
    check_teacher_output_dir(teacher_args.teacher_output_dir)
    # `Trainer` would upload at every save, and the teacher and its outputs with it.
    push_to_hub, training_args.push_to_hub = training_args.push_to_hub, False

    # An existing student is only scored
    if not training_args.do_train:
        inputs = load_inputs(training_args.output_dir, teacher_args, data_args, training_args)
        student, _ = load_classifier(training_args.output_dir, inputs.data.labels, TeacherArguments())
        training_args.learn_from_labels_alone()  # the other losses need a teacher
        score(build_trainer(student, inputs, training_args), inputs)
        return

    # Data and teacher. Nothing is written before they and the student are known to fit together.
    path = resolve_checkpoint(teacher_args.teacher_name_or_path)
    inputs = load_inputs(path, teacher_args, data_args, training_args)
    teacher_model, is_trained = load_classifier(path, inputs.data.labels, teacher_args)
    check_training_labels(inputs, training_args, is_trained)
    check_student(teacher_model, student_args, teacher_args, training_args, inputs)
    record, checkpoint = begin_run(arguments, sources, inputs, training_args)
    teacher = prepare_teacher(path, teacher_model, is_trained, teacher_args, training_args, inputs)
    del teacher_model

    # Student, after the search for its layers or the stages before it if there are any
    student, origin = start_student(teacher, student_args, training_args, inputs, record)
    trainer = build_trainer(student, inputs, training_args, teacher, origin["layers"])
    if push_to_hub:
        trainer.init_hf_repo()  # a wrong token or name shows now, not after the training
        record["name"] = trainer.hub_model_id
    record, _ = train_and_finish(trainer, checkpoint, record, origin, teacher, inputs)
    if trainer.is_world_process_zero():
        print(results_table(record))
        if push_to_hub:
            push_student(trainer)


if __name__ == "__main__":
    run(main)
