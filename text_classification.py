"""Text classification data, shared by the scripts: arguments, loading, label map, tokenising and metrics.

    data = load_data(data_args, seed=42)                   # raw splits and label map
    tokenized = tokenize(data, tokenizer, data_args)       # what the Trainer takes
    compute_metrics = build_compute_metrics(data.labels, data_args.task_name)

The data are a GLUE task, a data set on the Hub or in a local folder, csv, tsv, json, jsonl or parquet files, or, when
nothing is named, the embedded data set in `data/toxic_comments`. Pad batches with `DataCollatorWithPadding`.
"""

import functools
import json
import logging
import math
import os
import re
import stat
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import evaluate
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from datasets import ClassLabel, Dataset, DatasetDict, Features, LargeList, List, Value, load_dataset
from datasets.fingerprint import Hasher, get_temporary_cache_files_directory
from datasets.utils.py_utils import temporary_assignment
from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT
from huggingface_hub.utils import get_session, httpx
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    matthews_corrcoef,
    mean_squared_error,
    roc_auc_score,
)
from sklearn.model_selection import train_test_split
from transformers import EvalPrediction, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

GLUE = "nyu-mll/glue"
GLUE_TEXT_COLUMNS = {
    "cola": ("sentence",),
    "mnli": ("premise", "hypothesis"),
    "mrpc": ("sentence1", "sentence2"),
    "qnli": ("question", "sentence"),
    "qqp": ("question1", "question2"),
    "rte": ("sentence1", "sentence2"),
    "sst2": ("sentence",),
    "stsb": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"),
}
# Pairs first: `question, sentence` also holds `sentence`.
WELL_KNOWN_TEXT_COLUMNS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text",),
    ("sentence",),
    ("tweet",),
    ("comment",),
    ("comment_text",),
    ("content",),
    ("review",),
)
WELL_KNOWN_LABEL_COLUMNS = ("label", "labels")
FILE_EXTENSIONS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
EMBEDDED_DATA = "data/toxic_comments"
# From about here on, starting processes costs less than it saves: one process already tokenises on all cores.
MULTIPROCESSING_MIN_ROWS = 100_000

INTEGER = re.compile(r"[+-]?\d+")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
# GLUE marks the labels it keeps to itself by -1, and by -1.0 for the regression task.
UNKNOWN_LABELS = (None, "-1", -1.0)


@dataclass
class DataArguments:
    """Which data to use and how to read them. One source at most: a GLUE task, a data set, or files.

    Raises:
        ValueError: an argument breaks its rule, or contradicts another one.
        FileNotFoundError: a file does not exist.
    """

    task_name: str | None = field(
        default=None,
        metadata={"help": f"GLUE task, one of {', '.join(GLUE_TEXT_COLUMNS)}. Loads that configuration of {GLUE}."},
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": "Data set on the Hugging Face Hub, or a local folder `load_dataset` can read."}
    )
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "Configuration of `dataset_name`, for data sets that have several."}
    )
    train_file: str | None = field(
        default=None,
        metadata={
            "help": "Training data: a csv, tsv, json, jsonl or parquet file. May come without labels if ce_weight is "
            f"0. Without task_name, dataset_name and files the embedded data set {EMBEDDED_DATA} is used."
        },
    )
    validation_file: str | None = field(
        default=None, metadata={"help": "Validation data, for choosing. Its format may differ from train_file's."}
    )
    test_file: str | None = field(
        default=None, metadata={"help": "Test data, for reporting or prediction. May come without labels."}
    )
    text_column_name: str | None = field(
        default=None,
        metadata={
            "help": "Text column, or two comma separated ones for pairs: 'premise,hypothesis'. Unset: the GLUE task's "
            "own, else a well-known name (text, sentence, tweet, comment, ...), else the one or two string columns."
        },
    )
    label_column_name: str | None = field(
        default=None,
        metadata={
            "help": "Label column. Names, integers or booleans: classification; decimal numbers: regression; lists of "
            "names or 0/1 vectors: multi-label. Unset: 'label' or 'labels'."
        },
    )
    label_order: str | None = field(
        default=None,
        metadata={
            "help": "Comma separated label names in the order of their ids, for example 'not_toxic,toxic'. Unset: the "
            "data set's own order, else sorted."
        },
    )
    validation_split_percentage: int | None = field(
        default=None,
        metadata={
            "help": "Per cent (1 to 99) of the training split to split off for validation. Needed if, and allowed "
            "only if, the data have no validation split. Keeps the proportions of the labels where possible."
        },
    )
    max_seq_length: int = field(
        default=128,
        metadata={"help": "Longest input in tokens; longer ones are truncated. The tokenizer's own limit holds too."},
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Use only the first n training examples. Unset: all."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Use only the first n examples of each validation split. Unset: all."}
    )
    max_predict_samples: int | None = field(
        default=None, metadata={"help": "Use only the first n examples of each test split. Unset: all."}
    )
    preprocessing_num_workers: int | None = field(
        default=None,
        metadata={
            "help": "Processes that tokenise. Unset: one per core for splits of at least "
            f"{MULTIPROCESSING_MIN_ROWS:,} examples, else one, which is quicker."
        },
    )
    overwrite_cache: bool = field(default=False, metadata={"help": "Tokenise again even if a cached result exists."})

    def __post_init__(self):
        if self.task_name is not None:
            self.task_name = self.task_name.lower()
        if self.task_name is not None and self.task_name not in GLUE_TEXT_COLUMNS:
            raise ValueError(
                f"task_name must be one of {', '.join(GLUE_TEXT_COLUMNS)}, not {self.task_name!r}. "
                "For other data use dataset_name or train_file."
            )
        sources = {"task_name": self.task_name, "dataset_name": self.dataset_name, "files": self.files}
        given = [name for name, value in sources.items() if value]
        if len(given) > 1:
            raise ValueError(f"The data come from one source, but found {' and '.join(given)}. Keep one of them.")
        if self.dataset_config_name is not None and self.dataset_name is None:
            raise ValueError(
                f"dataset_config_name belongs to a dataset_name, but found {self.dataset_config_name!r} alone. "
                "Give dataset_name, or for a GLUE task only task_name."
            )
        if self.files and self.train_file is None:
            raise ValueError(
                f"The labels come from the training data, but found only {' and '.join(self.files.values())}. "
                "Give train_file too."
            )
        for path in self.files.values():
            _check_file(Path(path))
        if len(self.text_columns) > 2:
            raise ValueError(
                f"text_column_name takes one column or two, but found {len(self.text_columns)}: "
                f"{self.text_column_name!r}. Join the other columns in the data first."
            )
        if self.label_column_name is not None and self.label_column_name in self.text_columns:
            raise ValueError(
                f"A column is either text or label, but found {self.label_column_name!r} as both. "
                "Change text_column_name or label_column_name."
            )
        repeated = _repeated(self.ordered_label_names)
        if repeated:
            raise ValueError(f"label_order must differ, but found {repeated} more than once. Remove the repetition.")
        if self.validation_split_percentage is not None and not 1 <= self.validation_split_percentage <= 99:
            raise ValueError(
                f"validation_split_percentage must be from 1 to 99, not {self.validation_split_percentage}. "
                "A common choice is 10."
            )
        for name in ("max_seq_length", "max_train_samples", "max_eval_samples", "max_predict_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}. Leave it out for the default.")
        if self.preprocessing_num_workers is not None and self.preprocessing_num_workers < 1:
            raise ValueError(
                f"preprocessing_num_workers must be at least 1, not {self.preprocessing_num_workers}. "
                "Leave it out to let the size of the data decide."
            )

    @property
    def files(self) -> dict[str, str]:
        """The files that were given, by split."""
        files = {"train": self.train_file, "validation": self.validation_file, "test": self.test_file}
        return {split: path for split, path in files.items() if path is not None}

    @property
    def is_given(self) -> bool:
        """Whether data are named at all; otherwise they are the embedded data set."""
        return bool(self.task_name or self.dataset_name or self.files)

    @property
    def short_name(self) -> str:
        """A name for folders: of the task, the data set, the training file or the embedded data set."""
        return self.task_name or Path(self.dataset_name or self.train_file or EMBEDDED_DATA).stem

    @property
    def text_columns(self) -> tuple[str, ...]:
        """`text_column_name` taken apart; empty if unset."""
        return _split_names(self.text_column_name)

    @property
    def ordered_label_names(self) -> tuple[str, ...]:
        """`label_order` taken apart; empty if unset."""
        return _split_names(self.label_order)


@dataclass(frozen=True)
class LabelMap:
    """What the labels are and which id each name has.

    Attributes:
        problem_type: "single_label_classification", "multi_label_classification" or "regression", as in model configs.
        names: label names in the order of their ids; `("score",)` for regression.
    """

    problem_type: str
    names: tuple[str, ...]

    @property
    def num_labels(self) -> int:
        return len(self.names)

    @property
    def id2label(self) -> dict[int, str]:
        return dict(enumerate(self.names))

    @property
    def label2id(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}


@dataclass(frozen=True)
class TextClassificationData:
    """Raw splits with one form of label, whatever the source.

    Attributes:
        splits: "train", the validation splits and the test splits. Columns: the text column(s), and "label" where the
            labels are known: an id, a float (regression) or a 0/1 vector of `num_labels` floats (multi-label).
        labels: the label map, read from the training split, or from the validation split where that has no labels.
        text_columns: names of the one or two text columns.
        source: short name for logs and model cards, for example "nyu-mll/glue mnli".
        split_seed: with which the validation split was split off, `None` if the data came with one.
    """

    splits: DatasetDict
    labels: LabelMap
    text_columns: tuple[str, ...]
    source: str
    split_seed: int | None = None

    @property
    def validation_splits(self) -> tuple[str, ...]:
        """`("validation",)`, or `("validation_matched", "validation_mismatched")` for MNLI."""
        return _splits_for("validation", self.splits)

    @property
    def test_splits(self) -> tuple[str, ...]:
        """`()`, `("test",)`, or `("test_matched", "test_mismatched")` for MNLI."""
        return _splits_for("test", self.splits)


def load_data(data_args: DataArguments, seed: int) -> TextClassificationData:
    """Load the data that `data_args` names, with the labels mapped to ids.

    `seed` matters only for `validation_split_percentage`: the same seed splits off the same examples.

    Raises:
        ValueError: the data contradict `data_args`, or are empty, incomplete or unreadable. The message names the
            file or split, the rows and the fix.
        FileNotFoundError: the data set is neither cached nor within reach of the network.
    """
    source, raw = _load_raw(data_args)
    train = raw["train"].data
    text_columns = _find_text_columns(data_args, train)
    label_column, known_labels, labels_where = _find_labels(data_args, raw)
    labels = _build_label_map(known_labels, data_args.ordered_label_names, labels_where)
    logger.info(f"{source}: text in {', '.join(text_columns)}; {labels.problem_type} of {', '.join(labels.names)}")

    splits = DatasetDict({name: _prepare(name, raw[name], text_columns, label_column, labels) for name in raw})
    splits = _with_validation_split(splits, source, data_args.validation_split_percentage, seed)
    split_seed = None if data_args.validation_split_percentage is None else seed
    return TextClassificationData(_limit(splits, data_args), labels, text_columns, source, split_seed)


def tokenize(
    data: TextClassificationData, tokenizer: PreTrainedTokenizerBase, data_args: DataArguments
) -> DatasetDict:
    """Tokenise every split, truncated to `max_seq_length` and the tokenizer's own limit, not padded.

    The result is cached on disk, and found again by the data, the tokenizer and the length. Under a distributed
    launch call it in `training_args.main_process_first()`, so that the other processes read the cache.

    Returns:
        The same splits with the columns input_ids, attention_mask, token_type_ids (if the tokenizer has them), labels
        (if known).

    Raises:
        ValueError: `max_seq_length` leaves no room for text.
    """
    max_length = min(data_args.max_seq_length, tokenizer.model_max_length)
    num_special_tokens = tokenizer.num_special_tokens_to_add(pair=len(data.text_columns) == 2)
    if max_length < num_special_tokens + len(data.text_columns):  # tokenizers would not truncate at all, silently
        raise ValueError(
            f"max_seq_length must leave room for text beside {num_special_tokens} special tokens, but found "
            f"{max_length}. Raise it to at least {num_special_tokens + len(data.text_columns)}."
        )
    if max_length < data_args.max_seq_length:
        logger.warning(f"max_seq_length is {data_args.max_seq_length}, but the tokenizer's limit is {max_length}.")

    # Nested, because then the hash that names the cache file covers its code and everything it refers to.
    def encode(batch):
        encoded = tokenizer(*(batch[column] for column in text_columns), truncation=True, max_length=max_length)
        if "label" in batch:
            encoded["labels"] = batch["label"]
        return encoded

    text_columns = data.text_columns
    encode_hash = Hasher.hash(encode)
    cache_dir = _writable_cache_dir() / "tokenized"
    cache_dir.mkdir(parents=True, exist_ok=True)
    tokenized = DatasetDict()
    for name, split in data.splits.items():
        # Left to itself, `map` writes next to the data, which may be a read-only folder, and does not cache at all
        # what came from a file.
        default_workers = os.cpu_count() if len(split) >= MULTIPROCESSING_MIN_ROWS else None
        fingerprint = Hasher.hash((split._fingerprint, encode_hash))
        tokenized[name] = split.map(
            encode,
            batched=True,
            remove_columns=split.column_names,
            num_proc=data_args.preprocessing_num_workers or default_workers,
            cache_file_name=str(cache_dir / f"{fingerprint}.arrow"),
            new_fingerprint=fingerprint,
            load_from_cache_file=not data_args.overwrite_cache,
            desc=f"Tokenising {name}",
        )
    return tokenized


class TextClassificationMetric(evaluate.Metric):
    """All metrics of one label map, from scikit-learn and scipy, without the download that `evaluate.load` makes.

    `compute(predictions=logits, references=labels)` takes logits of shape (examples, num_labels), and labels of shape
    (examples,), or (examples, num_labels) for multi-label, and returns

    - single-label: accuracy, macro_f1, f1_<label name> for every label that occurs, matthews_correlation. With two
      labels also roc_auc and average_precision of label 1, and for mrpc and qqp f1 of label 1, as in GLUE;
    - multi-label (a label is predicted if its logit is positive): accuracy (all labels of an example right), macro_f1,
      micro_f1, f1_<label name>, and roc_auc and average_precision, means over the labels of which both values occur;
    - regression: pearson, spearmanr, mse.

    A metric that the data leave undefined is left out (NaN is no JSON): roc_auc and average_precision if only one
    class is in the labels, matthews_correlation if only one is in labels and predictions, pearson and spearmanr if
    either is constant. If a logit is not finite, so are roc_auc, average_precision and all metrics of regression.
    """

    def __init__(self, labels: LabelMap, task_name: str | None = None):
        self.labels = labels
        self.task_name = task_name
        # A metric creates a folder even if it keeps everything in memory, by default in HF_HOME: maybe read-only.
        super().__init__(keep_in_memory=True, cache_dir=get_temporary_cache_files_directory())

    def _info(self) -> evaluate.MetricInfo:
        references = {
            "single_label_classification": Value("int64"),
            "multi_label_classification": List(Value("int64")),
            "regression": Value("float64"),
        }
        return evaluate.MetricInfo(
            description="Metrics of text classification by scikit-learn and scipy.",
            citation="",
            inputs_description="predictions: logits, one list of num_labels floats per example; references: labels.",
            features=Features(predictions=List(Value("float64")), references=references[self.labels.problem_type]),
        )

    def _compute(self, predictions: list[list[float]], references: list) -> dict[str, float]:
        compute = {
            "single_label_classification": self._single_label,
            "multi_label_classification": self._multi_label,
            "regression": self._regression,
        }
        metrics = compute[self.labels.problem_type](np.array(predictions), np.array(references))
        return {name: float(value) for name, value in metrics.items()}

    def _single_label(self, logits: np.ndarray, references: np.ndarray) -> dict[str, float]:
        predictions = logits.argmax(axis=1)
        metrics = {
            "accuracy": accuracy_score(references, predictions),
            "macro_f1": f1_score(references, predictions, average="macro", zero_division=0),
        }
        occurring = np.union1d(references, predictions)
        per_label = f1_score(references, predictions, average=None, labels=occurring, zero_division=0)
        metrics |= {f"f1_{self.labels.names[index]}": value for index, value in zip(occurring, per_label, strict=True)}
        if len(occurring) > 1:
            metrics["matthews_correlation"] = matthews_corrcoef(references, predictions)
        if self.labels.num_labels == 2:
            # The difference orders like the probability of label 1, which rounds to ties close to 0 and 1.
            metrics |= _ranking_metrics(references[:, None], np.diff(logits, axis=1))
        if self.task_name in ("mrpc", "qqp"):
            metrics["f1"] = f1_score(references, predictions, zero_division=0)
        return metrics

    def _multi_label(self, logits: np.ndarray, references: np.ndarray) -> dict[str, float]:
        predictions = (logits > 0).astype(int)
        per_label = f1_score(references, predictions, average=None, zero_division=0)
        return {
            "accuracy": accuracy_score(references, predictions),
            "macro_f1": f1_score(references, predictions, average="macro", zero_division=0),
            "micro_f1": f1_score(references, predictions, average="micro", zero_division=0),
            **{f"f1_{name}": value for name, value in zip(self.labels.names, per_label, strict=True)},
            **_ranking_metrics(references, logits),
        }

    def _regression(self, logits: np.ndarray, references: np.ndarray) -> dict[str, float]:
        predictions = logits[:, 0]
        if not np.isfinite(predictions).all():
            return {}
        metrics = {"mse": mean_squared_error(references, predictions)}
        if np.ptp(predictions) > 0 and np.ptp(references) > 0:
            metrics["pearson"] = pearsonr(predictions, references).statistic
            metrics["spearmanr"] = spearmanr(predictions, references).statistic
        return metrics


def build_compute_metrics(labels: LabelMap, task_name: str | None) -> Callable[[EvalPrediction], dict[str, float]]:
    """The `compute_metrics` of a `Trainer`: `TextClassificationMetric` on the logits.

    Models may return more than logits; then `predictions` is a tuple, of which the logits are the first element.
    """
    metric = TextClassificationMetric(labels, task_name)

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        logits = prediction.predictions
        if isinstance(logits, tuple):
            logits = logits[0]
        return metric.compute(predictions=logits, references=prediction.label_ids)

    return compute_metrics


# ---- Arguments ----


def _split_names(names: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",")) if names else ()


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _check_file(path: Path) -> None:
    if path.suffix.lower() not in FILE_EXTENSIONS:
        raise ValueError(
            f"A data file must end in {', '.join(FILE_EXTENSIONS)}, but found {str(path)!r}. "
            "Convert it, or rename it after its format."
        )
    if not path.is_file():
        raise FileNotFoundError(f"A data file must exist, but there is no file {str(path)!r}. Check the path.")
    if path.stat().st_size == 0:
        raise ValueError(f"A data file must hold rows, but {str(path)!r} is empty (0 bytes). Write it again.")


# ---- Loading ----


@dataclass(frozen=True)
class _RawSplit:
    """A split as its source has it; `where` names it in messages."""

    data: Dataset
    where: str


def _load_raw(data_args: DataArguments) -> tuple[str, dict[str, _RawSplit]]:
    """Short name of the source, and its train, validation and test splits."""
    if data_args.task_name is not None:
        source, raw = _load_data_set(GLUE, data_args.task_name)
    elif data_args.dataset_name is not None:
        source, raw = _load_data_set(data_args.dataset_name, data_args.dataset_config_name)
    elif data_args.files:
        source = "/".join(Path(data_args.train_file).parts[-2:])
        raw = {split: _RawSplit(_read_file(Path(path)), path) for split, path in data_args.files.items()}
    else:
        folder = Path(__file__).parent / EMBEDDED_DATA
        files = {split: folder / f"{split}.csv" for split in ("train", "validation", "test")}
        source = EMBEDDED_DATA
        raw = {split: _RawSplit(_read_file(path), str(path)) for split, path in files.items()}

    if "train" not in raw:
        raise ValueError(f"{source} must have a split named train, but found {', '.join(raw)}. Use train_file.")
    for split in raw.values():
        if len(split.data) == 0:
            raise ValueError(
                f"A split must hold rows, but {split.where} has none, only the columns "
                f"{', '.join(split.data.column_names)}. Add rows, or leave it out."
            )
    return source, {name: raw[name] for name in ("train", *_splits_for("validation", raw), *_splits_for("test", raw))}


def _splits_for(purpose: str, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name == purpose or name.startswith(f"{purpose}_"))


def _load_data_set(name: str, config_name: str | None) -> tuple[str, dict[str, _RawSplit]]:
    source = f"{name} {config_name}" if config_name else name
    # Without a network `load_dataset` retries for half a minute (80 s if packets are dropped) before it looks into
    # its cache. One request tells; the cache it then goes to at once. A read-only cache takes no downloads either way.
    local = Path(name).is_dir()
    online = not local and _is_writable(_datasets_cache()) and hub_answers()
    with temporary_assignment(datasets.config, "HF_HUB_OFFLINE", not online):
        try:
            splits = load_dataset(name, config_name, cache_dir=str(_lockable_datasets_cache()))
        except (OSError, ValueError) as error:
            if local or online:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
                raise ValueError(
                    f"The data set {source} cannot be loaded: {reason}. Check dataset_name and dataset_config_name, "
                    "and for a private data set log in with `hf auth login`."
                ) from error
            arguments = ", ".join(repr(argument) for argument in (name, config_name) if argument)
            raise FileNotFoundError(
                f"The data set {source} must be in the cache or within reach, but it is not in {_datasets_cache()} "
                f"and {datasets.config.HF_ENDPOINT} cannot be used from here (no answer, HF_HUB_OFFLINE set, or a "
                "read-only cache). On a connected machine run "
                f'`python -c "from datasets import load_dataset; load_dataset({arguments})"` and copy its HF_HOME '
                "(~/.cache/huggingface) to this one, or use local files: train_file, validation_file, test_file."
            ) from error
    return source, {split: _RawSplit(data, f"split {split!r} of {source}") for split, data in splits.items()}


@functools.cache
def hub_answers() -> bool:
    """Whether the Hub is within reach: one request a process, and none where HF_HUB_OFFLINE is set."""
    try:
        get_session().head(datasets.config.HF_ENDPOINT, timeout=HF_HUB_ETAG_TIMEOUT)
    except (OSError, httpx.RequestError):  # OSError: HF_HUB_OFFLINE is set
        return False
    return True


def _datasets_cache() -> Path:
    return Path(datasets.config.HF_DATASETS_CACHE).expanduser().absolute()


def _is_writable(folder: Path) -> bool:
    """Whether files may be created in a folder, or the folder itself. Root heeds a missing write permission too."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return os.access(existing, os.W_OK) and bool(existing.stat().st_mode & stat.S_IWUSR)


def _writable_cache_dir() -> Path:
    """HF_DATASETS_CACHE; where that is read-only, its default in the user's home; else a folder for this process."""
    home_cache = Path(datasets.config.DEFAULT_HF_CACHE_HOME).expanduser() / "datasets"
    for folder in (_datasets_cache(), home_cache):
        if _is_writable(folder):
            return folder
    return Path(get_temporary_cache_files_directory())


def _lockable_datasets_cache() -> Path:
    """HF_DATASETS_CACHE; where that is read-only, a folder of links to what it holds.

    `load_dataset` creates a lock file in its cache folder even if it only reads from it.
    """
    cache = _datasets_cache()
    if _is_writable(cache):
        return cache
    mirror = Path(tempfile.mkdtemp(dir=get_temporary_cache_files_directory()))
    for path in cache.glob("*"):
        (mirror / path.name).symlink_to(path)
    return mirror


# ---- Reading files ----


def _read_file(path: Path) -> Dataset:
    readers = {
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".json": _read_json,
        ".jsonl": _read_json,
        ".parquet": _read_parquet,
    }
    try:
        return Dataset(readers[path.suffix.lower()](path))
    except (ValueError, KeyError, pa.ArrowException) as error:
        raise ValueError(
            f"A data file must be what its name says, but reading {str(path)!r} found: {error}. "
            "Text is UTF-8; every csv row has as many cells as the header, cells with commas, quotes or line breaks "
            'in "double quotes"; json is a list of objects, or one object per line.'
        ) from error


def _read_csv(path: Path) -> pa.Table:
    """All cells as they are, as strings: reading types into them turns the texts "NA" and "007" into null and 7."""
    # Tab-separated files do not quote, as GLUE's: a lone " in a text would swallow the rows up to the next one.
    is_tsv = path.suffix.lower() == ".tsv"
    tsv, csv = {"delimiter": "\t", "quote_char": False}, {"newlines_in_values": True}
    options = {
        "read_options": pa.csv.ReadOptions(use_threads=False, block_size=2**24),  # one thread: errors tell the row
        "parse_options": pa.csv.ParseOptions(**(tsv if is_tsv else csv)),
    }
    columns = pa.csv.open_csv(path, **options).schema.names
    strings = pa.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()))
    return pa.csv.read_csv(path, convert_options=strings, **options)


def _read_json(path: Path) -> pa.Table:
    """One list of objects, or one object per line. Arrow's own reader turns texts that look like dates into dates."""
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        rows = json.loads(text)
    else:
        rows = [_parse_json_line(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a row that is no object")
    columns = dict.fromkeys(column for row in rows for column in row)
    return pa.table({column: [row.get(column) for row in rows] for column in columns})


def _parse_json_line(number: int, line: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number}: {error}") from error


def _read_parquet(path: Path) -> pa.Table:
    table = pa.parquet.read_table(path)
    plain = [f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in table.schema]
    return table.cast(pa.schema(plain, metadata=table.schema.metadata))  # categories of pandas become strings


# ---- Columns ----


def _find_text_columns(data_args: DataArguments, train: Dataset) -> tuple[str, ...]:
    if data_args.text_columns:
        return data_args.text_columns
    if data_args.task_name is not None:
        return GLUE_TEXT_COLUMNS[data_args.task_name]
    for columns in WELL_KNOWN_TEXT_COLUMNS:
        if set(columns) <= set(train.column_names):
            return columns
    labels = {data_args.label_column_name, *WELL_KNOWN_LABEL_COLUMNS}
    candidates = tuple(column for column in train.column_names if column not in labels and _is_text(train, column))
    if len(candidates) not in (1, 2):
        raise ValueError(
            "The text must be in a column with a well-known name, or in the only one or two columns of strings, but "
            f"found {len(candidates)} of them among the columns {', '.join(train.column_names)}. "
            "Name it: text_column_name."
        )
    return candidates


def _is_text(data: Dataset, column: str) -> bool:
    """Whether a column holds strings that are more than the numbers (ids, counts) that csv files hold as well."""
    sample = data.select(range(min(1000, len(data))))[column]
    return _is_string(data.features[column]) and not all(value and NUMBER.fullmatch(value) for value in sample)


def _is_string(feature: object) -> bool:
    return _dtype(feature) in ("string", "large_string")


def _dtype(feature: object) -> str:
    return getattr(feature, "dtype", "")  # nested features have none


def _find_labels(data_args: DataArguments, raw: dict[str, _RawSplit]) -> tuple[str, "_Labels", str]:
    """The label column, its values in the split that says which labels there are, and where these were found.

    The split is the training split, or where that has no labels, as the teacher's predictions are to take their place,
    the first validation split.
    """
    candidates = (data_args.label_column_name,) if data_args.label_column_name else WELL_KNOWN_LABEL_COLUMNS
    for name in ("train", *_splits_for("validation", raw)):
        for column in candidates:
            labels = _read_labels(raw[name], column)
            if labels is not None:
                return column, labels, raw[name].where
    raise ValueError(
        f"The training data must have labels in a column {' or '.join(map(repr, candidates))}, but found none among "
        f"the columns {', '.join(raw['train'].data.column_names)}. Name it: label_column_name. Training data without "
        "labels need a validation split that has them."
    )


def _check_text(split: _RawSplit, column: str) -> None:
    if column not in split.data.column_names:
        raise ValueError(
            f"{split.where} must have the text column {column!r}, but found the columns "
            f"{', '.join(split.data.column_names)}. Name it: text_column_name."
        )
    if not _is_string(split.data.features[column]):
        raise ValueError(
            f"Text must be strings, but column {column!r} of {split.where} holds {split.data.features[column]}. "
            "Choose another one: text_column_name."
        )
    _check_none_missing("text", split.data[column][:], split.where)


def _check_none_missing(what: str, values: Sequence, where: str) -> None:
    missing = [row for row, value in enumerate(values, 1) if value is None]
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise ValueError(
            f"Every row must have a {what}, but in {where} {len(missing)} of {len(values)} rows have none: "
            f"row {shown} (counted from 1, without a header). Fill in the {what} or remove the rows."
        )


# ---- Labels ----


@dataclass(frozen=True)
class _Labels:
    """Labels of one split by name, before they have ids.

    Attributes:
        values: per row a name, a float (regression), a list of names (multi-label), or None where it is missing.
        declared: names in the order of their ids if the column itself fixes both.
        is_vector: whether the column holds 0/1 vectors, in which the names are mere positions.
    """

    values: Sequence[str | float | list[str] | None]
    declared: tuple[str, ...] = ()
    is_vector: bool = False


def _read_labels(split: _RawSplit, column: str) -> _Labels | None:
    """The labels in the column, `None` if there is no such column or every row of it is empty."""
    if column not in split.data.column_names:
        return None
    feature, values = split.data.features[column], split.data[column][:]
    if all(value in (None, "") or value != value for value in values):  # as csv's empty cells are read: "", None, NaN
        return None
    if isinstance(feature, ClassLabel):
        return _Labels([_class_name(feature, value) for value in values], tuple(feature.names))
    if isinstance(feature, (List, LargeList)):
        return _read_label_lists(feature.feature, values, split.where)
    if _is_string(feature):
        return _Labels([value or None for value in values])  # an empty csv cell is a missing label
    dtype = _dtype(feature)
    if dtype.startswith("float"):
        return _Labels([None if value is None or math.isnan(value) else value for value in values])
    if dtype.startswith(("int", "uint", "bool")):
        return _Labels([None if value is None else str(value) for value in values])
    raise ValueError(
        f"Labels must be names, numbers, booleans or lists, but column {column!r} of {split.where} holds {feature}. "
        "Choose another one: label_column_name."
    )


def _read_label_lists(feature: object, rows: list[list], where: str) -> _Labels:
    if isinstance(feature, ClassLabel):
        lists = [row if row is None else [_class_name(feature, value) for value in row] for row in rows]
        return _Labels(lists, tuple(feature.names))
    if _is_string(feature):
        return _Labels(rows)
    lengths = {len(row) for row in rows if row is not None}
    numbers = {value for row in rows if row is not None for value in row}
    if len(lengths) > 1 or not numbers <= {0, 1}:
        raise ValueError(
            f"Lists of numbers must be 0/1 vectors of one length, but the labels of {where} have the lengths "
            f"{sorted(lengths)} and values such as {list(numbers)[:5]}. Use lists of label names."
        )
    positions = tuple(str(position) for position in range(*lengths))
    lists = [row if row is None else [positions[index] for index, value in enumerate(row) if value] for row in rows]
    return _Labels(lists, positions, is_vector=True)


def _class_name(feature: ClassLabel, value: int | None) -> str | None:
    return None if value is None or value < 0 else feature.names[value]


def _build_label_map(labels: _Labels, order: tuple[str, ...], where: str) -> LabelMap:
    """The label map of the training labels; `order` is `label_order`."""
    _check_none_missing("label", labels.values, where)
    if not order and _are_scores(labels.values):
        if all(float(value).is_integer() for value in labels.values):
            logger.warning(
                f"The labels of {where} are whole numbers written as decimals, such as {labels.values[0]}. They are "
                "taken as scores, so this is a regression. If they are classes, write them as 0, 1 or as names."
            )
        return LabelMap("regression", ("score",))
    multi_label = isinstance(labels.values[0], list)
    found = labels.declared or _sorted_names(labels.values)
    if labels.is_vector and len(order) == len(found):
        found = order
    if order and set(order) != set(found):
        raise ValueError(
            f"label_order must be the labels of the data, but {where} has {', '.join(found)} and label_order "
            f"{', '.join(order)}. Correct label_order, or leave it out."
        )
    if len(found) < 2:
        raise ValueError(
            f"Classification needs at least two labels, but {where} has only {', '.join(found) or 'none'}. "
            "Check label_column_name."
        )
    return LabelMap("multi_label_classification" if multi_label else "single_label_classification", order or found)


def _are_scores(values: Sequence[str | float | list[str]]) -> bool:
    """Whether labels are decimal numbers. Integers are class names."""
    if not isinstance(values[0], str):
        return isinstance(values[0], float)
    return all(map(NUMBER.fullmatch, values)) and not all(map(INTEGER.fullmatch, values))


def _names_in(values: Iterable[str | float | list[str]]) -> set[str]:
    return {str(name) for value in values for name in (value if isinstance(value, list) else [value])}


def _sorted_names(values: Iterable[str | float | list[str]]) -> tuple[str, ...]:
    names = _names_in(values)
    return tuple(sorted(names, key=int if all(map(INTEGER.fullmatch, names)) else None))


def _encode_labels(labels: _Labels, label_map: LabelMap, where: str) -> list[int | float | list[float]]:
    _check_none_missing("label", labels.values, where)
    multi_label = label_map.problem_type == "multi_label_classification"
    if isinstance(labels.values[0], list) != multi_label:
        raise ValueError(
            f"All splits must have one kind of label, but {where} has {labels.values[0]!r} and the training data are "
            f"{label_map.problem_type}. Use lists in every split or in none."
        )
    if label_map.problem_type == "regression":
        _check_scores(labels.values, where)
        return [float(value) for value in labels.values]
    values = labels.values
    if labels.is_vector and len(labels.declared) == label_map.num_labels:
        values = [[label_map.names[int(position)] for position in value] for value in values]
    unseen = _names_in(values) - set(label_map.names)
    if unseen:
        raise ValueError(
            f"Labels must occur in the training data, which have {', '.join(label_map.names)}, but {where} has also "
            f"{', '.join(sorted(unseen))}. Correct these rows or add training examples."
        )
    if multi_label:
        return [[float(name in value) for name in label_map.names] for value in values]
    return [label_map.label2id[str(value)] for value in values]


def _check_scores(values: Sequence[str | float], where: str) -> None:
    no_numbers = [value for value in values if isinstance(value, str) and not NUMBER.fullmatch(value)]
    if no_numbers:
        raise ValueError(
            f"Labels must be numbers as in the training data, but {where} has {no_numbers[0]!r}. Correct these rows."
        )


def _label_feature(label_map: LabelMap) -> ClassLabel | List | Value:
    if label_map.problem_type == "single_label_classification":
        return ClassLabel(names=list(label_map.names))
    if label_map.problem_type == "multi_label_classification":
        return List(Value("float32"))
    return Value("float32")


# ---- Splits ----


def _prepare(
    name: str, split: _RawSplit, text_columns: tuple[str, ...], label_column: str, label_map: LabelMap
) -> Dataset:
    """The text columns and, where the labels are known, "label". Validation splits must have them."""
    for column in text_columns:
        _check_text(split, column)
    texts = split.data.select_columns(list(text_columns))
    is_test = name in _splits_for("test", (name,))
    labels = _read_labels(split, label_column)
    if labels is None:
        if is_test or name == "train":
            return texts
        raise ValueError(
            f"{split.where} must have labels in the column {label_column!r}, but found none; its columns are "
            f"{', '.join(split.data.column_names)}. Add them; only training and test data may come without labels."
        )
    if is_test and all(value in UNKNOWN_LABELS and value not in label_map.names for value in labels.values):
        return texts
    encoded = _encode_labels(labels, label_map, split.where)
    return texts.add_column("label", encoded, feature=_label_feature(label_map))


def _with_validation_split(splits: DatasetDict, source: str, percentage: int | None, seed: int) -> DatasetDict:
    validation = _splits_for("validation", splits)
    if validation and percentage is None:
        return splits
    if validation:
        raise ValueError(
            f"validation_split_percentage is for data without a validation split, but {source} has "
            f"{', '.join(validation)}. Leave validation_split_percentage out."
        )
    if percentage is None:
        raise ValueError(
            f"Training needs a validation split to choose by, but {source} has only {', '.join(splits)}. Give "
            "validation_file, or split some training data off: validation_split_percentage, for example 10."
        )
    train = splits["train"]
    num_left = len(train) - math.ceil(len(train) * percentage / 100)
    if num_left < 1:
        raise ValueError(
            f"validation_split_percentage must leave rows to train on, but {percentage} leaves {num_left} of "
            f"{len(train)}. Lower it, or add rows."
        )
    train_rows, validation_rows = train_test_split(
        range(len(train)),
        test_size=percentage / 100,
        random_state=seed,
        stratify=train["label"][:] if _can_stratify(train, percentage) else None,
    )
    # In memory: the indices would otherwise be written next to the data, which may be a read-only folder.
    train, validation = (train.select(sorted(rows), keep_in_memory=True) for rows in (train_rows, validation_rows))
    return DatasetDict({**splits, "train": train, "validation": validation})


def _can_stratify(train: Dataset, percentage: int) -> bool:
    """Whether every label has two examples, and both parts have room for every label."""
    if not isinstance(train.features["label"], ClassLabel):
        return False
    counts = Counter(train["label"])
    smaller_part = len(train) * min(percentage, 100 - percentage) // 100
    return min(counts.values()) >= 2 and smaller_part >= len(counts)


def _limit(splits: DatasetDict, data_args: DataArguments) -> DatasetDict:
    limits = {
        "train": data_args.max_train_samples,
        **dict.fromkeys(_splits_for("validation", splits), data_args.max_eval_samples),
        **dict.fromkeys(_splits_for("test", splits), data_args.max_predict_samples),
    }
    return DatasetDict(
        {name: split.select(range(min(limits[name] or len(split), len(split)))) for name, split in splits.items()}
    )


# ---- Metrics ----


def _ranking_metrics(references: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Mean roc_auc and average_precision over the columns of (examples, labels) in which both classes occur."""
    columns = [index for index, column in enumerate(references.T) if 0 < column.sum() < len(column)]
    if not columns or not np.isfinite(scores).all():
        return {}
    return {
        "roc_auc": roc_auc_score(references[:, columns], scores[:, columns], average="macro"),
        "average_precision": average_precision_score(references[:, columns], scores[:, columns], average="macro"),
    }
