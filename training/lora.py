"""What `run_lora.py` does beyond the trainer: which students can have adapters, and completing the folder of one."""

import logging
import shutil
from dataclasses import asdict
from pathlib import Path

from accelerate import PartialState
from peft import PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from layer_distillation.atomic_files import remove_half_written, replacing
from layer_distillation.errors import UserError
from lora_adapters.adapters import count_parameters
from lora_adapters.arguments import LoraArguments
from lora_adapters.loading import attach_adapter, load_adapter, mark_adapter
from text_data.thresholds import THRESHOLDS_FILE
from training.arguments import StudentArguments, VocabularyArguments
from training.output_folder import MERGED_FOLDER

logger = logging.getLogger(__name__)


def check_layers_are_copied(student_args: StudentArguments) -> None:
    """Raises a `UserError` for a student whose frozen weights could not be copied from the teacher again."""
    if student_args.layer_strategy == "random" and student_args.layers is None:
        raise UserError(
            "LoRA does not train the weights of the student's layers, so they must come from the teacher, but "
            "--layer_strategy random copies none. Choose another strategy, or train with run_distillation.py."
        )
    for name in ("stages", "student_name_or_path"):
        if getattr(student_args, name) is not None:
            raise UserError(
                "An adapter is saved without the weights of the student, which must be those of the teacher's layers, "
                f"but --{name} {getattr(student_args, name)} starts from other weights. Leave it out, or train with "
                "run_distillation.py."
            )


def check_vocabulary_is_whole(vocabulary_args: VocabularyArguments) -> None:
    """Raises a `UserError` for a student whose embeddings are not those of its teacher."""
    if vocabulary_args.trim_vocabulary:
        raise UserError(
            "--trim_vocabulary does not go with LoRA, whose adapters belong on the embeddings of the teacher. Leave "
            "the option out, and trim the merged weights: run_export.py --trim_vocabulary."
        )


def finish_adapter(
    folder: str | Path, student: PreTrainedModel, trained: PeftModel, lora_args: LoraArguments
) -> tuple[PreTrainedModel, dict]:
    """Completes the folder in which the trainer has saved an adapter, and loads the adapter as others will.

    Args:
        student: equal to the student that the adapter was trained on; changed in place.
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
    mark_adapter(folder)
    return attach_adapter(student, folder).merge_and_unload(), description


def save_merged(folder: str | Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Writes FOLDER/merged: the student of a finished LoRA run as a checkpoint, with tokenizer and thresholds.

    All processes call it, and the main process does the work.
    """
    state, merged = PartialState(), Path(folder) / MERGED_FOLDER
    if state.is_main_process:
        remove_half_written(merged)
    with replacing(merged, state) as unfinished:
        if state.is_main_process:
            load_adapter(folder).merge_and_unload().save_pretrained(unfinished)
            tokenizer.save_pretrained(unfinished)
            _copy_thresholds(Path(folder) / THRESHOLDS_FILE, merged / THRESHOLDS_FILE, unfinished)


def _copy_thresholds(chosen: Path, earlier: Path, unfinished: str) -> None:
    """Copies the thresholds of an adapter. Those of an earlier merge stay, as they may have been changed by hand."""
    if not chosen.is_file():
        return
    if not earlier.is_file():
        shutil.copy(chosen, unfinished)
    elif earlier.read_bytes() != chosen.read_bytes():
        logger.info(
            f"{earlier} is kept, although {chosen} has other thresholds. To have these copied, remove {earlier} and "
            "repeat the command with --merge_adapter."
        )
