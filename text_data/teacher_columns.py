"""Scores of a teacher outside this project, such as a large language model, from a column of the training data.

    logits = read_teacher_logits(raw["train"], labels, data_args)    # float32, (rows, labels)

A column says which class each score belongs to: by the keys of {"good": 1.2, "bad": -0.3}, by its name, as in
`logit_good`, or by --teacher_label_order for lists of numbers. For regression it may hold plain numbers.
"""

import numpy as np
from datasets import LargeList, List, Value

from layer_distillation.errors import UserError
from layer_distillation.problem_types import REGRESSION, SINGLE_LABEL
from text_data.arguments import PROBABILITIES, DataArguments
from text_data.columns import with_decimal_point
from text_data.labels import LabelMap
from text_data.names import join_names
from text_data.sources import RawSplit

SMALLEST_PROBABILITY = 1e-6
SUM_TOLERANCE = 1e-2


def read_teacher_logits(train: RawSplit, labels: LabelMap, data_args: DataArguments) -> np.ndarray:
    """Returns the logits of `--teacher_column_name`, with the classes in the order of the label map.

    Probabilities become logits that give the same probabilities.

    Raises:
        UserError: there is no such column, its classes are not the labels of the data, or a score is missing, not
            finite or no probability.
    """
    classes, rows = _classes_and_scores(train, labels, data_args)
    if sorted(classes) != sorted(labels.names):
        raise UserError(
            f"The scores in --teacher_column_name {data_args.teacher_column_name} must be of the labels "
            f"{', '.join(labels.names)}, but those in {train.where} are of {', '.join(classes)}. Correct the data, or "
            "--teacher_label_order."
        )
    scores = _as_numbers(rows, len(classes), train, data_args)[:, [classes.index(name) for name in labels.names]]
    return _logits_of(scores, labels, train) if data_args.teacher_scores == PROBABILITIES else scores


def _classes_and_scores(
    train: RawSplit, labels: LabelMap, data_args: DataArguments
) -> tuple[list[str], list[list | None]]:
    """Returns the names of the classes, and for each row their scores in this order, `None` where they are missing."""
    name, data = data_args.teacher_column_name, train.data
    if name not in data.column_names:
        classes = [label for label in labels.names if f"{name}_{label}" in data.column_names]
        if not classes:
            raise UserError(
                f"--teacher_column_name {name} must be a column, or the start of a column for each label such as "
                f"{name}_{labels.names[0]}, but {train.where} has {join_names(data.column_names, ', ')}. Correct the "
                "name."
            )
        return classes, list(zip(*(data[f"{name}_{label}"][:] for label in classes), strict=True))
    feature = data.features[name]
    if isinstance(feature, dict):
        return list(feature), [None if row is None else [row[label] for label in feature] for row in data[name]]
    if labels.problem_type == REGRESSION and isinstance(feature, Value):
        return list(labels.names), [[score] for score in data[name]]
    if not isinstance(feature, (List, LargeList)):
        raise UserError(
            f"--teacher_column_name {name} must hold a score for each label, as a list or as {{label: score}}, but "
            f"{train.where} has {data[0][name]!r}. Name another column."
        )
    if not data_args.teacher_classes:
        raise UserError(
            f"The lists in --teacher_column_name {name} do not say which class comes first. Name the classes in the "
            f"order of the lists, for example --teacher_label_order {','.join(labels.names)}."
        )
    return list(data_args.teacher_classes), data[name][:]


def _as_numbers(rows: list[list | None], num_classes: int, train: RawSplit, data_args: DataArguments) -> np.ndarray:
    """Returns the scores as a table; in csv files they are strings."""
    scores = np.empty((len(rows), num_classes), dtype=np.float32)
    for number, row in enumerate(rows, 1):
        try:
            numbers = [float(with_decimal_point(score) if isinstance(score, str) else score) for score in row]
            if len(row) == num_classes and np.isfinite(numbers).all():
                scores[number - 1] = numbers
                continue
        except (TypeError, ValueError):
            pass
        raise UserError(
            f"--teacher_column_name {data_args.teacher_column_name} must hold {num_classes} finite numbers a row, but "
            f"row {number} of {train.where} has {row}. Correct or remove the row."
        )
    return scores


def _logits_of(probabilities: np.ndarray, labels: LabelMap, train: RawSplit) -> np.ndarray:
    if labels.problem_type == REGRESSION:
        raise UserError("--teacher_scores probabilities is for classes, but the labels are scores. Use logits.")
    sums = probabilities.sum(axis=1) if labels.problem_type == SINGLE_LABEL else np.ones(len(probabilities))
    is_wrong = ((probabilities < 0) | (probabilities > 1)).any(axis=1) | (np.abs(sums - 1) > SUM_TOLERANCE)
    if is_wrong.any():
        row = int(is_wrong.argmax())
        raise UserError(
            f"--teacher_scores probabilities needs numbers from 0 to 1, with the sum 1 where a text has one label, "
            f"but row {row + 1} of {train.where} has {probabilities[row].tolist()}. If these are logits, leave "
            "--teacher_scores out."
        )
    clipped = probabilities.clip(SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return np.log(clipped) if labels.problem_type == SINGLE_LABEL else np.log(clipped / (1 - clipped))
