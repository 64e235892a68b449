#!/usr/bin/env bash
# scikit-learn 1.9.1: macro and micro F1 of a multi-label task mean something else if the task has one label.
#
# Expected: a matrix with one column is scored as the column is in a matrix with two.
# Found: a matrix of shape (examples, 1) is taken for classes 0 and 1. Macro F1 then averages over "has the label" and
# "lacks the label", and micro F1 is the accuracy. For a rare label both are too high: code for any number of labels
# reports 0.95 for a label whose F1 is 0.67. average=None shows it: two values come back for one column.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-learn==1.9.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from sklearn.metrics import f1_score

truth = np.array([[1], [1]] + [[0]] * 18)
predictions = np.array([[1], [0]] + [[0]] * 18)
scores = {}
for average in ("macro", "micro"):
    one = f1_score(truth, predictions, average=average)
    twice = f1_score(truth.repeat(2, axis=1), predictions.repeat(2, axis=1), average=average)
    scores[average] = (round(one, 3), round(twice, 3))
print("F1 of one column, of the same column twice:", scores)
print("average=None:", f1_score(truth, predictions, average=None))
assert scores == {"macro": (0.82, 0.667), "micro": (0.95, 0.667)}, "the behavior has changed"
PYTHON
