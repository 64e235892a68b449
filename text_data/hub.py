"""Loads data sets of the Hub or of a local folder, with and without a network.

    load_hub_data("nyu-mll/glue", "rte")    # a DatasetDict

Without a network, or with a read-only cache, only what is in the cache can be loaded.
"""

from pathlib import Path

import datasets
from datasets import DatasetDict, load_dataset
from datasets.exceptions import DatasetsError
from datasets.utils.py_utils import temporary_assignment

from layer_distillation.errors import UserError
from layer_distillation.network import hub_answers
from text_data.caches import datasets_cache, is_writable, lockable_datasets_cache


def load_hub_data(name: str, config_name: str | None) -> DatasetDict:
    """Loads all splits of a data set.

    Raises:
        UserError: the data set cannot be read, or is neither cached nor within reach of the network.
    """
    # Without a network `load_dataset` retries for half a minute (80 s if packets are dropped) before it looks into
    # its cache. One request tells whether there is a network. A read-only cache takes no downloads in any case.
    is_local = Path(name).is_dir()
    online = not is_local and is_writable(datasets_cache()) and hub_answers()
    with temporary_assignment(datasets.config, "HF_HUB_OFFLINE", not online):
        try:
            return load_dataset(name, config_name, cache_dir=str(lockable_datasets_cache()))
        except (OSError, ValueError) as error:
            raise UserError(
                _unreadable(name, config_name, error) if is_local or online else _out_of_reach(name, config_name)
            ) from error
        except DatasetsError as error:  # of files that are there; what is wrong with them is the cause
            raise UserError(_unreadable(name, config_name, error.__cause__ or error)) from error


def full_name(name: str, config_name: str | None) -> str:
    """The name of a data set with its configuration, for example "nyu-mll/glue mnli"."""
    return f"{name} {config_name}" if config_name else name


def _unreadable(name: str, config_name: str | None, error: BaseException) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return (
        f"The data set {full_name(name, config_name)} cannot be loaded: {reason}. Check --dataset_name and "
        "--dataset_config_name. For a private data set log in with `hf auth login`."
    )


def _out_of_reach(name: str, config_name: str | None) -> str:
    arguments = ", ".join(repr(argument) for argument in (name, config_name) if argument)
    return (
        f"The data set {full_name(name, config_name)} must be in the cache or within reach, but it is not in "
        f"{datasets_cache()}, and {datasets.config.HF_ENDPOINT} cannot be used from here: no answer, HF_HUB_OFFLINE "
        "is set, or the cache is read-only. On a connected machine run "
        f'`python -c "from datasets import load_dataset; load_dataset({arguments})"` and copy its HF_HOME '
        "(~/.cache/huggingface) to this one, or use local files: --train_file, --validation_file, --test_file."
    )
