"""The arguments of LoRA on a student: the adapters, and other defaults for the training.

lora_args = LoraArguments(lora_r=8, lora_target_modules="query,value")
training_args = LoraTrainingArguments(output_dir="outputs/lora")
"""

from dataclasses import dataclass, field

from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.errors import UserError

# LoRA needs a larger learning rate than full fine-tuning: 4e-4 was chosen on the sample data (docs/LOG.md).
LEARNING_RATE = 4e-4
# What PEFT offers, except what could not be loaded again from the adapter alone: 'corda', 'lora_ga' and 'loftq' change
# the frozen weights in a way that depends on data, and 'pissa_niter_N' in a way that depends on random numbers.
INITIALIZATIONS = ("true", "false", "gaussian", "orthogonal", "pissa", "olora", "mica", "eva")


@dataclass
class LoraArguments:
    """The adapters: where they sit, how large they are and how they start."""

    lora_r: int = field(default=16, metadata={"help": "Rank of the adapters; >= 1."})
    lora_alpha: float = field(
        default=32.0,
        metadata={"help": "Scale of the adapters; > 0. Their output is multiplied by lora_alpha / lora_r."},
    )
    lora_dropout: float = field(
        default=0.05,
        metadata={"help": "Probability, from 0 to below 1, that an input of the adapters is dropped in training."},
    )
    lora_target_modules: str | None = field(
        default=None,
        metadata={
            "help": "Linear layers of the encoder that get an adapter, by the ends of their names, separated by "
            "commas: query,value. Unset: all. Pooler and head have no adapters and are trained in full."
        },
    )
    use_dora: bool = field(default=False, metadata={"help": "Weight-decomposed adapters (DoRA)."})
    use_rslora: bool = field(
        default=False,
        metadata={
            "help": "Multiply the output of the adapters by lora_alpha / sqrt(lora_r) instead of lora_alpha / "
            "lora_r (rsLoRA)."
        },
    )
    init_lora_weights: str = field(
        default="true",
        metadata={
            "help": "Initialization of the adapters, as in PEFT. Only 'true' was measured here. 'false' changes "
            "the student's outputs at random before training, all others leave them as they are. 'eva' "
            "reads some training examples.",
            "choices": INITIALIZATIONS,
        },
    )
    merge_adapter: bool = field(
        default=False,
        metadata={
            "help": "Also write OUTPUT_DIR/merged, a plain checkpoint with the adapter merged into its weights, which "
            "any program loads. The adapter alone needs lora_adapters.loading.load_adapter."
        },
    )

    def __post_init__(self):
        if self.lora_r < 1:
            raise UserError(f"--lora_r must be at least 1, found {self.lora_r}. 8, 16 and 32 are usual.")
        if not self.lora_alpha > 0:
            raise UserError(f"--lora_alpha must be > 0, found {self.lora_alpha}. Twice --lora_r is usual.")
        if not 0 <= self.lora_dropout < 1:
            raise UserError(f"--lora_dropout must be in [0, 1), found {self.lora_dropout}. Use 0 for none.")
        if self.init_lora_weights not in INITIALIZATIONS:
            raise UserError(
                f"--init_lora_weights must be one of {', '.join(INITIALIZATIONS)}, found {self.init_lora_weights!r}. "
                "Others change the weights of the student in a way that a saved adapter does not hold."
            )
        if self.init_lora_weights == "mica" and self.use_dora:
            raise UserError("--init_lora_weights mica does not go with --use_dora in PEFT. Leave one of them out.")
        if self.init_lora_weights == "orthogonal" and self.lora_r % 2:
            raise UserError(
                f"--lora_r must be even for --init_lora_weights orthogonal, found {self.lora_r}. "
                f"Use {self.lora_r + 1}."
            )


@dataclass
class LoraTrainingArguments(DistillationTrainingArguments):
    """`DistillationTrainingArguments` with LoRA's learning rate, and by default without distillation."""

    ce_weight: float = field(
        default=1.0,
        metadata={
            "help": "Weight of the loss on the labels, >= 0: cross-entropy, its form for several labels, or "
            "squared error."
        },
    )
    kl_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of T^2 * KL(teacher || student) on predictions softened by --temperature, >= 0; a "
            "positive weight adds distillation to LoRA."
        },
    )
    learning_rate: float = field(
        default=LEARNING_RATE, metadata={"help": "Peak learning rate of the adapters and the head; > 0."}
    )
