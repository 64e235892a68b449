"""The teacher: a checkpoint whose head is trained for these labels is used as it is, any other is fine-tuned first.

A student can only be as good as its teacher. Distilling from a head that was never trained is the commonest mistake in
this exercise and raises no error by itself: accuracy stays at the level of guessing. So the head's weights, the label
names, their order and the vocabulary are checked before anything is trained.
"""

import copy
import json
import logging
import math
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset, DatasetDict
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from distill_trainer import DistillationTrainer
from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.atomic_files import check_writable, replacing, write_json
from layer_distillation.engines import release_engine, renew_engine_config
from layer_distillation.errors import UserError
from layer_distillation.fingerprints import fingerprint_dataset, fingerprint_model
from layer_distillation.model_outputs import MODEL_INPUTS
from layer_distillation.pretrained import from_pretrained
from text_data.labels import LabelMap
from training.arguments import TeacherArguments
from training.checkpoints import load_classifier
from training.evaluation import evaluate_model
from training.inputs import Inputs

logger = logging.getLogger(__name__)

RECIPE_FILE = "teacher.json"


def check_teacher_output_dir(folder: str | Path) -> None:
    """Raises a `UserError` if the folder has a model that no run of ours has put there."""
    folder = Path(folder)
    if (folder / "config.json").is_file() and not (folder / RECIPE_FILE).is_file():
        raise UserError(
            f"--teacher_output_dir {folder} holds a model that this project has not made (it has no {RECIPE_FILE}), "
            "and a fine-tuned teacher would replace it. To use that model, name it with --teacher_name_or_path; for a "
            "new teacher choose another folder."
        )


def fine_tune(
    teacher: PreTrainedModel,
    teacher_args: TeacherArguments,
    training_args: DistillationTrainingArguments,
    tokenized: DatasetDict,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[PreTrainedModel, float]:
    """Fine-tunes a teacher, or loads the one that an earlier run has made of the same start in the same way.

    Args:
        teacher: not trained for the labels, as `load_classifier` returns it.
        training_args: of the student; batch size, schedule and precision are the teacher's too.

    Returns:
        The fine-tuned teacher, kept in `--teacher_output_dir`, and the mean loss of its training.
    """
    folder = Path(teacher_args.teacher_output_dir)
    recipe = _recipe(teacher, teacher_args, training_args, tokenized["train"])
    kept = json.loads((folder / RECIPE_FILE).read_text()) if (folder / RECIPE_FILE).is_file() else None
    # One answer for all processes: one that found no teacher would wait in its training for those that did.
    (kept,) = broadcast_object_list([kept])
    if kept is not None and kept["recipe"] == recipe and kept["train_loss"] is not None:
        logger.info(f"The fine-tuned teacher in {folder} is used again.")
        return _load(folder), kept["train_loss"]
    if kept is not None:
        changed = [name for name in recipe if recipe[name] != kept["recipe"].get(name)]
        logger.warning(f"The teacher in {folder} was made with another {', '.join(changed)}: it is made anew.")
    check_writable("teacher_output_dir", folder)
    logger.info(f"{teacher_args.teacher_name_or_path} has no head for these labels: the teacher is fine-tuned first.")

    args = copy.copy(training_args)
    args.output_dir, args.seed = str(folder), teacher_args.teacher_seed
    args.num_train_epochs, args.max_steps = teacher_args.teacher_num_train_epochs, -1
    args.learning_rate = teacher_args.teacher_learning_rate
    args.learn_from_labels_alone()
    args.only_train()
    args.push_to_hub = False
    renew_engine_config(args)
    trainer = DistillationTrainer(
        model=teacher, args=args, train_dataset=tokenized["train"], processing_class=tokenizer
    )
    train_loss = trainer.train().metrics["train_loss_ce"]
    with replacing(folder, training_args.distributed_state) as unfinished:
        trainer.save_model(unfinished)
        if trainer.is_world_process_zero():
            _write_recipe(folder, recipe, train_loss=None)  # what is there is from now on a mixture of old and new
    if trainer.is_world_process_zero():
        _write_recipe(folder, recipe, train_loss)
    trainer.accelerator.wait_for_everyone()
    release_engine()
    # Not the object that was trained: engines cast, shard or wrap it.
    return _load(folder), train_loss


def _write_recipe(folder: Path, recipe: dict, train_loss: float | None) -> None:
    write_json(folder / RECIPE_FILE, {"recipe": recipe, "train_loss": train_loss})


def _load(folder: Path) -> PreTrainedModel:
    return from_pretrained(AutoModelForSequenceClassification, str(folder), None, dtype="float32")


def _recipe(
    teacher: PreTrainedModel,
    teacher_args: TeacherArguments,
    training_args: DistillationTrainingArguments,
    train_dataset: Dataset,
) -> dict:
    """Everything that the fine-tuned weights depend on: equal recipes make equal teachers."""
    examples_a_step = (
        training_args.train_batch_size * training_args.gradient_accumulation_steps * training_args.world_size
    )
    shared = (
        *("optim", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "warmup_steps"),
        *("lr_scheduler_type", "lr_scheduler_kwargs", "label_smoothing_factor", "bf16", "fp16"),
        *("train_sampling_strategy", "data_seed", "dataloader_drop_last"),
    )
    return {
        "initial_weights": fingerprint_model(teacher),
        "train_data": fingerprint_dataset(train_dataset, (*MODEL_INPUTS, "labels")),
        "labels": list(teacher.config.id2label.values()),
        "num_train_epochs": teacher_args.teacher_num_train_epochs,
        "learning_rate": teacher_args.teacher_learning_rate,
        "seed": teacher_args.teacher_seed,
        "train_batch_size": examples_a_step,
        **{name: getattr(training_args, name) for name in shared},
    }


def warn_if_guessing(metrics: dict[str, float], targets: list) -> bool:
    """Says loudly when a teacher does no better than guessing; returns whether it does not.

    A classifier must beat the share of the most frequent label by two standard errors; a regression's correlation with
    the targets must exceed two standard errors of an uncorrelated sample's.

    Args:
        metrics: of the teacher on a validation split, named `eval_{metric}`.
        targets: the split's labels: class ids, 0/1 lists or numbers.
    """
    if "eval_accuracy" in metrics:
        counts = Counter(tuple(target) if isinstance(target, list) else target for target in targets)
        name, chance = "accuracy", counts.most_common(1)[0][1] / len(targets)
        margin = 2 * math.sqrt(chance * (1 - chance) / len(targets))
    else:
        name, chance, margin = "pearson", 0.0, 2 / math.sqrt(len(targets))
    value = metrics.get(f"eval_{name}", math.nan)  # constant predictions have no correlation
    guessing = not value > chance + margin
    if guessing:
        rule = "!" * 100
        logger.warning(
            f"\n{rule}\nTHE TEACHER IS NO BETTER THAN GUESSING: {name} {value:.3f} on {len(targets)} validation "
            f"examples, guessing gives {chance:.3f} (+- {margin:.3f}).\nA student would learn nothing from it. Is its "
            "head trained for this task, are the labels in its order (--label_order), has it\ntrained long enough "
            f"(--teacher_num_train_epochs)?\n{rule}"
        )
    return guessing


@dataclass(frozen=True)
class Teacher:
    """A teacher ready to be distilled from. It is loaded when it is needed and takes no memory in between.

    Attributes:
        path: Hub name or folder of its checkpoint, with a head trained for `labels`.
        args: how it was asked for.
        results: its scores on the validation and test splits, and `train_loss_ce` if a run of ours has fine-tuned it.
    """

    path: str
    args: TeacherArguments
    labels: LabelMap
    results: dict[str, float]

    def load(self, device: torch.device) -> PreTrainedModel:
        """The whole model on the device, also where an engine shares models out among processes."""
        model, _ = load_classifier(self.path, self.labels, self.args)
        return model.to(device)

    def seen_from(self, folder: str) -> str | None:
        """The path from a folder to that of the checkpoint, `None` for one on the Hub."""
        return os.path.relpath(self.path, folder) if Path(self.path).is_dir() else None


def prepare_teacher(
    path: str,
    model: PreTrainedModel,
    is_trained: bool,
    teacher_args: TeacherArguments,
    training_args: DistillationTrainingArguments,
    inputs: Inputs,
) -> Teacher:
    """Fine-tunes the teacher if that is not done, scores it, and says loudly if it is no better than guessing.

    Args:
        model, is_trained: as `load_classifier` returns them for the checkpoint at `path`.
    """
    data, results = inputs.data, {}
    if not is_trained:
        path = teacher_args.teacher_output_dir
        model, results["train_loss_ce"] = fine_tune(
            model, teacher_args, training_args, inputs.tokenized, inputs.tokenizer
        )
    model = model.to(training_args.device)
    scoring = (training_args, inputs.collator, inputs.compute_metrics)
    results |= evaluate_model(model, inputs.tokenized, data.validation_splits, "eval", *scoring)
    warn_if_guessing(results, inputs.tokenized[data.validation_splits[0]]["labels"])
    if training_args.do_predict:
        results |= evaluate_model(model, inputs.tokenized, data.test_splits, "predict", *scoring)
    return Teacher(path, teacher_args, data.labels, results)
