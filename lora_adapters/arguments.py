"""The arguments of LoRA on a student: the adapters, and other defaults for the training.

lora_args = LoraArguments(lora_r=8, lora_target_modules="query,value")
training_args = LoraTrainingArguments(output_dir="outputs/lora")
"""

from dataclasses import dataclass, field

from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.errors import UserError

# LoRA needs a larger learning rate than full fine-tuning: 4e-4 was chosen on the embedded data (docs/LOG.md).
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
        metadata={"help": "The output of the adapters is scaled by lora_alpha / lora_r; > 0."},
    )
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout on the adapters' input, in [0, 1)."})
    lora_target_modules: str | None = field(
        default=None,
        metadata={
            "help": "Linear layers of the encoder that get an adapter: comma-separated ends of their names, such as "
            "'query,value' or 'attention.output.dense'. Unset: all. The head is always trained as a whole."
        },
    )
    use_dora: bool = field(default=False, metadata={"help": "Weight-decomposed adapters (DoRA)."})
    use_rslora: bool = field(default=False, metadata={"help": "Scale by lora_alpha / sqrt(lora_r) instead (rsLoRA)."})
    init_lora_weights: str = field(
        default="true",
        metadata={
            "help": "How the adapters start, as in PEFT. 'eva' reads some training examples; 'false' starts from "
            "random changes, all others from no change. Only 'true' was measured here.",
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


@dataclass
class LoraTrainingArguments(DistillationTrainingArguments):
    """`DistillationTrainingArguments` with LoRA's learning rate, and by default without distillation."""

    ce_weight: float = field(default=1.0, metadata={"help": "Weight of the hard-label loss; >= 0."})
    kl_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of T^2 * KL(teacher || student), which adds distillation to LoRA; >= 0."},
    )
    learning_rate: float = field(
        default=LEARNING_RATE, metadata={"help": "Peak learning rate of the adapters and the head; > 0."}
    )
