"""The arguments of `DistillationTrainer`: the weights of the losses, how they compare, and defaults for encoders.

from layer_distillation.arguments import ONLY_TRAIN, DistillationTrainingArguments

args = DistillationTrainingArguments(output_dir="student", ce_weight=0.5, kl_weight=0.5, temperature=2.0)
trial_args = args.derived(output_dir="trial", max_steps=100, **ONLY_TRAIN)
baseline_args = args.for_labels_alone()
"""

import copy
import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

import torch
from torch import nn
from transformers import TrainingArguments

from layer_distillation.engines import renew_engine_config
from layer_distillation.errors import UserError
from layer_distillation.loss_table import LAYER_LOSSES, LOSSES, WEIGHTS, LayerLoss
from layer_distillation.model_outputs import config_of, stated_problem_type
from layer_distillation.problem_types import REGRESSION

logger = logging.getLogger(__name__)

# Types of models whose attention raises an error under autocast to bfloat16 in transformers 5.23.
RAISE_IN_BFLOAT16 = ("deberta", "xmod", "big_bird")
HIDDEN_TOKENS = ("all", "first")
ATTENTION_DIVERGENCES = ("kl", "mse")
# Changes for `derived`: a training that neither evaluates nor saves by itself.
ONLY_TRAIN = {
    "eval_strategy": "no",
    "save_strategy": "no",
    "eval_on_start": False,
    "load_best_model_at_end": False,
}


def bf16_in_hardware(use_cpu: bool = False) -> bool:
    """Returns whether the training device multiplies bfloat16 natively; emulation is slower than float32."""
    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@dataclass
class DistillationTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the weights of the loss

        ce_weight * CE(labels) + kl_weight * T^2 * KL(teacher || student, T) + cosine_weight * (1 - cos(logits))
        + hidden_weight * hidden states + attention_weight * attention + relation_weight * relations

    and with other defaults for some arguments. The formulas are in `layer_distillation/losses.py`.

    Raises:
        UserError: a value is out of its range, or two settings exclude each other.
    """

    ce_weight: float = field(
        default=0.5,
        metadata={
            "help": "Weight of the loss on the labels, >= 0: cross-entropy, its form for several labels, or "
            "squared error."
        },
    )
    kl_weight: float = field(
        default=0.5,
        metadata={"help": "Weight of T^2 * KL(teacher || student) on predictions softened by --temperature, >= 0."},
    )
    temperature: float = field(
        default=2.0,
        metadata={
            "help": "T, > 0: logits are divided by it before KL. 1 leaves the predictions as they are; larger "
            "values flatten them."
        },
    )
    cosine_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of 1 - cosine(student logits, teacher logits), >= 0; not for regression. Measured: "
            "no gain on SST-2."
        },
    )
    hidden_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the distance between the hidden states of student and teacher, >= 0; a mean over "
            "the student's layers. Measured: no gain on SST-2, but part of the recipe that works on RTE."
        },
    )
    hidden_tokens: str = field(
        default="all",
        metadata={
            "help": "Tokens whose hidden states --hidden_weight compares: 'all' (TinyBERT) or only the 'first' "
            "(Patient-KD).",
            "choices": list(HIDDEN_TOKENS),
        },
    )
    attention_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the difference between attention probabilities, >= 0; a mean over the student's "
            "layers. Student and teacher must have equally many heads; the student trains without "
            "attention dropout. Measured: no gain on SST-2."
        },
    )
    attention_divergence: str = field(
        default="kl",
        metadata={
            "help": "How --attention_weight compares probabilities: 'kl' (MiniLM) or 'mse', the squared "
            "difference (TinyBERT).",
            "choices": list(ATTENTION_DIVERGENCES),
        },
    )
    relation_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of MiniLMv2's loss, >= 0: it compares how queries, keys and values of the last "
            "layers relate to each other. Measured: no gain on SST-2."
        },
    )
    relation_heads: int | None = field(
        default=None,
        metadata={
            "help": "Number of equal parts into which --relation_weight splits each vector; it must divide "
            "the widths in student and teacher. Unset: as many as the teacher has heads; with grouped queries, "
            "keys and values have fewer."
        },
    )
    linear_to: dict | str | None = field(
        default=None,
        metadata={
            "help": 'Weights and temperature at the last step, as JSON: {"kl_weight": 0, "temperature": 1}. They '
            "change linearly over the training. Unset: they stay constant. Measured: no gain on SST-2."
        },
    )
    teacher_dtype: str | None = field(
        default=None,
        metadata={
            "help": "Precision of a teacher that runs in every step; 'bfloat16' and 'float16' halve the memory "
            "of its weights. Unset: as loaded. Stored teacher outputs do not depend on it.",
            "choices": ["float32", "bfloat16", "float16"],
        },
    )
    student_dropout: float | None = field(
        default=None,
        metadata={
            "help": "Dropout rate of the student in training, in [0, 1). On SST-2, 0 and 0.1 could not be told apart. "
            "Unset: the rates of its config, which Falcon, Persimmon and BigBird read some of in any case."
        },
    )
    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of the student; > 0."})
    num_train_epochs: float = field(default=3.0, metadata={"help": "Passes over the training data; > 0."})
    per_device_train_batch_size: int = field(
        default=32, metadata={"help": "Training examples of one forward and backward pass on each device; >= 1."}
    )
    per_device_eval_batch_size: int = field(
        default=64,
        metadata={
            "help": "Examples of one forward pass on each device in evaluation and for the teacher's stored "
            "outputs; >= 1."
        },
    )
    warmup_steps: float = field(
        default=0.06,
        metadata={
            "help": "Steps in which the learning rate rises linearly from 0 to its peak: a share of all steps if "
            "below 1, else their number."
        },
    )
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW; >= 0."})
    save_total_limit: int | None = field(
        default=2,
        metadata={
            "help": "Number of checkpoints to keep, the newest ones. From 2 on, a complete one exists while "
            "another is being written."
        },
    )
    bf16: bool | None = field(
        default=None,
        metadata={
            "nargs": "?",
            "const": True,
            "help": "Compute in bfloat16; the weights stay in float32. Unset: as `accelerate` was configured, "
            "else on where the hardware multiplies bfloat16, unless --fp16 is given, the labels are scores "
            "(regression) or the model cannot (DeBERTa v1, X-MOD, BigBird). `--bf16 false` turns it off.",
        },
    )
    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={
            "help": "Order of the training examples: 'group_by_length' (random, with texts of similar length in a "
            "batch, so less padding), 'random' or 'sequential'.",
            "choices": ["random", "sequential", "group_by_length"],
        },
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={
            "help": "Leave losses that are infinite or not a number out of the logged mean. Off: the log shows "
            "that a run has diverged, and training does not wait for the device."
        },
    )

    def __post_init__(self):
        self.linear_to = _read_linear_to(self.linear_to)
        self.check_losses()
        self._choose_precision()
        super().__post_init__()
        self._check_layers_can_be_read()

    def check_losses(self) -> None:
        """Checks the weights of the losses and how they compare, also after a search has set them.

        Raises:
            UserError: a value is out of its range.
        """
        self._check_weights()
        self._check_how_losses_compare()

    def _check_weights(self) -> None:
        if self.student_dropout is not None and not 0 <= self.student_dropout < 1:
            raise UserError(f"--student_dropout must be in [0, 1), found {self.student_dropout}. 0 switches it off.")
        for name in WEIGHTS:
            for weight in self._first_and_last(name):
                if not (math.isfinite(weight) and weight >= 0):
                    raise UserError(f"--{name} must be a finite number >= 0, found {weight}. 0 leaves the loss out.")
        for weights in zip(*map(self._first_and_last, WEIGHTS), strict=True):
            if not any(weights):
                raise UserError(
                    f"{', '.join(f'--{name}' for name in WEIGHTS)} are all 0, so there is no loss to train on. Give "
                    "at least one of them a positive value."
                )

    def _check_how_losses_compare(self) -> None:
        for temperature in self._first_and_last("temperature"):
            if not (math.isfinite(temperature) and temperature > 0):
                raise UserError(
                    f"--temperature must be a finite number > 0, found {temperature}. 1 leaves the predictions "
                    "unsoftened."
                )
        if self.hidden_tokens not in HIDDEN_TOKENS:
            raise UserError(f"--hidden_tokens must be one of {', '.join(HIDDEN_TOKENS)}, found {self.hidden_tokens}.")
        if self.attention_divergence not in ATTENTION_DIVERGENCES:
            raise UserError(
                f"--attention_divergence must be one of {', '.join(ATTENTION_DIVERGENCES)}, found "
                f"{self.attention_divergence}."
            )
        if self.relation_heads is not None and self.relation_heads < 1:
            raise UserError(
                f"--relation_heads must be at least 1, found {self.relation_heads}. Leave it out for the teacher's "
                "number of attention heads."
            )
        if self.train_sampling_strategy == "batch_rebalance":
            raise UserError(
                "--train_sampling_strategy batch_rebalance gives every process batches of another size, so the loss "
                "would depend on the number of processes. Use group_by_length, which saves padding too."
            )

    def _choose_precision(self) -> None:
        if not torch.accelerator.is_available():
            # Otherwise `TrainingArguments` refuses bfloat16 on a machine without an accelerator.
            self.use_cpu = True
        self._hardware_chose_bf16 = False
        if self.bf16 is None:
            launched_with = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
            hardware_decides = launched_with == "no" and not self.fp16
            self._hardware_chose_bf16 = hardware_decides and bf16_in_hardware(self.use_cpu)
            self.bf16 = launched_with == "bf16" or self._hardware_chose_bf16

    def _check_layers_can_be_read(self) -> None:
        """Checks the losses on layers against settings that `TrainingArguments.__post_init__` has completed."""
        hooked = self._used_weights(lambda loss: loss.needs_hooks)
        if hooked and self.torch_compile:  # other options of the compiler switch it on
            raise UserError(
                f"{hooked} reads queries, keys and values while the layers run, which --torch_compile does not allow. "
                "Turn compilation off, or set the weight to 0."
            )
        if hooked and self.n_gpu > 1:
            raise UserError(
                f"{hooked} works with one GPU a process, but this process would use {self.n_gpu}. Start it with "
                "`accelerate launch` or `torchrun`, which run a process for each GPU, or show it one GPU with "
                "CUDA_VISIBLE_DEVICES."
            )
        inside = self._used_weights(lambda loss: not loss.can_be_stored)
        is_reentrant = (self.activation_checkpointing_kwargs or {}).get("use_reentrant", False)
        if inside and self.activation_checkpointing and is_reentrant:
            raise UserError(
                f"{inside}: what is computed inside layers has no gradient under reentrant activation checkpointing. "
                "Leave `use_reentrant` out of --activation_checkpointing_kwargs, or set the weight to 0."
            )

    def check_number_of_labels(self, num_labels: int) -> None:
        """Checks that the losses can work on so many outputs.

        Raises:
            UserError: they cannot.
        """
        if num_labels == 1 and self.uses("cosine"):
            raise UserError(
                "--cosine_weight is positive, but the model has a single output, and the cosine of two numbers is "
                "+-1. Set --cosine_weight 0 for regression."
            )

    @property
    def examples_a_pass(self) -> int:
        """Examples of one forward and backward pass on all devices of all processes."""
        return self.train_batch_size * self.world_size

    @property
    def examples_a_step(self) -> int:
        """Examples of an optimizer step."""
        return self.examples_a_pass * self.gradient_accumulation_steps

    # ---- weights and temperature ----

    def at_progress(self, name: str, progress: float) -> float:
        """Returns a weight or the temperature at this share of the training, from 0 to 1."""
        first, last = self._first_and_last(name)
        return first + (last - first) * progress

    def uses(self, *names: str) -> bool:
        """Returns whether one of these losses (of `LOSSES`) has a positive weight in some step."""
        return any(max(self._first_and_last(f"{name}_weight")) > 0 for name in names)

    @property
    def needs_teacher(self) -> bool:
        """Whether a loss with a positive weight compares the student with a teacher."""
        return self.uses(*(name for name in LOSSES if name != "ce"))

    @property
    def needs_running_teacher(self) -> bool:
        """Whether a loss with a positive weight compares what `teacher_outputs.py` does not store."""
        return self.uses(*(name for name, loss in LAYER_LOSSES.items() if not loss.can_be_stored))

    @property
    def needs_teacher_layers(self) -> bool:
        """Whether a loss with a positive weight compares every student layer with a teacher layer."""
        return self.uses(*(name for name, loss in LAYER_LOSSES.items() if loss.layers == "all"))

    @property
    def needs_hidden_states(self) -> bool:
        """Whether a loss with a positive weight compares hidden states, which `teacher_outputs.py` can store."""
        return self.uses(*(name for name, loss in LAYER_LOSSES.items() if loss.can_be_stored))

    def _first_and_last(self, name: str) -> tuple[float, float]:
        first = getattr(self, name)
        return first, (self.linear_to or {}).get(name, first)

    def _used_weights(self, condition: Callable[[LayerLoss], bool]) -> str:
        """Returns the weights of the losses on layers that are used and meet the condition, for an error."""
        names = [name for name, loss in LAYER_LOSSES.items() if condition(loss) and self.uses(name)]
        return " and ".join(f"--{name}_weight" for name in names)

    def for_models(self, *models: nn.Module | None) -> Self:
        """Returns the arguments for these models: in float32 if bfloat16 does not suit one and was not asked for.

        A number in bfloat16 has 8 significant bits: between 1024 and 2048 a regression could predict every eighth
        number. Which class is most probable hardly depends on that.
        """
        configs = [config_of(model) for model in models if model is not None]
        raising = [config.model_type for config in configs if config and config.model_type in RAISE_IN_BFLOAT16]
        is_regression = stated_problem_type(*models) == REGRESSION
        if not self.bf16 or not (is_regression or raising):
            return self
        if not self._hardware_chose_bf16:
            reason = f"is more than {raising[0]} can compute" if raising else "rounds the predictions of a regression"
            logger.warning(f"--bf16 {reason}. Leave it out.")
            return self
        args = copy.copy(self)
        args.bf16, args.mixed_precision, args._hardware_chose_bf16 = False, "no", False
        renew_engine_config(args)
        return args

    # ---- arguments of another training in the same process ----

    def derived(self, **changes: Any) -> Self:
        """Returns a copy with these fields changed and a DeepSpeed configuration of its own.

            trial_args = args.without_losses("hidden").derived(output_dir="trial", max_steps=100, **ONLY_TRAIN)

        `__post_init__` does not run again, so the new values are not checked.

        Raises:
            TypeError: a name is no field of the arguments.
        """
        if unknown := changes.keys() - {field.name for field in fields(self)}:
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}.")
        args = copy.copy(self)
        for name, value in changes.items():
            setattr(args, name, value)
        renew_engine_config(args)
        return args

    def without_losses(self, *names: str) -> Self:
        """Returns a copy in which these losses (of `LOSSES`) have weight 0 from the first step to the last."""
        weights = {f"{name}_weight": 0.0 for name in names}
        linear_to = {name: value for name, value in (self.linear_to or {}).items() if name not in weights}
        return self.derived(**weights, linear_to=linear_to)

    def for_labels_alone(self) -> Self:
        """Returns a copy whose loss is that of plain fine-tuning: `ce_weight` 1, every other weight 0."""
        return self.without_losses(*LOSSES).derived(ce_weight=1.0)


def _read_linear_to(values: Mapping[str, float] | str | None) -> dict[str, float] | None:
    """Returns the values at the last step by name, from a dict or from JSON."""
    if isinstance(values, str):
        try:
            values = json.loads(values)
        except json.JSONDecodeError:
            raise UserError(f"--linear_to must be JSON such as '{{\"kl_weight\": 0}}', found {values!r}.") from None
    known = (*WEIGHTS, "temperature")
    if values is not None and not (
        isinstance(values, dict)
        and values.keys() <= set(known)
        and all(isinstance(value, int | float) for value in values.values())
    ):
        raise UserError(f"--linear_to must give numbers for some of {', '.join(known)}, found {values!r}.")
    return values
