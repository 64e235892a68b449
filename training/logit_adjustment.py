"""Logit adjustment: moves the answers of a trained student towards the classes that are rare in its training split.

    check_can_be_adjusted(student, inputs, training_args)      # before the training
    adjust_logits(trainer, inputs)                             # {"logit_adjustment": 0.4}

From the logit of each class, t * log(share of the class in the training split) is subtracted, with the t whose answers
have the highest macro-F1 on the validation split: Menon et al. 2021, "Long-tail learning via logit adjustment",
section 4.1. The head's bias takes the difference, so that the saved student, its export and its app answer alike. The
probabilities are no longer calibrated: they give rare classes more than their share.
"""

import logging

import numpy as np
import torch
from accelerate.utils import parse_flag_from_env
from sklearn.metrics import f1_score
from torch import nn
from transformers import PreTrainedModel

from distill_trainer import DistillationTrainer
from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.errors import UserError
from layer_distillation.problem_types import SINGLE_LABEL
from text_data.answers import label_array
from training.inputs import Inputs

logger = logging.getLogger(__name__)

POWERS = np.linspace(0, 1.5, 31)


def check_can_be_adjusted(model: PreTrainedModel, inputs: Inputs, args: DistillationTrainingArguments) -> None:
    """Raises a `UserError` where `adjust_logits` could not adjust a student of this architecture."""
    labels = inputs.data.labels
    if labels.problem_type != SINGLE_LABEL or labels.is_soft:
        raise UserError(
            "--logit_adjustment chooses between classes of which each text has one, and these labels are not such "
            "classes. Leave it out; several labels get thresholds of their own (--threshold_rule)."
        )
    for use, split in (("training", inputs.tokenized["train"]), ("validation", inputs.validation)):
        if "labels" not in split.column_names:
            raise UserError(f"--logit_adjustment needs the labels of the {use} examples. Leave it out, or add labels.")
    # `accelerate launch` asks for FSDP in the environment.
    if args.deepspeed_plugin is not None or args.fsdp or parse_flag_from_env("ACCELERATE_USE_FSDP"):
        raise UserError(
            "--logit_adjustment changes the head after the training, which DeepSpeed and FSDP hold in parts. Train "
            "with DDP or one process, or leave it out."
        )
    _head_of(model, labels.num_labels)


def adjust_logits(trainer: DistillationTrainer, inputs: Inputs) -> dict[str, float]:
    """Adjusts the student that a trainer holds, and returns the t that was chosen, for the results of the run.

    Every process predicts the whole split and makes the same choice.

    Raises:
        UserError: the head has no bias.
    """
    labels = inputs.data.labels
    shares = class_shares(label_array(inputs.tokenized["train"]), labels.num_labels)
    output = trainer.predict(inputs.validation)
    power = best_power(output.predictions, output.label_ids, shares)
    bias = _head_of(trainer.model, labels.num_labels).bias
    with torch.no_grad():
        bias.copy_(torch.from_numpy(adjusted(bias.float().cpu().numpy(), shares, power)))
    logger.info(f"Logits adjusted for rare classes: t = {power:.2f}, chosen on {inputs.data.validation_splits[0]}.")
    return {"logit_adjustment": power}


def best_power(logits: np.ndarray, labels: np.ndarray, shares: np.ndarray) -> float:
    """Returns the t of `POWERS` with the highest macro-F1, the smallest if several have it.

    Args:
        logits: `(examples, classes)`.
        labels: class ids, `(examples,)`.
        shares: of the classes in the training split, `(classes,)`.
    """
    scores = [f1_score(labels, adjusted(logits, shares, power).argmax(axis=1), average="macro") for power in POWERS]
    return float(POWERS[np.argmax(scores)])


def adjusted(logits: np.ndarray, shares: np.ndarray, power: float) -> np.ndarray:
    """Returns logits `(..., classes)` less t times the logarithm of the shares of the classes, `(classes,)`."""
    return logits - power * np.log(shares)


def class_shares(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the share of each class, `(classes,)`; each counts one example more, so that no share is 0."""
    counts = 1 + np.bincount(labels, minlength=num_classes)
    return counts / counts.sum()


def _head_of(model: PreTrainedModel, num_labels: int) -> nn.Linear:
    """Returns the linear map that gives the logits: the last one of a model, or its trained copy beside an adapter."""
    maps = [
        module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == num_labels
    ]
    if not maps or maps[-1].bias is None:
        raise UserError(
            f"--logit_adjustment moves the bias of the head, and a {type(model).__name__} has none. Leave it out."
        )
    return maps[-1]
