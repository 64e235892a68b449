#!/usr/bin/env bash
# polars 2.1.0: the codes of a categorical column depend on the other categorical columns that are alive.
#
# Expected: to_physical() numbers the categories of a column from 0, as pandas' cat.codes does, so that the codes can
# be the ids of the labels.
# Found: all columns share one table of categories, which grows in the order in which strings appear. While a column of
# topics is in memory, the codes of two labels are 3 and 4; after it is deleted, they are 0 and 1. Ids of training and
# test then differ with what else the program has read. The codes of pl.Enum are stable.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet polars==2.1.0
"$folder/venv/bin/python" - <<'PYTHON'
import polars as pl


def codes(texts, dtype):
    return pl.Series(texts).cast(dtype).to_physical().to_list()


labels = ["neg", "pos", "neg"]
topics = pl.Series(["sports", "politics", "art"]).cast(pl.Categorical)
found = {"topics in memory": codes(labels, pl.Categorical), "Enum": codes(labels, pl.Enum(["neg", "pos"]))}
del topics
found["topics deleted"] = codes(labels, pl.Categorical)
print(found)
expected = {"topics in memory": [3, 4, 3], "Enum": [0, 1, 0], "topics deleted": [0, 1, 0]}
assert found == expected, "the behavior has changed"
PYTHON
