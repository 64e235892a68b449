"""Loads text classification data: splits with texts and labels as ids, whatever the source.

    data = load_data(DataArguments(task_name="rte"), seed=42)
    data.labels.names             # ("entailment", "not_entailment")
    data.splits["train"][0]       # {"sentence1": "No Weapons of ...", "sentence2": "Weapons of ...", "label": 1}
    tokenized = tokenize(data, tokenizer, data_args)    # text_data.tokenizing

`load_data` is the table of contents of the package.
"""

import logging
from dataclasses import dataclass

from datasets import DatasetDict, List, Value

from layer_distillation.stored_columns import TEACHER_LOGITS
from text_data.arguments import DataArguments
from text_data.labels import LabelMap, read_labels
from text_data.sources import read_source
from text_data.splits import limited, splits_for, with_validation_split
from text_data.teacher_columns import read_teacher_logits
from text_data.texts import select_texts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextClassificationData:
    """Splits with one form of label, whatever the source.

    Attributes:
        splits: "train", the validation splits and the test splits. Columns: the text columns, and "label" where the
            labels are known: an id, a float (regression) or a 0/1 vector of `num_labels` floats (multi-label).
            "train" has "teacher_logits" if the data hold the scores of a teacher.
        labels: the label map, read from the training split, or from the validation split if training has no labels.
        text_columns: names of the one or two text columns.
        source: short name for logs and model cards, for example "nyu-mll/glue mnli".
        split_seed: the seed that the validation split was split off with, `None` if the data came with one.
    """

    splits: DatasetDict
    labels: LabelMap
    text_columns: tuple[str, ...]
    source: str
    split_seed: int | None = None

    @property
    def validation_splits(self) -> tuple[str, ...]:
        """`("validation",)`, or `("validation_matched", "validation_mismatched")` for MNLI."""
        return splits_for("validation", self.splits)

    @property
    def test_splits(self) -> tuple[str, ...]:
        """`()`, `("test",)`, or `("test_matched", "test_mismatched")` for MNLI."""
        return splits_for("test", self.splits)


def load_data(data_args: DataArguments, seed: int) -> TextClassificationData:
    """Loads the data that `data_args` names, with the labels mapped to ids.

    `seed` matters only for `validation_split_percentage`: the same seed splits off the same examples.

    Raises:
        UserError: the data contradict `data_args`, are empty, incomplete or unreadable, or are neither cached nor
            within reach of the network. The message names the file or split, the rows and the fix.
    """
    source, raw = read_source(data_args)
    text_columns, splits = select_texts(raw, data_args)
    labels, ids = read_labels(raw, data_args)
    for name in ids:
        splits[name] = splits[name].add_column("label", ids[name], feature=labels.feature)
    if data_args.teacher_column_name is not None:
        logits = read_teacher_logits(raw["train"], labels, data_args)
        feature = List(Value("float32"), length=labels.num_labels)
        splits["train"] = splits["train"].add_column(TEACHER_LOGITS, list(logits), feature=feature)
    logger.info(f"{source}: text in {', '.join(text_columns)}; {labels.problem_type} of {', '.join(labels.names)}")

    percentage = data_args.validation_split_percentage
    splits = with_validation_split(DatasetDict(splits), source, percentage, seed)
    splits = limited(splits, data_args)
    split_seed = None if percentage is None else seed
    return TextClassificationData(splits, labels, text_columns, source, split_seed)
