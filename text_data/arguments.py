"""The arguments that name data and say how to read them."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from layer_distillation.errors import UserError

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
FILE_EXTENSIONS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
EMBEDDED_DATA = "data/toxic_comments"
# From about here on, starting processes costs less than it saves: one process already tokenises on all cores.
MULTIPROCESSING_MIN_ROWS = 100_000


@dataclass
class DataArguments:
    """Which data to use and how to read them. One source at most: a GLUE task, a data set, or files.

    Raises:
        UserError: an argument breaks its rule, or contradicts another one.
        UserError: a file does not exist.
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
            raise UserError(
                f"task_name must be one of {', '.join(GLUE_TEXT_COLUMNS)}, not {self.task_name!r}. "
                "For other data use dataset_name or train_file."
            )
        sources = {"task_name": self.task_name, "dataset_name": self.dataset_name, "files": self.files}
        given = [name for name, value in sources.items() if value]
        if len(given) > 1:
            raise UserError(f"The data come from one source, but found {' and '.join(given)}. Keep one of them.")
        if self.dataset_config_name is not None and self.dataset_name is None:
            raise UserError(
                f"dataset_config_name belongs to a dataset_name, but found {self.dataset_config_name!r} alone. "
                "Give dataset_name, or for a GLUE task only task_name."
            )
        if self.files and self.train_file is None:
            raise UserError(
                f"The labels come from the training data, but found only {' and '.join(self.files.values())}. "
                "Give train_file too."
            )
        for path in self.files.values():
            _check_file(Path(path))
        if len(self.text_columns) > 2:
            raise UserError(
                f"text_column_name takes one column or two, but found {len(self.text_columns)}: "
                f"{self.text_column_name!r}. Join the other columns in the data first."
            )
        if self.label_column_name is not None and self.label_column_name in self.text_columns:
            raise UserError(
                f"A column is either text or label, but found {self.label_column_name!r} as both. "
                "Change text_column_name or label_column_name."
            )
        repeated = _repeated(self.ordered_label_names)
        if repeated:
            raise UserError(f"label_order must differ, but found {repeated} more than once. Remove the repetition.")
        if self.validation_split_percentage is not None and not 1 <= self.validation_split_percentage <= 99:
            raise UserError(
                f"validation_split_percentage must be from 1 to 99, not {self.validation_split_percentage}. "
                "A common choice is 10."
            )
        for name in ("max_seq_length", "max_train_samples", "max_eval_samples", "max_predict_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, not {value}. Leave it out for the default.")
        if self.preprocessing_num_workers is not None and self.preprocessing_num_workers < 1:
            raise UserError(
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


def _split_names(names: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",")) if names else ()


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _check_file(path: Path) -> None:
    if path.suffix.lower() not in FILE_EXTENSIONS:
        raise UserError(
            f"A data file must end in {', '.join(FILE_EXTENSIONS)}, but found {str(path)!r}. "
            "Convert it, or rename it after its format."
        )
    if not path.is_file():
        raise UserError(f"A data file must exist, but there is no file {str(path)!r}. Check the path.")
    if path.stat().st_size == 0:
        raise UserError(f"A data file must hold rows, but {str(path)!r} is empty (0 bytes). Write it again.")
