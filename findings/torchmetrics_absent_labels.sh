#!/usr/bin/env bash
# torchmetrics 1.9.0: a label that does not occur makes a classifier without errors look bad in some macro averages.
#
# Expected: a label of which the test set has no example, and which is never predicted, is left out of a macro average,
# or makes it undefined. A classifier without errors then has the value 1, with classes and with several labels a text.
# Found: macro F1 of classes leaves it out. Macro F1 of several labels counts it as 0, without a warning, and so do the
# AUROC and the average precision, with a warning. Of 3 labels, 1 absent, all predictions right: 1, and 0.67 thrice.
# Rare labels are often absent from a validation set. zero_division=1 mends F1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchmetrics==1.9.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torchmetrics.classification import (
    MulticlassF1Score,
    MultilabelAUROC,
    MultilabelAveragePrecision,
    MultilabelF1Score,
)

classes = torch.tensor([0, 1, 1, 0])
labels = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
probabilities = 0.1 + 0.8 * labels
found = {
    "F1 of classes": MulticlassF1Score(3)(classes, classes),
    "F1 of several labels": MultilabelF1Score(3)(probabilities, labels),
    "F1 of several labels with zero_division=1": MultilabelF1Score(3, zero_division=1)(probabilities, labels),
    "AUROC of several labels": MultilabelAUROC(3)(probabilities, labels),
    "average precision of several labels": MultilabelAveragePrecision(3)(probabilities, labels),
}
found = {name: round(value.item(), 2) for name, value in found.items()}
print("a classifier without errors, of 3 labels 1 absent:", found)
assert list(found.values()) == [1.0, 0.67, 1.0, 0.67, 0.67], "the behavior has changed"
PYTHON
