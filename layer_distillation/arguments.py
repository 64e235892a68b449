"""The arguments of `DistillationTrainer`: weights of the losses, temperature, and defaults that suit encoders."""

import copy
import json
import math
import os
from dataclasses import dataclass, field, fields
from typing import Self

import torch
from transformers import TrainingArguments

from layer_distillation.engines import renew_engine_config
from layer_distillation.errors import UserError

LAYER_LOSSES = ("hidden", "attention", "relation")
LOSSES = ("ce", "kl", "cosine", *LAYER_LOSSES)
WEIGHTS = tuple(f"{name}_weight" for name in LOSSES)
# Values of arguments that only a command line checks by itself.
CHOICES = {"hidden_tokens": ["all", "first"], "attention_divergence": ["kl", "mse"]}
# Changes for `derived`: a training that neither evaluates nor saves by itself.
ONLY_TRAIN = {
    "eval_strategy": "no",
    "save_strategy": "no",
    "eval_on_start": False,
    "load_best_model_at_end": False,
}


def bf16_in_hardware(use_cpu: bool = False) -> bool:
    """Whether the training device multiplies bfloat16 natively; emulation is slower than float32."""
    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@dataclass
class DistillationTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the weights of the loss

        ce_weight * CE(labels) + kl_weight * T^2 * KL(teacher || student, T) + cosine_weight * (1 - cos(logits))
        + hidden_weight * hidden states + attention_weight * attention + relation_weight * relations

    and with defaults that suit the distillation of encoders. The formulas are in `layer_distillation/losses.py`.
    """

    ce_weight: float = field(
        default=0.5, metadata={"help": "Weight of the hard-label loss (cross-entropy or its form for the task); >= 0."}
    )
    kl_weight: float = field(
        default=0.5,
        metadata={
            "help": "Weight of T^2 * KL(teacher || student) of the softened predictions (multi-label: one Bernoulli "
            "distribution per label; regression: squared error to the teacher); >= 0."
        },
    )
    cosine_weight: float = field(
        default=0.0, metadata={"help": "Weight of 1 - cosine(student_logits, teacher_logits); >= 0."}
    )
    hidden_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the squared distance between the directions of the student's and the teacher's hidden "
            "states, a mean over the student's layers; >= 0."
        },
    )
    hidden_tokens: str = field(
        default="all",
        metadata={
            "help": "Tokens whose hidden states are compared: 'all' (TinyBERT) or the 'first' (Patient-KD).",
            "choices": CHOICES["hidden_tokens"],
        },
    )
    attention_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the difference between the student's and the teacher's attention probabilities, a mean "
            "over the student's layers; >= 0. Both need the same number of heads. The student's attention has no "
            "dropout then."
        },
    )
    attention_divergence: str = field(
        default="kl",
        metadata={
            "help": "How attention probabilities differ: 'kl' (MiniLM) or 'mse' (TinyBERT).",
            "choices": CHOICES["attention_divergence"],
        },
    )
    relation_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the difference between the relations among queries, among keys and among values in the "
            "last layers of student and teacher (MiniLMv2); >= 0. Widths and numbers of heads may differ."
        },
    )
    relation_heads: int | None = field(
        default=None,
        metadata={
            "help": "Parts into which queries, keys and values are split for `relation_weight`, a divisor of both "
            "widths. Unset: the teacher's number of attention heads."
        },
    )
    temperature: float = field(
        default=2.0, metadata={"help": "T > 0, which softens both predictions before KL; 1 leaves them as they are."}
    )
    linear_to: dict | str | None = field(
        default=None,
        metadata={
            "help": "Weights of the loss or the temperature at the last step of the training, as JSON: they change "
            'linearly with the steps, for example \'{"kl_weight": 0, "ce_weight": 1, "temperature": 1}\'. Unset: '
            "all stay what they are."
        },
    )
    teacher_dtype: str | None = field(
        default=None,
        metadata={
            "help": "Precision of the weights of a teacher that runs in every step: 'bfloat16' halves their memory. "
            "Unset: as it was loaded. Stored teacher outputs do not depend on it.",
            "choices": ["float32", "bfloat16", "float16"],
        },
    )
    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of the student; > 0."})
    num_train_epochs: float = field(default=3.0, metadata={"help": "Passes over the training data; > 0."})
    per_device_train_batch_size: int = field(
        default=32, metadata={"help": "Training examples of one forward pass on each device."}
    )
    per_device_eval_batch_size: int = field(
        default=64, metadata={"help": "Examples of one forward pass without gradients on each device."}
    )
    warmup_steps: float = field(
        default=0.06,
        metadata={"help": "Optimizer steps of linear warm-up; below 1, as a share of all steps."},
    )
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW's weight decay; >= 0."})
    save_total_limit: int | None = field(
        default=2,
        metadata={
            "help": "Checkpoints to keep, the newest ones: with 2 or more, one is complete while another is written."
        },
    )
    bf16: bool | None = field(
        default=None,
        metadata={
            "nargs": "?",
            "const": True,
            "help": "Compute in bfloat16 with float32 weights. Unset: where the processor or GPU has it in hardware "
            "and fp16 is off. Turn it off with `--bf16 false`.",
        },
    )
    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={
            "help": "Order of the training examples: 'group_by_length' (random, but a batch holds texts of similar "
            "length, so less padding), 'random' or 'sequential'.",
            "choices": ["random", "sequential", "group_by_length"],
        },
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={
            "help": "Leave NaN and infinite losses out of the logged loss. Off: the check waits for the device at "
            "every step, and a diverged run should look diverged."
        },
    )

    def __post_init__(self):
        self.linear_to = _read_linear_to(self.linear_to)
        for name in WEIGHTS:
            for weight in self._first_and_last(name):
                if not (math.isfinite(weight) and weight >= 0):
                    raise UserError(
                        f"`{name}` must be a finite number >= 0, found {weight}. Use 0 to leave a loss out."
                    )
        for values in zip(*map(self._first_and_last, WEIGHTS), strict=True):
            if not any(values):
                raise UserError(
                    f"{', '.join(f'`{name}`' for name in WEIGHTS)} are all 0, so there is no loss to train on. Give "
                    "at least one of them a positive weight."
                )
        for temperature in self._first_and_last("temperature"):
            if not (math.isfinite(temperature) and temperature > 0):
                raise UserError(
                    f"`temperature` must be a finite number > 0, found {temperature}. Use 1 to leave the predictions "
                    "unsoftened."
                )
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f"`{name}` must be one of {', '.join(choices)}, found {getattr(self, name)!r}.")
        if self.relation_heads is not None and self.relation_heads < 1:
            raise UserError(f"`relation_heads` must be at least 1, found {self.relation_heads}.")
        if self.train_sampling_strategy == "batch_rebalance":
            raise UserError(
                "`train_sampling_strategy='batch_rebalance'` gives every process batches of another size, so the loss "
                "would depend on the number of processes. Use 'group_by_length', which saves padding too."
            )
        if not torch.accelerator.is_available():
            # Without it `TrainingArguments` refuses bfloat16 on a machine that has nothing but its processor.
            self.use_cpu = True
        if self.bf16 is None:
            launched_with = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
            hardware_decides = launched_with == "no" and not self.fp16
            self.bf16 = launched_with == "bf16" or (hardware_decides and bf16_in_hardware(self.use_cpu))
        super().__post_init__()
        if self.uses("relation") and self.torch_compile:  # other options of the compiler switch it on
            raise UserError(
                "`relation_weight` reads queries, keys and values while the layers run, which `torch_compile` does "
                "not let it. Turn that off, or set the weight to 0."
            )
        if self.uses("relation") and self.n_gpu > 1:
            raise UserError(
                f"`relation_weight` works with one GPU a process, but this process would use {self.n_gpu}. Start it "
                "with `accelerate launch` or `torchrun`, which run a process for each, or show it one GPU with "
                "CUDA_VISIBLE_DEVICES."
            )
        # Known only now, as the option has an alias.
        is_reentrant = (self.activation_checkpointing_kwargs or {}).get("use_reentrant", False)
        if self.activation_checkpointing and is_reentrant and self.uses("attention", "relation"):
            raise UserError(
                "`attention_weight` and `relation_weight` compare what is computed inside of the layers, which has no "
                "gradient under reentrant activation checkpointing. Leave `use_reentrant` out of "
                "`activation_checkpointing_kwargs`, or set both weights to 0."
            )

    def at_progress(self, name: str, progress: float) -> float:
        """The value of a weight or the temperature when this share of the training is over, from 0 to 1."""
        first, last = self._first_and_last(name)
        return first + (last - first) * progress

    def uses(self, *names: str) -> bool:
        """Whether one of these losses (of `LOSSES`) has a positive weight at some time."""
        return any(max(self._first_and_last(f"{name}_weight")) > 0 for name in names)

    @property
    def needs_teacher(self) -> bool:
        """Whether a loss with a positive weight compares the student with a teacher."""
        return self.uses("kl", "cosine", "hidden", "attention", "relation")

    def derived(self, **changes) -> Self:
        """Returns a copy with these fields changed, for another training in the same process.

            trial_args = args.without_losses("hidden").derived(output_dir="trial", max_steps=100, **ONLY_TRAIN)

        The copy has its own configuration of DeepSpeed. `__post_init__` does not run again, so nothing is checked.

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

    def leave_out(self, *names: str) -> None:
        """Gives these losses (of `LOSSES`) no weight at any time."""
        for name in names:
            setattr(self, f"{name}_weight", 0.0)
        left_out = {f"{name}_weight" for name in names}
        self.linear_to = {name: value for name, value in (self.linear_to or {}).items() if name not in left_out}

    def learn_from_labels_alone(self) -> None:
        """Makes the loss that of plain fine-tuning."""
        self.leave_out(*LOSSES)
        self.ce_weight = 1.0

    def only_train(self) -> None:
        """Lets the training evaluate and save nothing by itself."""
        self.eval_strategy = self.save_strategy = "no"
        self.eval_on_start = self.load_best_model_at_end = False

    def _first_and_last(self, name: str) -> tuple[float, float]:
        first = getattr(self, name)
        return first, (self.linear_to or {}).get(name, first)

    def check_number_of_labels(self, num_labels: int) -> None:
        """Raises a `UserError` if the losses cannot work on that many outputs."""
        if num_labels == 1 and self.uses("cosine"):
            raise UserError(
                "`cosine_weight` is positive, but the model has a single output and the cosine of two numbers is +-1. "
                "Set `cosine_weight` to 0 for regression."
            )


def _read_linear_to(values: dict | str | None) -> dict[str, float] | None:
    if isinstance(values, str):
        try:
            values = json.loads(values)
        except json.JSONDecodeError:
            raise UserError(f"`linear_to` must be JSON such as '{{\"kl_weight\": 0}}', found {values!r}.") from None
    known = (*WEIGHTS, "temperature")
    if values is not None and not (
        isinstance(values, dict)
        and values.keys() <= set(known)
        and all(isinstance(value, int | float) for value in values.values())
    ):
        raise UserError(f"`linear_to` must give numbers for some of {', '.join(known)}, found {values!r}.")
    return values
