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
"""

import logging
import sys
from pathlib import Path

from datasets import DatasetDict
from huggingface_hub import upload_folder
from transformers import DataCollatorWithPadding, set_seed

from command_line import command_line, explain_settings, given_settings, parse_arguments, run, set_up_logging
from distill_trainer import DistillationTrainer, DistillationTrainingArguments
from evaluation import describe_model, evaluate_model, evaluate_splits, measure_latency, predict_splits
from layer_mapping import StudentArguments, describe_mapping, num_layers, student_from_arguments
from reporting import results_table, write_model_card
from run_folder import check_output_dir, checkpoint_to_resume, library_versions, open_run_folder, write_record
from teacher import (
    HUB_TEACHER,
    PACKAGED_TEACHER,
    TeacherArguments,
    check_teacher_output_dir,
    fine_tune,
    hub_name,
    load_classifier,
    load_tokenizer,
    resolve_checkpoint,
    warn_if_guessing,
)
from teacher_cache import MODEL_INPUTS, add_teacher_logits, fingerprint_dataset, fingerprint_model
from text_classification import DataArguments, TextClassificationData, build_compute_metrics, load_data, tokenize

logger = logging.getLogger(__name__)

DEFAULT_ARGUMENTS = Path(__file__).parent / "examples" / "toxic_comments.json"
LOSS_SETTINGS = ("ce_weight", "kl_weight", "cosine_weight", "temperature")
# Settings that decide what a run does, shown with their source even where they are at their default.
ALWAYS_SHOWN = (
    *("teacher_name_or_path", "teacher_cache", "layer_strategy", "layers", "output_dir", "seed", "bf16"),
    *LOSS_SETTINGS,
    *("learning_rate", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps"),
)


def main():
    arguments, sources = parse_arguments(
        (TeacherArguments, StudentArguments, DataArguments, DistillationTrainingArguments),
        sys.argv[1:],
        DEFAULT_ARGUMENTS,
    )
    teacher_args, student_args, data_args, training_args = arguments
    resolve_defaults(teacher_args, student_args, data_args, training_args, sources)
    set_up_logging(training_args)
    logger.info(explain_settings(arguments, sources, ALWAYS_SHOWN))
    check_output_dir(training_args.output_dir, must_hold_run=not training_args.do_train)
    check_teacher_output_dir(teacher_args.teacher_output_dir)
    # `Trainer` would upload at every save, and the teacher and its outputs with it.
    push_to_hub, training_args.push_to_hub = training_args.push_to_hub, False

    # Data
    data = load_data(data_args, training_args.seed)
    training_args.check_number_of_labels(data.labels.num_labels)
    to_train = training_args.do_train
    path = resolve_checkpoint(teacher_args.teacher_name_or_path) if to_train else training_args.output_dir
    tokenizer = load_tokenizer(path, teacher_args)
    with training_args.main_process_first(desc="tokenising"):
        tokenized = tokenize(data, tokenizer, data_args)
    collator = DataCollatorWithPadding(tokenizer)
    compute_metrics = build_compute_metrics(data.labels, data_args.task_name)
    trainer_inputs = {
        "args": training_args,
        "eval_dataset": tokenized[data.validation_splits[0]],
        "data_collator": collator,
        "processing_class": tokenizer,
        "compute_metrics": compute_metrics,
    }
    if not to_train:
        student, _ = load_classifier(training_args.output_dir, data.labels, TeacherArguments())
        score_student(DistillationTrainer(model=student, **trainer_inputs), data, tokenized)
        return

    # Teacher. Nothing is written before it, the data and the layers are known to fit together.
    teacher, is_trained = load_classifier(path, data.labels, teacher_args)
    student_from_arguments(teacher, student_args)
    record = {
        "status": "running",
        "command": command_line(training_args),
        "settings": given_settings(arguments, sources),
        "data": {
            "source": data.source,
            "labels": data.labels.names,
            "fingerprint": fingerprint_dataset(tokenized["train"], (*MODEL_INPUTS, "labels")),
        },
        "seed": training_args.seed,
        "libraries": library_versions(),
    }
    checkpoint = training_args.resume_from_checkpoint or checkpoint_to_resume(training_args.output_dir, record)
    training_args.distributed_state.wait_for_everyone()  # all have read the folder before it changes
    if training_args.process_index == 0:
        open_run_folder(training_args.output_dir, record, keep_checkpoints=checkpoint is not None)
    teacher_results = {}
    if not is_trained:
        teacher, train_loss = fine_tune(teacher, teacher_args, training_args, tokenized, tokenizer)
        teacher_results["train_loss_ce"] = train_loss
    teacher = teacher.to(training_args.device)
    scoring = (training_args, collator, compute_metrics)
    teacher_results |= evaluate_model(teacher, tokenized, data.validation_splits, "eval", *scoring)
    warn_if_guessing(teacher_results, tokenized[data.validation_splits[0]]["labels"])

    # Student
    set_seed(training_args.seed)
    student, layers = student_from_arguments(teacher, student_args)
    logger.info(describe_mapping(layers, num_layers(teacher)))
    logger.info(f"Parameters: teacher {teacher.num_parameters():,}, student {student.num_parameters():,}")

    # Training, from stored teacher outputs or with the teacher in every step
    train_dataset = tokenized["train"]
    use_cache = training_args.needs_teacher and teacher_args.teacher_cache
    if use_cache:
        train_dataset = add_teacher_logits(
            train_dataset,
            teacher,
            teacher_args.teacher_cache_dir,
            collator,
            training_args.per_device_eval_batch_size,
            training_args.bf16,
        )
    trainer = DistillationTrainer(
        model=student,
        teacher_model=teacher if training_args.needs_teacher and not use_cache else None,
        train_dataset=train_dataset,
        **trainer_inputs,
    )
    if push_to_hub:
        trainer.init_hf_repo()  # a wrong token or name shows now, not after the training
    student_results = trainer.train(resume_from_checkpoint=checkpoint).metrics
    trainer.save_metrics("train", student_results)
    trainer.save_model()
    trainer.save_state()

    # Evaluation
    student_results |= score_student(trainer, data, tokenized)
    if training_args.do_predict:
        teacher_results |= evaluate_model(teacher, tokenized, data.test_splits, "predict", *scoring)

    # Report
    if trainer.is_world_process_zero():
        # The student as others will load it: training leaves autocast around its forward.
        student, _ = load_classifier(training_args.output_dir, data.labels, TeacherArguments())
        student = student.to(training_args.device)
        teacher_ms, student_ms = measure_latency([teacher, student], tokenized[data.validation_splits[0]])
        record |= {
            "status": "finished",
            "loss": {name: getattr(training_args, name) for name in LOSS_SETTINGS},
            "teacher": {
                "name": teacher_args.teacher_name_or_path,
                "hub_name": hub_name(teacher_args.teacher_name_or_path),
                "fingerprint": fingerprint_model(teacher),
                "layers": list(range(1, num_layers(teacher) + 1)),
                **describe_model(teacher, teacher_ms),
                "results": teacher_results,
            },
            "student": {
                "layer_strategy": "explicit" if student_args.layers else student_args.layer_strategy,
                "layers": layers,
                **describe_model(student, student_ms),
                "results": student_results,
            },
        }
        write_record(training_args.output_dir, record)
        write_model_card(training_args.output_dir, record)
        print(results_table(record))
        if push_to_hub:
            push_student(trainer)


def score_student(trainer: DistillationTrainer, data: TextClassificationData, tokenized: DatasetDict) -> dict:
    """Metrics on the validation splits, for choosing, and on the test splits, for reporting, as far as asked for."""
    results = {}
    if trainer.args.do_eval:
        metrics = evaluate_splits(trainer, tokenized, data.validation_splits, "eval")
        trainer.save_metrics("eval", metrics)
        results |= metrics
    if trainer.args.do_predict:
        metrics = predict_splits(trainer, tokenized, data.test_splits, data.labels, trainer.args.output_dir)
        trainer.save_metrics("predict", metrics)
        results |= metrics
    return results


def push_student(trainer: DistillationTrainer) -> None:
    """Uploads the student with its model card and results; `training_args.bin` would hold the token."""
    upload_folder(
        repo_id=trainer.hub_model_id,
        folder_path=trainer.args.output_dir,
        commit_message="Distilled student",
        token=trainer.args.hub_token,
        revision=trainer.args.hub_revision,
        ignore_patterns=["checkpoint-*/*", "teacher/*", "training_args.bin"],
    )


def resolve_defaults(
    teacher_args: TeacherArguments,
    student_args: StudentArguments,
    data_args: DataArguments,
    training_args: DistillationTrainingArguments,
    sources: dict[str, str],
) -> None:
    """Fills in the arguments whose default depends on others."""
    if teacher_args.teacher_name_or_path is None:
        teacher_args.teacher_name_or_path = HUB_TEACHER if data_args.is_given else PACKAGED_TEACHER
    if "output_dir" not in sources:
        layers = student_args.layers or student_args.layer_strategy
        training_args.output_dir = f"outputs/{data_args.short_name}-{layers}"
    if teacher_args.teacher_output_dir is None:
        teacher_args.teacher_output_dir = str(Path(training_args.output_dir) / "teacher")
    if teacher_args.teacher_cache_dir is None:
        teacher_args.teacher_cache_dir = str(Path(teacher_args.teacher_output_dir) / "outputs")
    # Not by their values: `--eval_strategy` sets `do_eval` too.
    if not sources.keys() & {"do_train", "do_eval", "do_predict"}:
        training_args.do_train = training_args.do_eval = training_args.do_predict = True


if __name__ == "__main__":
    run(main)
