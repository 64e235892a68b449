#!/usr/bin/env bash
# setfit 1.2.0: the columns of predict_proba are not in the order of the model's labels.
#
# Expected: a SetFitModel with labels=["positive", "negative"] gives probabilities in this order, which model.labels and
# model.id2label state.
# Found: trained on the names, the head of scikit-learn sorts them, and predict_proba returns its columns: the first is
# "negative". Whoever looks up a column in id2label gets the opposite of predict, which returns the right names.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 sentence-transformers==6.2.0 setfit==1.2.0
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import torch
from setfit import SetFitModel
from transformers import BertConfig, BertModel, BertTokenizer

torch.manual_seed(0)
checkpoint, vocabulary = Path(sys.argv[1], "checkpoint"), Path(sys.argv[1], "vocab.txt")
vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ngood\nbad\n")
BertTokenizer(str(vocabulary)).save_pretrained(checkpoint)
sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 7}
BertModel(BertConfig(**sizes)).save_pretrained(checkpoint)
model = SetFitModel.from_pretrained(str(checkpoint), labels=["positive", "negative"], device="cpu")
model.fit(["good good", "bad bad"] * 4, ["positive", "negative"] * 4, num_epochs=1)
predicted = model.predict(["good", "bad"]).tolist()
looked_up = [model.id2label[column] for column in model.predict_proba(["good", "bad"], as_numpy=True).argmax(axis=1)]
print("predict:", predicted, "largest probability, by model.id2label:", looked_up)
assert predicted == ["positive", "negative"] and looked_up == ["negative", "positive"], "the behavior has changed"
PYTHON
