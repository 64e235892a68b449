"""LoRA on a student: low-rank adapters on the linear layers of its encoder, trained together with its whole head.

    model = add_lora(student, lora_args)          # a `PeftModel`, trained like any other student
    model = load_adapter("outputs/my-run")        # later, anywhere: the student rebuilt from its teacher, adapter on
    model.merge_and_unload()                      # the plain student with the adapter's changes in its weights

An adapter (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", https://arxiv.org/abs/2106.09685)
adds `lora_alpha / lora_r * B @ A` to a frozen weight matrix. It is of no use without the exact model under it, which
here is no checkpoint that could be named: it is chosen layers of a teacher. So a run's record names the teacher and
the layers, and `load_adapter` rebuilds the student from them.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from accelerate import PartialState
from datasets import Dataset
from peft import EvaConfig, LoraConfig, PeftModel, get_peft_model, initialize_lora_eva_weights
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from distill_trainer import DistillationTrainingArguments
from layer_mapping import StudentArguments, build_student, find_layer_list
from run_folder import read_record, replacing
from teacher import TeacherArguments, load_classifier, resolve_checkpoint
from teacher_cache import MODEL_INPUTS, fingerprint_model
from text_classification import LabelMap

# LoRA needs a larger learning rate than full fine-tuning: 4e-4 was chosen on the embedded data (docs/LOG.md).
LEARNING_RATE = 4e-4
# What PEFT offers, without what could not be loaded again from the adapter alone: 'corda', 'lora_ga' and 'loftq'
# change the frozen weights in a way that depends on data, and 'pissa_niter_N' on random numbers.
INITIALISATIONS = ("true", "false", "gaussian", "orthogonal", "pissa", "olora", "mica", "eva")
# Examples that EVA looks at; its directions have converged long before.
NUM_EVA_EXAMPLES = 1024


@dataclass
class LoraArguments:
    """The adapters: where they sit, how large they are and how they start."""

    lora_r: int = field(default=16, metadata={"help": "Rank of the adapters; >= 1."})
    lora_alpha: float = field(
        default=32.0,
        metadata={"help": "The adapters' output is scaled by lora_alpha / lora_r; > 0."},
    )
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout on the adapters' input, in [0, 1)."})
    lora_target_modules: str | None = field(
        default=None,
        metadata={
            "help": "Comma-separated names of the encoder's linear layers that get an adapter, as they end: "
            "'query,value' or 'attention.output.dense'. Unset: all of them. The head is always trained fully."
        },
    )
    use_dora: bool = field(default=False, metadata={"help": "Weight-decomposed adapters (DoRA)."})
    use_rslora: bool = field(default=False, metadata={"help": "Scale by lora_alpha / sqrt(lora_r) instead (rsLoRA)."})
    init_lora_weights: str = field(
        default="true",
        metadata={
            "help": "How the adapters start, as in PEFT: 'true' (no change at first), 'gaussian', 'orthogonal', "
            "'pissa', 'olora', 'mica', 'eva' (from the activations of some training examples), 'false' (random).",
            "choices": INITIALISATIONS,
        },
    )
    merge_adapter: bool = field(
        default=False,
        metadata={"help": "Also write OUTPUT_DIR/merged, a plain checkpoint with the adapter in its weights."},
    )

    def __post_init__(self):
        if self.lora_r < 1:
            raise ValueError(f"`lora_r` must be at least 1, found {self.lora_r}. 8, 16 and 32 are usual.")
        if not self.lora_alpha > 0:
            raise ValueError(f"`lora_alpha` must be > 0, found {self.lora_alpha}. Twice `lora_r` is usual.")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"`lora_dropout` must be in [0, 1), found {self.lora_dropout}. Use 0 for none.")
        if self.init_lora_weights not in INITIALISATIONS:
            raise ValueError(
                f"`init_lora_weights` must be one of {', '.join(INITIALISATIONS)}, found {self.init_lora_weights!r}. "
                "Others change the student's own weights in a way that a saved adapter could not repeat."
            )


@dataclass
class LoraTrainingArguments(DistillationTrainingArguments):
    """`DistillationTrainingArguments` with LoRA's learning rate and without distillation unless it is asked for."""

    ce_weight: float = field(default=1.0, metadata={"help": "Weight of the hard-label loss; >= 0."})
    kl_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of T^2 * KL(teacher || student), for LoRA with distillation on top; >= 0."},
    )
    learning_rate: float = field(
        default=LEARNING_RATE, metadata={"help": "Peak learning rate of the adapters and the head; > 0."}
    )


def check_layers_are_copied(student_args: StudentArguments) -> None:
    """Raises a `ValueError` for a student whose frozen weights could not be copied from the teacher again."""
    if student_args.layer_strategy == "random" and student_args.layers is None:
        raise ValueError(
            "LoRA leaves the weights of the student's layers as they are, so they must come from the teacher, but "
            "--layer_strategy random copies none. Choose another strategy, or train with run_distillation.py."
        )
    for name in ("stages", "student_name_or_path"):
        if getattr(student_args, name) is not None:
            raise ValueError(
                "An adapter is saved without the weights under it, which are those of the teacher's layers, but "
                f"--{name} {getattr(student_args, name)} starts from others. Leave it out, or train with "
                "run_distillation.py."
            )


def add_lora(
    student: PreTrainedModel,
    lora_args: LoraArguments,
    examples: Dataset | None = None,
    collator: Callable | None = None,
) -> PeftModel:
    """Freezes a student, puts adapters on the linear layers of its encoder, and leaves its head trainable.

    Args:
        student: changed in place.
        examples, collator: tokenised training examples and what pads them; read by `init_lora_weights="eva"` alone.

    Returns:
        The model to train: the adapters' random weights are drawn with torch's global seed.

    Raises:
        ValueError: `lora_target_modules` names no linear layer of the encoder.
    """
    initialisation = lora_args.init_lora_weights
    config = LoraConfig(
        r=lora_args.lora_r,
        lora_alpha=lora_args.lora_alpha,
        lora_dropout=lora_args.lora_dropout,
        target_modules=target_modules(student, lora_args.lora_target_modules),
        modules_to_save=head_modules(student),
        use_dora=lora_args.use_dora,
        use_rslora=lora_args.use_rslora,
        init_lora_weights={"true": True, "false": False}.get(initialisation, initialisation),
        eva_config=EvaConfig() if initialisation == "eva" else None,
    )
    model = get_peft_model(student, config)
    # PEFT would name the teacher, and its own loaders put the adapter on the teacher's first layers without an error.
    config.base_model_name_or_path = ""
    if initialisation == "eva":
        initialize_lora_eva_weights(model, _batches(examples, collator), show_progress_bar=False)
    return model


def _batches(examples: Dataset, collator: Callable) -> list[dict]:
    columns = [name for name in MODEL_INPUTS if name in examples.column_names]
    examples = examples.select_columns(columns).select(range(min(NUM_EVA_EXAMPLES, len(examples))))
    batch_size = min(32, len(examples))  # a last batch of few tokens would not do for a decomposition
    return [dict(batch) for batch in DataLoader(examples, batch_size, collate_fn=collator, drop_last=True)]


def target_modules(model: PreTrainedModel, names: str | None = None) -> list[str]:
    """Full names of the linear layers of the encoder, or of those whose name ends in one of the comma-separated names.

    Pooler and head come after the encoder's layers and are none of them.

    Raises:
        ValueError: a name fits no linear layer.
    """
    prefix = find_layer_list(model)
    layers = model.get_submodule(prefix).named_modules(prefix=prefix)
    linear = [name for name, module in layers if isinstance(module, nn.Linear)]
    if names is None:
        return linear
    endings = [name.strip() for name in names.split(",")]
    for ending in endings:
        if not any(f".{name}".endswith(f".{ending}") for name in linear):
            within_layer = dict.fromkeys(name.removeprefix(f"{prefix}.").split(".", 1)[1] for name in linear)
            raise ValueError(
                f"`lora_target_modules` names linear layers of the encoder, which has {', '.join(within_layer)}, but "
                f"found {ending!r}. Choose among them, or leave it out for all."
            )
    return [name for name in linear if any(f".{name}".endswith(f".{ending}") for ending in endings)]


def head_modules(model: PreTrainedModel) -> list[str]:
    """Names of the modules with weights that come after the encoder: the pooler, if there is one, and the head."""
    encoder = model.base_model_prefix
    after = [name for name, module in model.named_children() if name != encoder and list(module.parameters())]
    return [f"{encoder}.pooler", *after] if getattr(model.base_model, "pooler", None) is not None else after


def count_parameters(model: PeftModel) -> tuple[int, int]:
    """How many parameters are trained, and how many there are, PEFT's frozen second copy of the head left out."""
    parameters = [p for name, p in model.named_parameters() if ".original_module." not in name]
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)


def finish_adapter(
    folder: str | Path, student: PreTrainedModel, trained: PeftModel, lora_args: LoraArguments
) -> tuple[PreTrainedModel, dict]:
    """Completes the folder in which the trainer has saved an adapter, and loads the adapter as others will.

    Args:
        student: the one that the adapter was trained on, built again; changed in place.
        trained: the model that was trained.

    Returns:
        The student with the saved adapter merged into its weights, and what the run's record says about the adapter:
        settings, parameters, and size on disk (MB of 10^6 bytes).
    """
    trained.get_base_model().config.save_pretrained(folder)  # for the labels; PEFT saves its own config alone
    trainable, total = count_parameters(trained)
    description = {
        **{name: value for name, value in asdict(lora_args).items() if name != "merge_adapter"},
        "trainable_parameters": trainable,
        "total_parameters": total,
        "megabytes": (Path(folder) / SAFETENSORS_WEIGHTS_NAME).stat().st_size / 1e6,
    }
    return _attach(student, folder).merge_and_unload(), description


def save_merged(folder: Path, merged: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Writes a student with a merged adapter as a plain checkpoint, with its tokenizer."""
    with replacing(folder, PartialState()) as unfinished:
        merged.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)


def load_adapter(folder: str | Path, teacher_name_or_path: str | None = None) -> PeftModel:
    """Rebuilds the student of a finished `run_lora.py` from its teacher's layers, and puts the adapter on.

    Args:
        folder: the run's `--output_dir`.
        teacher_name_or_path: where its teacher is; unset, where it was, seen from the folder.

    Returns:
        The model in float32, on the CPU and in `eval()` mode; `merge_and_unload()` makes a plain classifier of it.

    Raises:
        ValueError: the folder holds no finished LoRA run, or the teacher is not to be found or another one.
    """
    record = read_record(folder)
    if record is None or "adapter" not in record.get("student", {}):
        raise ValueError(f"{folder} holds no adapter of a finished run of run_lora.py. Name the folder of such a run.")
    if teacher_name_or_path is None:
        teacher_name_or_path = _teacher_of(folder, record)
    config = AutoConfig.from_pretrained(folder)
    labels = LabelMap(config.problem_type, tuple(config.id2label[i] for i in range(config.num_labels)))
    teacher_args = TeacherArguments(teacher_revision=record["settings"].get("teacher_revision"))
    teacher, _ = load_classifier(resolve_checkpoint(teacher_name_or_path), labels, teacher_args)
    fingerprint = fingerprint_model(teacher)
    if fingerprint != record["teacher"]["fingerprint"]:
        raise ValueError(
            f"The adapter in {folder} was trained on layers of another teacher (fingerprint "
            f"{record['teacher']['fingerprint'][:12]}...) than {teacher_name_or_path} ({fingerprint[:12]}...). Pass "
            "the folder of the right one as teacher_name_or_path."
        )
    return _attach(build_student(teacher, record["student"]["layers"]), folder)


def _attach(student: PreTrainedModel, folder: str | Path) -> PeftModel:
    return PeftModel.from_pretrained(student, folder, torch_device=str(student.device)).eval()


def _teacher_of(folder: str | Path, record: dict) -> str:
    if record["teacher_folder"] is None:
        return record["teacher"]["name"]
    teacher = Path(folder) / record["teacher_folder"]
    if not teacher.is_dir():
        raise ValueError(
            f"The adapter in {folder} belongs to the teacher in {teacher}, which does not exist. Pass the folder "
            "where it is now as teacher_name_or_path."
        )
    return str(teacher)
