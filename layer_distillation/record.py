"""The record of a run, `distillation.json`."""

import json
import platform
from importlib.metadata import version
from pathlib import Path

from layer_distillation.atomic_files import write_json

RECORD_FILE = "distillation.json"
UNFINISHED_RECORD_FILE = "distillation.unfinished.json"
LIBRARIES = (
    *("torch", "transformers", "datasets", "evaluate", "peft", "accelerate", "scikit-learn", "deepspeed"),
    *("onnx", "onnxruntime"),
)


def read_record(output_dir: str | Path) -> dict | None:
    """The record of the finished run in the folder, `None` if there is none."""
    return read_json(Path(output_dir) / RECORD_FILE)


def write_record(output_dir: str | Path, record: dict) -> None:
    """Writes the record of a finished run."""
    write_json(Path(output_dir) / RECORD_FILE, record)


def read_json(file: Path) -> dict | None:
    return json.loads(file.read_text()) if file.is_file() else None


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that the results depend on."""
    installed = {}
    for library in LIBRARIES:
        try:
            installed[library] = version(library)
        except ModuleNotFoundError:
            continue
    return {"python": platform.python_version(), **installed}
