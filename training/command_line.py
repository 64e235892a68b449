"""Command lines as in the `transformers` examples, with a file of arguments that the command line may override.

    python run_distillation.py examples/case_study.json --seed 1

The file is a JSON object of argument names and values. Without a file, a script reads its default file, unless the
command line names data or a teacher: one option added to no arguments changes nothing else.
"""

import ctypes
import errno
import json
import logging
import math
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from transformers import HfArgumentParser, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer import TRAINER_STATE_NAME

from layer_distillation.errors import UserError
from text_data.names import join_names
from training.processor import describe_threads

logger = logging.getLogger(__name__)

# Arguments whose values go into no log, record or model card.
SECRETS = ("hub_token",)
# Where a run is and continues, not what it makes.
NOT_RECORDED = (*SECRETS, "output_dir", "resume_from_checkpoint")
# The source of arguments that are given there.
ON_COMMAND_LINE = "command line"
# Arguments that say what a run is about. Without any of them, the default file holds for all that is not given.
SUBJECT = (
    "task_name",
    "dataset_name",
    "train_file",
    "validation_file",
    "test_file",
    "teacher_name_or_path",
    "model_name_or_path",
)
# Arguments of `Trainer` that are lists of words, which it does not split, and those that are one word or a list.
LISTS = ("debug", "include_for_metrics", "label_names")
TEXTS_OR_LISTS = ("optim_target_modules", "report_to")


@dataclass(frozen=True)
class Settings:
    """What was asked for.

    Attributes:
        arguments: instances of the dataclasses, in the order of their classes.
        sources: for every argument that was given, where its value came from: "command line" or the name of a file.
        command: as it could be typed again once its tokens are filled in.
    """

    arguments: tuple
    sources: Mapping[str, str]
    command: str

    def given(self) -> dict:
        """Name and value of every argument that was given, in a form that JSON can hold, without tokens."""
        values = {
            field.name: getattr(instance, field.name) for instance in self.arguments for field in fields(instance)
        }
        return {name: _plain(values[name]) for name in sorted(self.sources) if name not in NOT_RECORDED}

    def explanation(self, always: Sequence[str]) -> str:
        """A line with value and source for every setting that was given, and for those named in `always`."""
        lines = ["Settings:"]
        for instance in self.arguments:
            for field in fields(instance):
                if field.name in self.sources or field.name in always:
                    value = "(secret)" if field.name in SECRETS else _plain(getattr(instance, field.name))
                    lines.append(f"  {field.name:<28} {value!s:<36} {self.sources.get(field.name, 'default')}")
        return "\n".join(lines)


def parse_arguments(dataclass_types: Sequence[type], argv: Sequence[str] | None, default_file: Path) -> Settings:
    """Parses the arguments of a script into the dataclasses.

    Args:
        argv: words after the name of the script; `None` for those of this process.
        default_file: read when the words name neither a file nor one of `SUBJECT`. Its name is that of the script.

    Raises:
        UserError: an argument is unknown, or the file is missing or no JSON object.
        SystemExit: with a usage message, for a value of the wrong type on the command line.
    """
    script, *argv = sys.argv if argv is None else [f"{default_file.stem}.py", *map(str, argv)]
    # DeepSpeed's launcher puts it first; the environment says the same.
    given = [word for word in argv if not word.startswith("--local_rank")]
    file, argv, sources, words = None, given, {}, []
    if given and given[0].endswith(".json"):
        file, argv = Path(given[0]), given[1:]
    elif not set(SUBJECT) & set(_names_in(given, dataclass_types)):
        file = default_file
    if file is not None:
        values = _read(file, known={field.name for cls in dataclass_types for field in fields(cls) if field.init})
        sources = dict.fromkeys(values, file.name)
        # As words of a command line, so that both are checked and converted alike; the later word wins.
        words = [word for name, value in values.items() if value is not None for word in _words(name, value)]
    sources |= dict.fromkeys(_names_in(argv, dataclass_types), ON_COMMAND_LINE)
    parser = HfArgumentParser(dataclass_types)
    for action in parser._actions:
        if action.dest in TEXTS_OR_LISTS:
            action.type = _text_or_list
    arguments = parser.parse_args_into_dataclasses(args=[*words, *argv])
    return Settings(arguments, sources, _command([script, *given], arguments))


def _command(words: Sequence[str], arguments: Sequence) -> str:
    command = shlex.join(["python", *words])
    for instance in arguments:
        for field in fields(instance):
            if field.name in SECRETS and getattr(instance, field.name):
                command = command.replace(getattr(instance, field.name), field.name.upper())
    return command


def _words(name: str, value: Any) -> list[str]:
    """Returns an entry of an argument file as words of a command line."""
    if not isinstance(value, list):
        return [f"--{name}={value if isinstance(value, str) else json.dumps(value)}"]
    if name in TEXTS_OR_LISTS:
        return [f"--{name}={json.dumps(value)}"]
    if name in LISTS:
        return [f"--{name}", *map(str, value)] if value else []
    return [f"--{name}={join_names(map(str, value))}"]


def _text_or_list(word: str) -> str | list[str]:
    try:
        return list(map(str, json.loads(word))) if word.startswith("[") else word
    except json.JSONDecodeError:  # a pattern
        return word


def _names_in(argv: Sequence[str], dataclass_types: Sequence[type]) -> list[str]:
    """Full names of the arguments given, be they abbreviated, written with hyphens or as `--no_NAME`."""
    not_given = object()
    parser = HfArgumentParser(dataclass_types, add_help=False)
    parser.set_defaults(**{field.name: not_given for cls in dataclass_types for field in fields(cls)})
    values, unknown = parser.parse_known_args(argv)
    if unknown := [word for word in unknown if word not in ("-h", "--help")]:
        raise UserError(f"Unknown arguments: {' '.join(unknown)}. See --help.")
    return [name for name, value in vars(values).items() if value is not not_given]


def _read(file: Path, known: set[str]) -> dict:
    if not file.is_file():
        raise UserError(
            f"There is no argument file {file}. The ones that come with the project are in defaults/ and examples/."
        )
    try:
        values = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"The argument file {file} is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise UserError(f"The argument file {file} must hold one JSON object of argument names and values.")
    if unknown := sorted(values.keys() - known):
        raise UserError(f"The argument file {file} has unknown arguments: {', '.join(unknown)}. See --help.")
    return values


def run_script(main: Callable[[], object]) -> None:
    """Runs a script's `main`; an error that a user can cause ends it in one line, without a traceback.

    So does a full disk. Any other error keeps its traceback: it comes from a library, or from a mistake in the code.
    """
    if not torch.accelerator.is_available():
        keep_freed_memory()
    try:
        main()
    except Exception as error:
        message = message_for_user(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(1)
    # A thread of a process group that is still running at exit now and then ends the process with an error.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def message_for_user(error: Exception) -> str | None:
    """Returns what a user reads of an error that a user can cause, or of a full disk; `None` for other errors."""
    if _disk_is_full(error):
        return (
            f"the disk is full ({error}). Free some space, or choose an --output_dir on another disk. Results of "
            "earlier runs are as they were, and the same command continues from the last complete checkpoint."
        )
    return str(error) if isinstance(error, UserError) else None


def keep_freed_memory() -> None:
    """Makes this process keep the memory that it frees for its next allocations, where the C library is glibc.

    By default glibc returns blocks above 32 MB to the system as soon as they are freed, and gets them back page by
    page. On a processor the gradient of the word embeddings is such a block in every step: 47 MB for BERT's vocabulary
    at a width of 384. Any `MALLOC_...` variable in the environment, which glibc reads, decides instead.
    """
    is_decided = any(name.startswith("MALLOC_") for name in os.environ)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None and not is_decided:
        m_trim_threshold, m_mmap_max = -1, -4  # as in malloc.h
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, -1)


def _disk_is_full(error: Exception) -> bool:
    # What safetensors says, and where `torch.save` fails to write.
    signs = ("No space left on device", "inline_container.cc")
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(sign in str(error) for sign in signs)


# The smallest values of what `TrainingArguments` takes as it is.
LOWEST = {
    "gradient_accumulation_steps": 1,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "learning_rate": 0,
    "num_train_epochs": 0,
    "weight_decay": 0,
    "seed": 0,
}


def check_trainer_arguments(training_args: TrainingArguments) -> None:
    """Raises a `UserError` for arguments that `Trainer` would refuse after hours, or that would damage what is saved.

    `--report_to` must name what is known and installed. `Trainer` says so after the teacher's fine-tuning.
    """
    for name, lowest in LOWEST.items():
        value = getattr(training_args, name)
        if not (math.isfinite(value) and value >= lowest):
            raise UserError(f"--{name} must be a finite number >= {lowest}, found {value}.")
    checkpoint = training_args.resume_from_checkpoint
    if checkpoint and not Path(checkpoint, TRAINER_STATE_NAME).is_file():
        raise UserError(
            f"--resume_from_checkpoint {checkpoint} is no checkpoint: there is no {TRAINER_STATE_NAME} in it. Name a "
            "folder checkpoint-N. A run continues from the checkpoints in its own --output_dir without this option."
        )
    for name in ("bf16_full_eval", "fp16_full_eval"):
        if getattr(training_args, name):
            raise UserError(
                f"--{name} rounds the weights of a model for good when it is evaluated after its training, and the "
                f"commands save it afterwards. Leave it out: --{name[:4]} evaluates in this precision too."
            )
    given = f"--report_to {' '.join(training_args.report_to)}"
    try:
        callbacks = get_reporting_integration_callbacks(training_args.report_to)
    except ValueError as error:
        raise UserError(f"{given}: {error} Name one of these, or use --report_to none.") from error
    try:
        for callback in callbacks:
            callback()
    except (ImportError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{given} needs packages that are not installed: {error}. Install them, or use --report_to none."
        ) from error


def set_up_logging(training_args: TrainingArguments) -> None:
    """Information from the main process, errors only from the others; libraries at `--log_level`."""
    level = logging.INFO if training_args.process_index == 0 else logging.ERROR
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr, level=level)
    for library in ("transformers", "datasets", "accelerate", "httpx", "DeepSpeed"):
        logging.getLogger(library).setLevel(training_args.get_process_log_level())
    logger.info(describe_threads())


def _plain(value):
    return value.value if isinstance(value, Enum) else value
