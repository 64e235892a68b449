"""The steps of a run that scripts share, from the data to the report, in the order in which they happen."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from accelerate.utils import broadcast_object_list, gather_object
from huggingface_hub import upload_folder
from transformers import PreTrainedModel
from transformers.trainer_utils import unwrap_peft_model

from distill_trainer import DistillationTrainer
from layer_distillation.arguments import WEIGHTS, DistillationTrainingArguments
from layer_distillation.encoder_layers import num_layers
from layer_distillation.fingerprints import fingerprint_model
from layer_distillation.layer_losses import check_shapes
from layer_distillation.pretrained import hub_name
from layer_distillation.record import library_versions, write_record
from layer_distillation.teacher_outputs import (
    HiddenStatesCollator,
    add_teacher_hidden_states,
    add_teacher_logits,
    check_hidden_states_size,
    hidden_states_size,
)
from layer_mapping import build_student, spread_evenly
from training.arguments import TeacherArguments
from training.checkpoints import load_classifier
from training.command_line import command_line, given_settings
from training.evaluation import describe_model, evaluate_splits, measure_latency, predict_splits
from training.inputs import Inputs
from training.model_card import write_model_card
from training.output_folder import CheckpointMarker, checkpoint_to_resume, closing_run_folder, open_run_folder
from training.teacher import Teacher

logger = logging.getLogger(__name__)

LOSS_SETTINGS = ("ce_weight", "kl_weight", "cosine_weight", "temperature")
LAYER_LOSS_SETTINGS = {"hidden": "hidden_tokens", "attention": "attention_divergence", "relation": "relation_heads"}
# Settings that decide what a run does, shown with their source even where they are at their default.
ALWAYS_SHOWN = (
    *("teacher_name_or_path", "teacher_cache", "layer_strategy", "layers", "output_dir", "seed", "bf16"),
    *LOSS_SETTINGS,
    *("learning_rate", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps"),
)


def begin_run(
    arguments: Sequence, sources: Mapping[str, str], inputs: Inputs, training_args: DistillationTrainingArguments
) -> tuple[dict, str | None]:
    """Opens the output folder.

    Returns:
        The record of the run so far, and the checkpoint to continue from if an earlier one was interrupted.

    Raises:
        UserError: the folder holds another run.
    """
    record = new_record(arguments, sources, inputs, training_args)
    return record, open_run(record, training_args)


def open_run(record: dict, training_args: DistillationTrainingArguments) -> str | None:
    """Opens the output folder for the run of a new record, and returns what `begin_run` returns second."""
    checkpoint = checkpoint_to_resume(training_args.output_dir, record)
    checkpoint = training_args.resume_from_checkpoint or checkpoint
    # One answer for all processes, after all have read the folder and before it changes.
    (checkpoint,) = broadcast_object_list(gather_object([checkpoint])[:1])
    if training_args.process_index == 0:
        open_run_folder(training_args.output_dir, record, keep_checkpoints=checkpoint is not None)
    return checkpoint


def new_record(
    arguments: Sequence, sources: Mapping[str, str], inputs: Inputs, training_args: DistillationTrainingArguments
) -> dict:
    """The record of a run that begins: what it is asked to do, and on which data."""
    return {
        "name": Path(training_args.output_dir).resolve().name,
        "command": command_line(training_args),
        # Their number decides on the size of a step, as settings do.
        "settings": given_settings(arguments, sources) | {"num_processes": training_args.world_size},
        "data": {
            "source": inputs.data.source,
            "labels": inputs.data.labels.names,
            "fingerprints": inputs.fingerprints,
            "split_seed": inputs.data.split_seed,
        },
        "seed": training_args.seed,
        "libraries": library_versions(),
    }


def build_trainer(
    student: PreTrainedModel,
    inputs: Inputs,
    training_args: DistillationTrainingArguments,
    teacher: Teacher | None = None,
    layers: Sequence[int] = (),
) -> DistillationTrainer:
    """The trainer of a student: from stored teacher outputs, or with the teacher in every step.

    Without a teacher it can only evaluate.

    Args:
        layers: of the teacher that the student was built from, `()` if it was not: it is compared with evenly spread
            ones then.
    """
    train_dataset = inputs.tokenized["train"] if teacher is not None else None
    teacher_model, teacher_layers = None, None
    if teacher is not None and training_args.needs_teacher:
        teacher_model = teacher.load(training_args.device)
        if training_args.uses("hidden", "attention"):
            depth = num_layers(unwrap_peft_model(student))
            teacher_layers = layers or spread_evenly(num_layers(teacher_model), depth)
        if may_be_stored(teacher.args, training_args):
            how = storing(teacher, training_args, inputs)
            if training_args.uses("kl", "cosine"):
                train_dataset = add_teacher_logits(train_dataset, teacher_model, **how)
            if training_args.uses("hidden"):
                different = sorted(set(teacher_layers))
                train_dataset = add_teacher_hidden_states(
                    train_dataset, teacher_model, different, max_bytes=_max_bytes(teacher.args), **how
                )
            teacher_model = None
        elif teacher.args.teacher_cache:
            logger.info(_why_not_stored(teacher_model, teacher_layers, training_args, inputs))
    return DistillationTrainer(
        model=student,
        teacher_model=teacher_model,
        teacher_layers=teacher_layers,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=inputs.tokenized[inputs.data.validation_splits[0]],
        data_collator=HiddenStatesCollator(inputs.collator) if training_args.uses("hidden") else inputs.collator,
        processing_class=inputs.tokenizer,
        compute_metrics=inputs.compute_metrics,
        callbacks=[CheckpointMarker()],
    )


def check_losses(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    teacher_args: TeacherArguments,
    training_args: DistillationTrainingArguments,
    inputs: Inputs,
) -> None:
    """Raises a `UserError` for losses on layers that these models do not have or that are too large to be stored.

    Args:
        student, teacher: of the architecture that they will have; their weights do not matter.
    """
    check_shapes(training_args, student, teacher)
    if training_args.uses("hidden") and may_be_stored(teacher_args, training_args):
        num_different = min(num_layers(student), num_layers(teacher))
        check_hidden_states_size(inputs.tokenized["train"], teacher, num_different, _max_bytes(teacher_args))


def may_be_stored(teacher_args: TeacherArguments, training_args: DistillationTrainingArguments) -> bool:
    """Whether the losses can do with stored outputs, so that the teacher need not run in every step."""
    has_room = not training_args.uses("hidden") or teacher_args.hidden_state_cache_gb > 0
    return teacher_args.teacher_cache and has_room and not training_args.uses("attention", "relation")


def _why_not_stored(
    teacher: PreTrainedModel,
    teacher_layers: Sequence[int] | None,
    training_args: DistillationTrainingArguments,
    inputs: Inputs,
) -> str:
    if training_args.uses("attention", "relation"):
        return "The teacher runs in every step: attention and relations are not stored."
    size = hidden_states_size(inputs.tokenized["train"], teacher, len(set(teacher_layers)))
    return (
        f"The teacher runs in every step. Its hidden states would take {size / 1e9:.2f} GB: allow for them with "
        "--hidden_state_cache_gb to have them stored."
    )


def _max_bytes(teacher_args: TeacherArguments) -> int:
    return int(teacher_args.hidden_state_cache_gb * 1e9)


def storing(teacher: Teacher, training_args: DistillationTrainingArguments, inputs: Inputs) -> dict:
    """How the outputs of a run's teacher are computed and where they are kept: arguments of `add_teacher_logits`."""
    return {
        "cache_dir": teacher.args.teacher_cache_dir,
        "collator": inputs.collator,
        "batch_size": training_args.per_device_eval_batch_size,
        "bf16": training_args.bf16,
    }


def num_steps(args: DistillationTrainingArguments, num_examples: int) -> int:
    """Optimizer steps of one run, as `Trainer` counts them."""
    if args.max_steps > 0:
        return args.max_steps
    round_batches = math.floor if args.dataloader_drop_last else math.ceil
    batches = round_batches(round_batches(num_examples / args.train_batch_size) / args.world_size)
    return math.ceil(args.num_train_epochs * max(math.ceil(batches / args.gradient_accumulation_steps), 1))


def train_and_finish(
    trainer: DistillationTrainer,
    checkpoint: str | None,
    record: dict,
    origin: dict,
    teacher: Teacher,
    inputs: Inputs,
    finish_adapter: Callable[[str, PreTrainedModel], tuple[PreTrainedModel, dict]] | None = None,
) -> tuple[dict, PreTrainedModel | None]:
    """Trains a student, scores it and completes its folder.

    Args:
        checkpoint, record: as `begin_run` returns them.
        origin: where its first weights came from, as `training.student.start_student` returns it.
        finish_adapter: where an adapter is trained, what `training.lora.finish_adapter` does with its folder and
            the student without it.

    Returns:
        The record of the run, complete on the main process, and there the student as others will load it.
    """
    args, student = trainer.args, None
    results = trainer.train(resume_from_checkpoint=checkpoint).metrics
    with closing_run_folder(args):
        _save(trainer, results)
        results |= score(trainer, inputs)
        if trainer.is_world_process_zero():
            if finish_adapter is None:
                (student, _), adapter = load_classifier(args.output_dir, inputs.data.labels, TeacherArguments()), None
            else:
                start = build_student(teacher.load(args.device), origin["layers"])
                student, adapter = finish_adapter(args.output_dir, start)
            record = _finish_run(record, student, origin, results, teacher, args, inputs, adapter)
    return record, student


def _save(trainer: DistillationTrainer, results: Mapping[str, float]) -> None:
    """Saves the student and the metrics of its training."""
    trainer.save_metrics("train", results)
    trainer.save_model()
    trainer.save_state()


def score(trainer: DistillationTrainer, inputs: Inputs) -> dict[str, float]:
    """Metrics on the validation splits, for choosing, and on the test splits, for reporting, as far as asked for."""
    args, data, results = trainer.args, inputs.data, {}
    if args.do_eval:
        metrics = evaluate_splits(trainer, inputs.tokenized, data.validation_splits, "eval")
        trainer.save_metrics("eval", metrics)
        results |= metrics
    if args.do_predict:
        metrics = predict_splits(trainer, inputs.tokenized, data.test_splits, data.labels, args.output_dir)
        trainer.save_metrics("predict", metrics)
        results |= metrics
        if inputs.reported_split not in data.test_splits:  # or runs could not be compared example by example
            predict_splits(trainer, inputs.tokenized, [inputs.reported_split], data.labels, args.output_dir)
    return results


def _finish_run(
    record: dict,
    student: PreTrainedModel,
    origin: dict,
    results: Mapping[str, float],
    teacher: Teacher,
    training_args: DistillationTrainingArguments,
    inputs: Inputs,
    adapter: dict | None,
) -> dict:
    """Writes the record and the model card of a run that has ended, on the main process; returns the record.

    Args:
        student: as others will load it: training leaves autocast around its forward.
        results: its metrics on all splits.
        adapter: of a LoRA run, as `training.lora.finish_adapter` returns it.
    """
    student, teacher_model = student.to(training_args.device), teacher.load(training_args.device)
    validation = inputs.tokenized[inputs.data.validation_splits[0]]
    teacher_ms, student_ms = measure_latency([teacher_model, student], validation)
    record = record | {
        "method": method_of(training_args, adapter is not None),
        "loss": _loss_settings(training_args),
        "training": _training_settings(training_args),
        "teacher": {
            "name": teacher.args.teacher_name_or_path,
            "hub_name": hub_name(teacher.args.teacher_name_or_path),
            "fingerprint": fingerprint_model(teacher_model),
            "layers": list(range(1, num_layers(teacher_model) + 1)),
            **describe_model(teacher_model, teacher_ms),
            "results": teacher.results,
        },
        "student": {
            **origin,
            **describe_model(student, student_ms),
            "trainable_parameters": adapter["trainable_parameters"] if adapter else student.num_parameters(),
            **({"adapter": adapter} if adapter else {}),
            "results": results,
        },
    }
    write_record(training_args.output_dir, record)
    write_model_card(training_args.output_dir, record)
    return record


def _loss_settings(args: DistillationTrainingArguments) -> dict[str, float | str]:
    """The weights and the temperature that the losses of a run have, and those at its end where they change.

    Of losses on layers that are used, also how they compare.
    """
    names = [*LOSS_SETTINGS, *(name for name in WEIGHTS if name not in LOSS_SETTINGS and getattr(args, name))]
    names += [name for loss, name in LAYER_LOSS_SETTINGS.items() if args.uses(loss)]
    at_end = {f"{name} at the end": value for name, value in (args.linear_to or {}).items()}
    settings = {name: getattr(args, name) for name in names} | at_end
    return {name: value for name, value in settings.items() if value is not None}


def _training_settings(args: DistillationTrainingArguments) -> dict[str, float]:
    """What others need beside the loss to train alike; the batch is that of an optimizer step."""
    length = {"max_steps": args.max_steps} if args.max_steps > 0 else {"num_train_epochs": args.num_train_epochs}
    batch_size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return {"learning_rate": args.learning_rate, **length, "batch_size": batch_size}


def method_of(training_args: DistillationTrainingArguments, with_lora: bool) -> str:
    """How a student is trained: `distill` or, with the labels alone, `finetune`; `lora_distill` or `lora`."""
    if with_lora:
        return "lora_distill" if training_args.needs_teacher else "lora"
    return "distill" if training_args.needs_teacher else "finetune"


def push_student(trainer: DistillationTrainer) -> None:
    """Uploads the student with its model card and results; `training_args.bin` would hold the token."""
    upload_folder(
        repo_id=trainer.hub_model_id,
        folder_path=trainer.args.output_dir,
        commit_message="Student with its model card and results",
        token=trainer.args.hub_token,
        revision=trainer.args.hub_revision,
        ignore_patterns=["checkpoint-*/*", "stages/*", "teacher/*", "training_args.bin"],
    )
