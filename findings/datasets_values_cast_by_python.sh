#!/usr/bin/env bash
# datasets 5.2.0, evaluate 0.4.6: declared features turn "False" into true and 0.97 into 0, where casting does not.
#
# Expected: Dataset.from_dict(..., features=...) converts like cast_column, which reads "False" as false and refuses to
# cut 0.97 to an integer.
# Found: it calls bool(value) and int(value). Every string that is not empty is true, so all rows of csv.DictReader have
# a true label. An evaluate metric declares integer predictions: probabilities become 0 without an error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0 evaluate==0.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import evaluate
import pyarrow as pa
from datasets import Dataset, Features, Value

boolean = Features({"label": Value("bool")})
declared = Dataset.from_dict({"label": ["False", "True"]}, features=boolean)["label"][:]
casted = Dataset.from_dict({"label": ["False", "True"]}).cast(boolean)["label"][:]
print('"False", "True" declared as bool:', declared, "cast to bool:", casted)

share = {"share": [0.97, 0.02]}
cut = Dataset.from_dict(share, features=Features({"share": Value("int64")}))["share"][:]
try:
    refusal = Dataset.from_dict(share).cast_column("share", Value("int64"))["share"][:]
except pa.ArrowInvalid as error:
    refusal = str(error)
print("0.97, 0.02 declared as int64:", cut, "cast to int64:", refusal)


class Accuracy(evaluate.Metric):
    """Declares its inputs as the published metric `accuracy` does."""

    def _info(self):
        features = Features({"predictions": Value("int32"), "references": Value("int32")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"accuracy": sum(map(int.__eq__, predictions, references)) / len(references)}


accuracy = Accuracy(keep_in_memory=True).compute(predictions=[0.97, 0.98, 0.02], references=[1, 1, 0])
print("accuracy of the probabilities 0.97, 0.98, 0.02 for the labels 1, 1, 0:", accuracy["accuracy"])
assert declared == [True, True] and casted == [False, True], "the behavior has changed"
assert cut == [0, 0] and isinstance(refusal, str) and accuracy["accuracy"] == 1 / 3, "the behavior has changed"
PYTHON
