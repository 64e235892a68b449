#!/usr/bin/env bash
# datasets 5.2.0: class_encode_column gives integer labels other numbers if they have one digit and more.
#
# Expected: labels that are already the ids 0 to 11 keep their numbers, as scikit-learn's LabelEncoder does it.
# Found: the values are sorted as strings, so that 10 and 11 come before 2. The column then holds other integers of the
# same range, and no check can see it: a model that was trained with the first numbers scores at random.
# (flairNLP/fabricator#51 met it.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0
"$folder/venv/bin/python" - <<'PYTHON'
from datasets import Dataset

before = list(range(12))
encoded = Dataset.from_dict({"label": before}).class_encode_column("label")
print("before:", before)
print("after: ", encoded["label"][:])
assert encoded["label"][:] == [0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 2, 3], "the behavior has changed"
PYTHON
