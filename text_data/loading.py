"""Text classification data, shared by the scripts: arguments, loading, label map, tokenising and metrics.

    data = load_data(data_args, seed=42)                   # raw splits and label map
    tokenized = tokenize(data, tokenizer, data_args)       # what the Trainer takes
    compute_metrics = build_compute_metrics(data.labels, data_args.task_name)

The data are a GLUE task, a data set on the Hub or in a local folder, csv, tsv, json, jsonl or parquet files, or, when
nothing is named, the embedded data set in `data/toxic_comments`. Pad batches with `DataCollatorWithPadding`.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, DatasetDict

from layer_distillation.errors import UserError
from text_data.arguments import EMBEDDED_DATA, GLUE, DataArguments
from text_data.columns import check_text, find_text_columns
from text_data.files import read_file
from text_data.hub import load_hub_data
from text_data.labels import (
    UNKNOWN_LABELS,
    LabelMap,
    build_label_map,
    encode_labels,
    find_labels,
    label_feature,
    read_labels,
)
from text_data.splits import RawSplit, limited, splits_for, with_validation_split

logger = logging.getLogger(__name__)


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
        return splits_for("validation", self.splits)

    @property
    def test_splits(self) -> tuple[str, ...]:
        """`()`, `("test",)`, or `("test_matched", "test_mismatched")` for MNLI."""
        return splits_for("test", self.splits)


def load_data(data_args: DataArguments, seed: int) -> TextClassificationData:
    """Load the data that `data_args` names, with the labels mapped to ids.

    `seed` matters only for `validation_split_percentage`: the same seed splits off the same examples.

    Raises:
        UserError: the data contradict `data_args`, or are empty, incomplete or unreadable. The message names the
            file or split, the rows and the fix.
        UserError: the data set is neither cached nor within reach of the network.
    """
    source, raw = _load_raw(data_args)
    train = raw["train"].data
    text_columns = find_text_columns(data_args, train)
    label_column, known_labels, labels_where = find_labels(data_args, raw)
    labels = build_label_map(known_labels, data_args.ordered_label_names, labels_where)
    logger.info(f"{source}: text in {', '.join(text_columns)}; {labels.problem_type} of {', '.join(labels.names)}")

    splits = DatasetDict({name: _prepare(name, raw[name], text_columns, label_column, labels) for name in raw})
    splits = with_validation_split(splits, source, data_args.validation_split_percentage, seed)
    split_seed = None if data_args.validation_split_percentage is None else seed
    return TextClassificationData(limited(splits, data_args), labels, text_columns, source, split_seed)


def _load_raw(data_args: DataArguments) -> tuple[str, dict[str, RawSplit]]:
    """Short name of the source, and its train, validation and test splits."""
    if data_args.task_name is not None:
        source, raw = load_hub_data(GLUE, data_args.task_name)
    elif data_args.dataset_name is not None:
        source, raw = load_hub_data(data_args.dataset_name, data_args.dataset_config_name)
    elif data_args.files:
        source = "/".join(Path(data_args.train_file).parts[-2:])
        raw = {split: RawSplit(read_file(Path(path)), path) for split, path in data_args.files.items()}
    else:
        folder = Path(__file__).parent.parent / EMBEDDED_DATA
        files = {split: folder / f"{split}.csv" for split in ("train", "validation", "test")}
        source = EMBEDDED_DATA
        raw = {split: RawSplit(read_file(path), str(path)) for split, path in files.items()}

    if "train" not in raw:
        raise UserError(f"{source} must have a split named train, but found {', '.join(raw)}. Use train_file.")
    for split in raw.values():
        if len(split.data) == 0:
            raise UserError(
                f"A split must hold rows, but {split.where} has none, only the columns "
                f"{', '.join(split.data.column_names)}. Add rows, or leave it out."
            )
    return source, {name: raw[name] for name in ("train", *splits_for("validation", raw), *splits_for("test", raw))}


def _prepare(
    name: str, split: RawSplit, text_columns: tuple[str, ...], label_column: str, label_map: LabelMap
) -> Dataset:
    """The text columns and, where the labels are known, "label". Validation splits must have them."""
    for column in text_columns:
        check_text(split, column)
    texts = split.data.select_columns(list(text_columns))
    is_test = name in splits_for("test", (name,))
    labels = read_labels(split, label_column)
    if labels is None:
        if is_test or name == "train":
            return texts
        raise UserError(
            f"{split.where} must have labels in the column {label_column!r}, but found none; its columns are "
            f"{', '.join(split.data.column_names)}. Add them; only training and test data may come without labels."
        )
    if is_test and all(value in UNKNOWN_LABELS and value not in label_map.names for value in labels.values):
        return texts
    encoded = encode_labels(labels, label_map, split.where)
    return texts.add_column("label", encoded, feature=label_feature(label_map))
