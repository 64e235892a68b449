"""Command lines as in the `transformers` examples, with a file of arguments that the command line may override.

    python run_distillation.py examples/case_study.json --seed 1

The file is a JSON object of argument names and values. Without any argument a script runs its default file.
"""

import json
import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from enum import Enum
from pathlib import Path

from transformers import HfArgumentParser, TrainingArguments


def parse_arguments(
    dataclass_types: Sequence[type], argv: Sequence[str], default_file: Path
) -> tuple[tuple, dict[str, str]]:
    """Parses the arguments into the dataclasses.

    Returns:
        The instances, and for every argument that is not at its default where its value came from: "command line" or
        the name of the file.

    Raises:
        ValueError: the file is missing, is no JSON object, or has an unknown argument.
        SystemExit: with a usage message, for an unknown argument on the command line.
    """
    argv = list(argv) or [str(default_file)]
    parser = HfArgumentParser(dataclass_types)
    sources = {}
    if argv[0].endswith(".json"):
        file = Path(argv.pop(0))
        values = _read(file, known={field.name for cls in dataclass_types for field in fields(cls) if field.init})
        parser.set_defaults(**values)
        sources = dict.fromkeys(values, file.name)
    sources |= {word[2:].split("=")[0].replace("-", "_"): "command line" for word in argv if word.startswith("--")}
    return parser.parse_args_into_dataclasses(args=argv), sources


def _read(file: Path, known: set[str]) -> dict:
    if not file.is_file():
        raise ValueError(f"There is no argument file {file}. Those that come with the project are in examples/.")
    try:
        values = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"The argument file {file} is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise ValueError(f"The argument file {file} must hold one JSON object of argument names and values.")
    if unknown := sorted(values.keys() - known):
        raise ValueError(f"The argument file {file} has unknown arguments: {', '.join(unknown)}. See --help.")
    return values


def given_settings(arguments: Sequence, sources: dict[str, str]) -> dict:
    """Name and value of every argument that was given, in a form that JSON can hold."""
    values = {field.name: getattr(instance, field.name) for instance in arguments for field in fields(instance)}
    return {name: _plain(values[name]) for name in sorted(sources) if name in values}


def explain_settings(arguments: Sequence, sources: dict[str, str], always: Sequence[str]) -> str:
    """A line for every setting that was given, and for those named in `always`, with where it came from."""
    lines = ["Settings:"]
    for instance in arguments:
        for field in fields(instance):
            if field.name in sources or field.name in always:
                value = _plain(getattr(instance, field.name))
                lines.append(f"  {field.name:<28} {value!s:<36} {sources.get(field.name, 'default')}")
    return "\n".join(lines)


def command_line() -> str:
    """The command of this process, as it could be typed again."""
    return shlex.join(["python", *sys.argv])


def set_up_logging(training_args: TrainingArguments) -> None:
    """Information from the main process, errors only from the others; libraries at `--log_level`."""
    level = logging.INFO if training_args.process_index == 0 else logging.ERROR
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr, level=level)
    for library in ("transformers", "datasets", "accelerate", "httpx", "DeepSpeed"):
        logging.getLogger(library).setLevel(training_args.get_process_log_level())


def _plain(value):
    return value.value if isinstance(value, Enum) else value
