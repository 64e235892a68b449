#!/usr/bin/env bash
# datasets 5.2.0: map() does not change the type of a column; float(label) gives integers.
#
# Expected: after map(lambda example: {"labels": float(example["labels"])}) the column holds floats, as one with a new
# name does, so that scores of 0 and 1 mean regression and lists of 0 and 1 mean several labels.
# Found: values that fit the old type of the column are written in the old type, whatever the function returns: float(),
# str(), bool() and tensors of floats all give integers again. The same function on a column with 0.5 gives floats, so
# the type depends on the values. Only another name, cast_column or features= change it. (huggingface/datasets#7472)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0 numpy==2.4.6
HF_DATASETS_DISABLE_PROGRESS_BARS=1 "$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from datasets import Dataset

data = Dataset.from_dict({"labels": [0, 1, 1], "several": [[0, 1], [1, 0], [1, 1]], "names": ["0", "1", "1"]})
found = {
    "float": data.map(lambda example: {"labels": float(example["labels"])})["labels"][:],
    "str": data.map(lambda example: {"labels": str(example["labels"])})["labels"][:],
    "bool": data.map(lambda example: {"labels": bool(example["labels"])})["labels"][:],
    "float32": data.map(lambda example: {"several": np.array(example["several"], np.float32)})["several"][0],
    "new name": data.map(lambda example: {"score": float(example["labels"])})["score"][:],
    "0.5": data.map(lambda example: {"labels": example["labels"] / 2})["labels"][:],
}
print("what map() wrote:", found)
integers = [[type(value) for value in found[name]] for name in ("float", "str", "bool", "float32")]
assert integers == [[int] * 3, [int] * 3, [int] * 3, [int] * 2], "the behavior has changed"
assert found["new name"] == [0.0, 1.0, 1.0] and type(found["new name"][0]) is float, "the behavior has changed"
assert found["0.5"] == [0.0, 0.5, 0.5], "the behavior has changed"
PYTHON
