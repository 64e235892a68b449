#!/usr/bin/env bash
# datasets 5.2.0: the format "numpy" rounds whole numbers to 7 digits if one value of the column is missing.
#
# Expected: ids of texts stay what they are, or a missing one makes them float64, as in pandas, which keeps 15 digits.
# Found: a column of integers with a None becomes float32. The ids 16777216 and 16777217 are one number then, and ids of
# tweets, with 19 digits, are lost; joining predictions with texts by id mixes them up. It depends on the rows that are
# read at once: a slice without the missing value gives int64. The format "torch" does so too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0 pandas==3.1.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
from datasets import Dataset

data = Dataset.from_dict({"id": [16777216, 16777217, None]})
as_numpy, as_pandas = data.with_format("numpy")[:]["id"], data.with_format("pandas")[:]["id"]
part = data.with_format("numpy")[:2]["id"]
print("numpy:", as_numpy.dtype, as_numpy.tolist(), "pandas:", as_pandas.dtype, as_pandas.tolist())
print("two rows:", part.dtype, part.tolist())
assert as_numpy.dtype == "float32" and as_numpy[0] == as_numpy[1], "the behavior has changed"
assert as_pandas[0] != as_pandas[1] and part.dtype == "int64", "the behavior has changed"
PYTHON
