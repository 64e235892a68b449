#!/usr/bin/env bash
# transformers 5.23.0: of the columns "label" and "labels" the collators take different ones, and one cuts scores to 0.
#
# Expected: the argument of the model is called labels, so a column labels counts; scores 0 and 0.5 stay as they are.
# Found: DataCollatorWithPadding lets label overwrite labels, default_data_collator the other way round. Trainer takes
# the first if it has a tokenizer and keeps both columns, so a model is trained on the ids of the data set although the
# labels were mapped to its own. default_data_collator also takes the type of all labels from the first of the batch:
# after a 0, as json writes it, 0.5 becomes 0, depending on the order of the examples.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

from transformers import BertTokenizerFast, DataCollatorWithPadding, default_data_collator

vocabulary = Path(sys.argv[1], "vocab.txt")
vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
padding_collator = DataCollatorWithPadding(BertTokenizerFast(str(vocabulary)))
example = {"input_ids": [2, 1, 3], "label": 0, "labels": 1}
taken = {
    "DataCollatorWithPadding": padding_collator([dict(example)])["labels"].tolist(),
    "default_data_collator": default_data_collator([dict(example)])["labels"].tolist(),
}
print("label 0, labels 1:", taken)
scores = {
    "0 first": default_data_collator([{"label": 0}, {"label": 0.5}])["labels"].tolist(),
    "0.5 first": default_data_collator([{"label": 0.5}, {"label": 0}])["labels"].tolist(),
}
print("scores 0 and 0.5:", scores)
assert taken == {"DataCollatorWithPadding": [0], "default_data_collator": [1]}, "the behavior has changed"
assert scores == {"0 first": [0, 0], "0.5 first": [0.5, 0.0]}, "the behavior has changed"
PYTHON
