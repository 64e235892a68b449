"""The arguments that name the data and say how to read them.

    DataArguments(task_name="rte")
    DataArguments(dataset_name="cardiffnlp/tweet_eval", dataset_config_name="irony")
    DataArguments(train_file="train.csv", validation_split_percentage=10, text_column_name="tweet")
    DataArguments()    # the sample data

The help texts and checks of these options are here; the other modules read the values.
"""

from dataclasses import dataclass, field
from pathlib import Path

from layer_distillation.errors import UserError
from layer_distillation.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from text_data.columns import repeated
from text_data.files import FILE_EXTENSIONS
from text_data.names import split_names
from text_data.thresholds import ThresholdRule

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
SAMPLE_DATA = "data/toxic_comments"
# What the column of a teacher outside this project may hold.
LOGITS, PROBABILITIES = "logits", "probabilities"
# Starting processes pays only for splits of this size: one process already tokenizes on all cores.
MULTIPROCESSING_MIN_ROWS = 100_000


@dataclass
class DataArguments:
    """Which data to use and how to read them. The source is a GLUE task, a data set, files or the sample data.

    Raises:
        UserError: an argument breaks its rule or contradicts another one, or a file is missing or empty.
    """

    task_name: str | None = field(
        default=None, metadata={"help": f"GLUE task: {', '.join(GLUE_TEXT_COLUMNS)}. Loaded from {GLUE}."}
    )
    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Data set on the Hugging Face Hub, or a local folder that `load_dataset` can read."},
    )
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "Configuration of --dataset_name, for data sets that have several."}
    )
    train_file: str | None = field(
        default=None,
        metadata={
            "help": f"Training data: a file that ends in {', '.join(FILE_EXTENSIONS)}. With --ce_weight 0 it "
            f"needs no labels. If no data are named: the sample data in {SAMPLE_DATA}."
        },
    )
    validation_file: str | None = field(
        default=None,
        metadata={
            "help": "Validation data with labels, to choose settings by; any format of --train_file. Unset: give "
            "--validation_split_percentage with --train_file."
        },
    )
    test_file: str | None = field(
        default=None,
        metadata={
            "help": "Test data, to report scores and predictions on; any of the formats. Without labels there "
            "are only predictions. Unset: no test split."
        },
    )
    text_column_name: str | None = field(
        default=None,
        metadata={
            "help": "Column of the texts, or two columns for pairs, separated by a comma: premise,hypothesis. "
            "Unset: the columns of the GLUE task, else a well-known name (text, sentence, tweet, ...), "
            "else the only column of strings."
        },
    )
    label_column_name: str | None = field(
        default=None,
        metadata={
            "help": "Column of the labels, or one column for each label, separated by commas: "
            "toxic,insult,threat. Such columns hold 0/1, booleans or shares from 0 to 1; an empty cell "
            "or -1 is unknown. Unset: the column label or labels."
        },
    )
    problem_type: str | None = field(
        default=None,
        metadata={
            "help": f"What the labels mean: {SINGLE_LABEL} (shares from 0 to 1 are soft labels), {MULTI_LABEL} or "
            f"{REGRESSION}. Unset: what the label column says; needed only where it can be read in two ways."
        },
    )
    label_order: str | None = field(
        default=None,
        metadata={
            "help": "All label names in the order of their ids, separated by commas: not_toxic,toxic. If names "
            'hold commas, a JSON list: ["a, b", "c"]. Unset: the order that the data set declares, else '
            "sorted order."
        },
    )
    json_field: str | None = field(
        default=None,
        metadata={"help": "Field with the rows, for json files that hold one object. Unset: the file is the rows."},
    )
    teacher_column_name: str | None = field(
        default=None,
        metadata={
            "help": "Training column with scores of another teacher, used in place of the teacher's: objects {label: "
            "score}, lists (see --teacher_label_order), columns NAME_LABEL, or numbers for regression. Unset: none."
        },
    )
    teacher_scores: str = field(
        default=LOGITS,
        metadata={"help": "What --teacher_column_name holds.", "choices": (LOGITS, PROBABILITIES)},
    )
    teacher_label_order: str | None = field(
        default=None,
        metadata={
            "help": "Classes in the order of the lists in --teacher_column_name, with commas: good,bad. Lists need it."
        },
    )
    validation_split_percentage: int | None = field(
        default=None,
        metadata={
            "help": "Share of the training split, in percent from 1 to 99, that becomes the validation split. "
            "Classes keep their shares where possible. Required if the data have no validation split, "
            "else not allowed."
        },
    )
    max_seq_length: int = field(
        default=128,
        metadata={
            "help": "Longest input in tokens, with special tokens; longer inputs are cut off. There must be room "
            "for a token of each text. The tokenizer's own limit holds too."
        },
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Number of training examples to use, the first ones; >= 1. Unset: all."}
    )
    max_eval_samples: int | None = field(
        default=None,
        metadata={"help": "Number of examples of each validation split to use, the first ones; >= 1. Unset: all."},
    )
    max_predict_samples: int | None = field(
        default=None,
        metadata={"help": "Number of examples of each test split to use, the first ones; >= 1. Unset: all."},
    )
    preprocessing_num_workers: int | None = field(
        default=None,
        metadata={
            "help": "Number of processes that tokenize; >= 1. Unset: one for each core for splits of at least "
            f"{MULTIPROCESSING_MIN_ROWS:,} examples, one for smaller splits, where it is faster."
        },
    )
    overwrite_cache: bool = field(default=False, metadata={"help": "Tokenize again even if a cached result exists."})
    languages: str | None = field(
        default=None,
        metadata={
            "help": "Languages of the texts, as codes with commas: en,de. For the model card, and for the app, which "
            "refuses other languages. Unset: not said."
        },
    )
    threshold_rule: str = field(
        default="f1",
        metadata={
            "help": "How the threshold of each label is chosen on the validation split: f1, recall=R (the highest "
            "precision that finds a share R of its texts) or flagged=S (gives the label to at most a share S of all)."
        },
    )

    def __post_init__(self):
        if self.task_name is not None:
            self.task_name = self.task_name.lower()
        if self.task_name is not None and self.task_name not in GLUE_TEXT_COLUMNS:
            raise UserError(
                f"--task_name must be one of {', '.join(GLUE_TEXT_COLUMNS)}, found {self.task_name!r}. "
                "For other data use --dataset_name or --train_file."
            )
        files = ", ".join(f"--{split}_file" for split in self.files)
        sources = {"--task_name": self.task_name, "--dataset_name": self.dataset_name, files: files}
        given = [option for option, value in sources.items() if value]
        if len(given) > 1:
            raise UserError(f"The data must come from one source, found {' and '.join(given)}. Keep one of them.")
        if self.dataset_config_name is not None and self.dataset_name is None:
            raise UserError(
                f"--dataset_config_name needs --dataset_name, found {self.dataset_config_name!r} alone. "
                "Add --dataset_name, or for a GLUE task give --task_name alone."
            )
        if self.files and self.train_file is None:
            raise UserError(
                "--train_file must be given with the other files, because the labels come from the training data; "
                f"found only {' and '.join(self.files.values())}. Add --train_file."
            )
        for split, path in self.files.items():
            _check_file(f"--{split}_file", Path(path))
        if len(self.text_columns) > 2:
            raise UserError(
                f"--text_column_name must be one column or two, found {len(self.text_columns)}: "
                f"{self.text_column_name!r}. Join the other columns in the data first."
            )
        if repeated(self.text_columns):
            raise UserError(
                f"--text_column_name must be two different columns, found {self.text_column_name!r}. "
                "Name the column once."
            )
        if both := [name for name in self.label_columns if name in self.text_columns]:
            raise UserError(
                f"A column is either text or label, found {both[0]!r} as both. "
                "Change --text_column_name or --label_column_name."
            )
        if names := repeated(self.label_columns):
            raise UserError(
                f"--label_column_name must have every column once, found {', '.join(names)} more than once. "
                "Remove the repetition."
            )
        if self.problem_type not in (None, SINGLE_LABEL, MULTI_LABEL, REGRESSION):
            raise UserError(
                f"--problem_type must be {SINGLE_LABEL}, {MULTI_LABEL} or {REGRESSION}, found {self.problem_type!r}. "
                "Leave it out for what the label column says."
            )
        if names := repeated(self.ordered_label_names):
            raise UserError(
                f"--label_order must have every label once, found {', '.join(names)} more than once. "
                "Remove the repetition."
            )
        if self.teacher_scores not in (LOGITS, PROBABILITIES):
            raise UserError(
                f"--teacher_scores must be {LOGITS} or {PROBABILITIES}, found {self.teacher_scores!r}. Choose one."
            )
        for option, value in (("label_order", self.teacher_label_order), ("scores", self.teacher_scores != LOGITS)):
            if value and self.teacher_column_name is None:
                raise UserError(
                    f"--teacher_{option} describes --teacher_column_name, which is not given. Name the column, or "
                    f"leave --teacher_{option} out."
                )
        if self.validation_split_percentage is not None and not 1 <= self.validation_split_percentage <= 99:
            raise UserError(
                f"--validation_split_percentage must be from 1 to 99, found {self.validation_split_percentage}. "
                "A common choice is 10."
            )
        ThresholdRule.parse(self.threshold_rule)
        numbers = {
            "--max_seq_length": self.max_seq_length,
            "--max_train_samples": self.max_train_samples,
            "--max_eval_samples": self.max_eval_samples,
            "--max_predict_samples": self.max_predict_samples,
            "--preprocessing_num_workers": self.preprocessing_num_workers,
        }
        for option, number in numbers.items():
            if number is not None and number < 1:
                raise UserError(f"{option} must be at least 1, found {number}. Leave it out for the default.")

    @property
    def files(self) -> dict[str, str]:
        """The files that were given, by split."""
        files = {"train": self.train_file, "validation": self.validation_file, "test": self.test_file}
        return {split: path for split, path in files.items() if path is not None}

    @property
    def is_given(self) -> bool:
        """Whether a source is named. Otherwise the data are the sample data."""
        return bool(self.task_name or self.dataset_name or self.files)

    @property
    def short_name(self) -> str:
        """A name for folders: the name of the task, the data set, the training file or the sample data."""
        return self.task_name or Path(self.dataset_name or self.train_file or SAMPLE_DATA).stem

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The names in `text_column_name`; empty if unset."""
        return split_names(self.text_column_name)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The names in `label_column_name`; empty if unset."""
        return split_names(self.label_column_name)

    @property
    def teacher_classes(self) -> tuple[str, ...]:
        """The names in `teacher_label_order`; empty if unset."""
        return split_names(self.teacher_label_order)

    @property
    def language_codes(self) -> tuple[str, ...]:
        """The codes in `languages`, in lower case; empty if unset."""
        return tuple(code.lower() for code in split_names(self.languages))

    @property
    def ordered_label_names(self) -> tuple[str, ...]:
        """The names in `label_order`; empty if unset."""
        return split_names(self.label_order)

    @property
    def stated_problem_type(self) -> str | None:
        """The problem type that an argument states: `problem_type`, or the scores of the GLUE task stsb."""
        return self.problem_type or (REGRESSION if self.task_name == "stsb" else None)


def _check_file(option: str, path: Path) -> None:
    if path.suffix.lower() not in FILE_EXTENSIONS:
        raise UserError(
            f"{option} must end in {', '.join(FILE_EXTENSIONS)}, found {str(path)!r}. "
            "Convert the file, or rename it after its format."
        )
    if not path.is_file():
        raise UserError(f"{option} must be a file, but there is no file {str(path)!r}. Check the path.")
    if path.stat().st_size == 0:
        raise UserError(f"{option} must hold rows, but {str(path)!r} is empty (0 bytes). Write the file again.")
