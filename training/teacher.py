"""The teacher: a checkpoint whose head is trained for the labels is used as it is, any other is fine-tuned first.

    start = load_teacher(path, teacher_args, inputs.data.labels)
    check_teacher(start, training_args, inputs)
    teacher = prepare_teacher(start, training_args, inputs)    # fine-tuned if need be, scored
    model = teacher.load(device)

A student can only be as good as its teacher. Distilling from a head that was never trained raises no error by itself:
accuracy stays at the level of guessing. So the head's weights, the label names, their order and the vocabulary are
checked before anything is trained.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from distill_trainer import DistillationTrainer
from layer_distillation.arguments import ONLY_TRAIN, DistillationTrainingArguments
from layer_distillation.atomic_files import check_writable, replacing, write_json
from layer_distillation.engines import release_engine
from layer_distillation.errors import UserError
from layer_distillation.fingerprints import fingerprint_dataset, fingerprint_model
from layer_distillation.model_outputs import MODEL_INPUTS, longest_first, with_model_inputs
from layer_distillation.pretrained import from_pretrained
from text_data.answers import label_array
from text_data.labels import LabelMap
from training.arguments import TeacherArguments
from training.checkpoints import load_classifier, load_tokenizer, set_padding
from training.evaluation import TRAINING_LOSS, check_has_converged, evaluate_model, training_loss
from training.guessing import warn_if_guessing
from training.inputs import Inputs

logger = logging.getLogger(__name__)

RECIPE_FILE = "teacher.json"
# Training arguments of the student that the teacher's fine-tuning shares, and that its weights depend on.
SHARED_WITH_STUDENT = (
    "optim",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "warmup_steps",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "optim_args",
    "optim_target_modules",
    "bf16",
    "fp16",
    "train_sampling_strategy",
    "data_seed",
    "dataloader_drop_last",
)


@dataclass(frozen=True)
class TeacherStart:
    """The checkpoint that is the teacher, or becomes the teacher by fine-tuning.

    Attributes:
        path: Hub name or folder.
        model: in float32, with an output for each label.
        is_trained: whether the head is trained for the labels.
        args: how the teacher was asked for.
    """

    path: str
    model: PreTrainedModel
    is_trained: bool
    args: TeacherArguments

    @cached_property
    def fingerprint(self) -> str:
        """Of the weights before any fine-tuning; it is asked for twice."""
        return fingerprint_model(self.model)


@dataclass(frozen=True)
class Teacher:
    """A teacher ready to be distilled from. It is loaded when it is needed and takes no memory in between.

    Attributes:
        path: Hub name or folder of its checkpoint, with a head trained for `labels`.
        args: how the teacher was asked for.
        results: scores on the validation and test splits, and training losses if it was fine-tuned here.
    """

    path: str
    args: TeacherArguments
    labels: LabelMap
    results: Mapping[str, float]

    def load(self, device: torch.device) -> PreTrainedModel:
        """The whole model on the device, also where an engine shares models out among processes."""
        return load_teacher(self.path, self.args, self.labels).model.to(device)


def load_teacher(path: str, teacher_args: TeacherArguments, labels: LabelMap) -> TeacherStart:
    """Loads a checkpoint as a teacher for the labels; raises as `load_classifier`."""
    model, is_trained = load_classifier(
        path,
        labels,
        seed=teacher_args.teacher_seed,
        revision=teacher_args.teacher_revision,
        ignore_mismatch=teacher_args.ignore_mismatched_sizes,
    )
    if teacher_args.tokenizer_name is not None:
        set_padding(model.config, load_tokenizer(path, teacher_args.tokenizer_name, teacher_args.teacher_revision))
    return TeacherStart(path, model, is_trained, teacher_args)


def check_teacher_output_dir(folder: str | Path) -> None:
    """Raises a `UserError` if the folder has a model that no run of this project has put there."""
    folder = Path(folder)
    if (folder / "config.json").is_file() and not (folder / RECIPE_FILE).is_file():
        raise UserError(
            f"--teacher_output_dir {folder} holds a model that this project has not made (it has no {RECIPE_FILE}), "
            "and a fine-tuned teacher would replace it. To use that model, name it with --teacher_name_or_path; for a "
            "new teacher choose another folder."
        )


def check_teacher(start: TeacherStart, training_args: DistillationTrainingArguments, inputs: Inputs) -> None:
    """Raises a `UserError` if the teacher's answers depend on padding, or if it cannot be kept where it is wanted."""
    check_padding(start.model, inputs)
    if not start.is_trained and not inputs.hold_teacher_logits:
        _kept_teacher(start, _recipe(start, training_args, inputs))


def prepare_teacher(
    start: TeacherStart,
    training_args: DistillationTrainingArguments,
    inputs: Inputs,
    scores_file: Path | None = None,
) -> Teacher:
    """Fine-tunes the teacher if it is not trained, scores it, and warns if it is no better than guessing.

    Where the data hold the scores of another teacher, an untrained one only gives its layers.

    Args:
        scores_file: keeps the scores for later calls with the same teacher and data; `None` keeps them nowhere.
    """
    data, path, model, results = inputs.data, start.path, start.model, {}
    if not start.is_trained and inputs.hold_teacher_logits:
        return Teacher(path, start.args, data.labels, results)
    if not start.is_trained:
        path = start.args.teacher_output_dir
        model, results = fine_tune(start, training_args, inputs)
    model = model.to(training_args.device)
    if scores_file is None:
        results |= _scores(model, training_args, inputs)
    else:
        results |= _kept_scores(scores_file, model, training_args, inputs)
    check_has_converged(results, "teacher", "Choose another --teacher_name_or_path, or train this one again.")
    warn_if_guessing(results, label_array(inputs.validation), data.labels)
    return Teacher(path, start.args, data.labels, results)


def _scores(model: PreTrainedModel, training_args: DistillationTrainingArguments, inputs: Inputs) -> dict[str, float]:
    results = evaluate_model(model, inputs, inputs.data.validation_splits, "eval", training_args)
    if training_args.do_predict:
        results |= evaluate_model(model, inputs, inputs.data.test_splits, "predict", training_args)
    return results


def _kept_scores(
    file: Path, model: PreTrainedModel, training_args: DistillationTrainingArguments, inputs: Inputs
) -> dict[str, float]:
    """Returns the scores in a file; writes them first if it has none of this teacher on these data."""
    scored = {
        "teacher": fingerprint_model(model),
        "data": inputs.fingerprints,
        "bf16": training_args.bf16,
        "do_predict": training_args.do_predict,
    }
    kept = json.loads(file.read_text()) if file.is_file() else None
    if kept is None or kept["scored"] != scored:
        kept = {"scored": scored, "results": _scores(model, training_args, inputs)}
        write_json(file, kept)
    return kept["results"]


def check_padding(teacher: PreTrainedModel, inputs: Inputs) -> None:
    """Raises a `UserError` if the teacher's answer to a text depends on the padding that the tokenizer adds to it.

    It does if the head of a decoder takes padding for the end of the text, or if padding on the left moves the
    positions, as in GPT-2. Nothing is run where texts are padded on the right with what the config calls padding.
    """
    tokenizer, texts = inputs.tokenizer, with_model_inputs(inputs.tokenized["train"])
    expected = teacher.config.get_text_config().pad_token_id
    if tokenizer.pad_token_id == expected and tokenizer.padding_side == "right":
        return
    text = texts[int(longest_first(texts)[-1])]  # the shortest, beside which there are positions for padding
    length = len(text["input_ids"])
    alone, padded = (
        tokenizer.pad([text], padding="max_length", max_length=length + extra, return_tensors="pt").to(teacher.device)
        for extra in (0, 8)
    )
    with torch.no_grad():
        logits, padded_logits = teacher.eval()(**alone).logits, teacher(**padded).logits
    if not torch.allclose(logits, padded_logits, rtol=1e-2, atol=1e-2):
        raise UserError(
            "The teacher must answer a text alike with and without padding, but its logits differ by "
            f"{(logits - padded_logits).abs().max():.2g}. The tokenizer pads on the {tokenizer.padding_side} with the "
            f"token {tokenizer.pad_token_id}, and the teacher's config has the `pad_token_id` {expected}. Set "
            '`padding_side="right"` and a matching `pad_token` in the tokenizer, and name it with --tokenizer_name.'
        )


def fine_tune(
    start: TeacherStart, training_args: DistillationTrainingArguments, inputs: Inputs
) -> tuple[PreTrainedModel, dict[str, float]]:
    """Fine-tunes a teacher, or loads the one that an earlier run has made of the same start in the same way.

    Args:
        training_args: of the student; batch size, schedule and precision are the teacher's too.

    Returns:
        The fine-tuned teacher, kept in `--teacher_output_dir`, and its losses: the mean of its training, and that of
        the finished teacher on the training examples.
    """
    folder = Path(start.args.teacher_output_dir)
    recipe = _recipe(start, training_args, inputs)
    kept = _kept_teacher(start, recipe)
    if kept is not None:
        logger.info(f"The fine-tuned teacher in {folder} is used again.")
        return _load(folder), _losses(kept)
    logger.info(f"{start.args.teacher_name_or_path} has no head for these labels: the teacher is fine-tuned first.")

    args = training_args.for_labels_alone().derived(
        output_dir=str(folder),
        seed=start.args.teacher_seed,
        num_train_epochs=start.args.teacher_num_train_epochs,
        max_steps=-1,
        learning_rate=start.args.teacher_learning_rate,
        student_dropout=None,
        push_to_hub=False,
        **ONLY_TRAIN,
    )
    trainer = DistillationTrainer(
        model=start.model, args=args, train_dataset=inputs.tokenized["train"], processing_class=inputs.tokenizer
    )
    kept = {"recipe": recipe, "train_loss": trainer.train().metrics["train_loss_ce"], **training_loss(trainer, inputs)}
    check_has_converged(kept, "teacher", "Train it with a lower --teacher_learning_rate.")
    with replacing(folder, training_args.distributed_state) as unfinished:
        trainer.save_model(unfinished)
        if trainer.is_world_process_zero():
            # Until all files have moved, the folder holds a mixture of the old teacher and the new one.
            write_json(folder / RECIPE_FILE, {"recipe": recipe, "train_loss": None})
    if trainer.is_world_process_zero():
        write_json(folder / RECIPE_FILE, kept)
    trainer.accelerator.wait_for_everyone()
    release_engine()
    # Not the object that was trained: engines cast, shard or wrap it.
    return _load(folder), _losses(kept)


def _kept_teacher(start: TeacherStart, recipe: Mapping) -> dict | None:
    """Returns what is kept with the teacher that an earlier run has made by the recipe, `None` if it is to be made.

    Raises:
        UserError: it would replace another teacher, or its folder is read-only.
    """
    folder = Path(start.args.teacher_output_dir)
    kept = json.loads((folder / RECIPE_FILE).read_text()) if (folder / RECIPE_FILE).is_file() else None
    # One answer for all processes: one that found no teacher would wait in its training for those that did.
    (kept,) = broadcast_object_list([kept])
    if kept is not None and kept["train_loss"] is not None:
        # A recipe of an earlier version lacks what was not set then.
        changed = [name for name in recipe if recipe[name] != kept["recipe"].get(name)]
        if not changed:
            return kept
        if not start.args.overwrite_teacher:
            raise UserError(
                f"--teacher_output_dir {folder} holds a teacher that was made with another {', '.join(changed)}. "
                "Choose another folder, or replace that teacher with --overwrite_teacher."
            )
    check_writable("teacher_output_dir", folder)
    return None


def _losses(kept: Mapping) -> dict[str, float]:
    """Returns the losses in what is kept with a fine-tuned teacher; earlier versions kept the first alone."""
    losses = {"train_loss_ce": kept["train_loss"], TRAINING_LOSS: kept.get(TRAINING_LOSS)}
    return {name: value for name, value in losses.items() if value is not None}


def _load(folder: Path) -> PreTrainedModel:
    return from_pretrained(AutoModelForSequenceClassification, str(folder), None, dtype="float32")


def _recipe(start: TeacherStart, training_args: DistillationTrainingArguments, inputs: Inputs) -> dict:
    """Everything that the fine-tuned weights depend on: equal recipes make equal teachers."""
    return {
        "initial_weights": start.fingerprint,
        "train_data": fingerprint_dataset(inputs.tokenized["train"], (*MODEL_INPUTS, "labels")),
        "labels": list(start.model.config.id2label.values()),
        "num_train_epochs": start.args.teacher_num_train_epochs,
        "learning_rate": start.args.teacher_learning_rate,
        "seed": start.args.teacher_seed,
        "train_batch_size": training_args.examples_a_step,
        **{name: getattr(training_args, name) for name in SHARED_WITH_STUDENT},
    }
