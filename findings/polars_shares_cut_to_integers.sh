#!/usr/bin/env bash
# polars 2.1.0: shares of labels become 0 where the first rows are whole numbers, without an error.
#
# Expected: a column of 0, 1 and 0.9 is a column of floats, or an error as for [0, 0.9] in a plain column.
# Found: in lists the first row decides on the type, in rows (read_json, from_dicts, DataFrame) the first 100 rows.
# Later floats are cut to integers, so soft labels such as [0.3, 0.7] become [0, 0] (for lists: pola-rs/polars#9500).
# infer_schema_length=None reads all rows first, and a dtype or schema prevents both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet polars==2.1.0
"$folder/venv/bin/python" - <<'PYTHON'
import io
import json

import polars as pl

lists = pl.Series([[0, 1], [0.3, 0.7]]).to_list()
print("lists [0, 1], [0.3, 0.7]:", lists)
rows = [{"score": 0}] * 100 + [{"score": 0.9}]
read = {
    "read_json": pl.read_json(io.StringIO(json.dumps(rows)))["score"][-1],
    "from_dicts": pl.from_dicts(rows)["score"][-1],
    "from_dicts, all rows": pl.from_dicts(rows, infer_schema_length=None)["score"][-1],
}
print("score 0.9 in row 101:", read)
try:
    pl.DataFrame({"score": [0, 0.9]})
    plain = "no error"
except TypeError as error:
    plain = str(error).split("\n")[0]
print("a plain column:", plain)
assert lists == [[0, 1], [0, 0]], "the behavior has changed"
assert read == {"read_json": 0, "from_dicts": 0, "from_dicts, all rows": 0.9}, "the behavior has changed"
assert plain != "no error", "the behavior has changed"
PYTHON
