#!/usr/bin/env bash
# datasets 5.2.0: DatasetDict.class_encode_column numbers the labels of every split on its own.
#
# Expected: one label has one id in all splits of a DatasetDict, as after cast_column with a ClassLabel.
# Found: the names are collected from each split alone. Where a split lacks a label, its ids mean other labels, without
# a warning: a test split without "negative" is scored against the wrong classes. The features of the splits differ.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0
"$folder/venv/bin/python" - <<'PYTHON'
from datasets import Dataset, DatasetDict

texts = {"train": ["negative", "neutral", "positive"], "test": ["neutral", "positive"]}
data = DatasetDict({split: Dataset.from_dict({"label": labels}) for split, labels in texts.items()})
data = data.class_encode_column("label")
for split in data:
    print(split, data[split].features["label"].names, data[split]["label"][:])
assert data["train"]["label"][:] == [0, 1, 2] and data["test"]["label"][:] == [0, 1], "the behavior has changed"
PYTHON
