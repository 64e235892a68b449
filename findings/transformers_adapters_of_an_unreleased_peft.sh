#!/usr/bin/env bash
# transformers 5.24.0: model.add_adapter refuses peft 0.21.2, the newest release when transformers 5.24.0 was current.
#
# Expected: the newest releases of both packages work together.
# Found: the adapters that transformers itself puts on a model (add_adapter, load_adapter) ask for peft >= 0.22.0, which
# could not be installed. get_peft_model of peft 0.21.2 works with the same model.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 peft==0.21.2
"$folder/venv/bin/python" - <<'PYTHON'
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification

sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "vocab_size": 20}
config = LoraConfig(target_modules=["query"])
try:
    BertForSequenceClassification(BertConfig(num_hidden_layers=1, **sizes)).add_adapter(config)
    said = "nothing"
except ValueError as error:
    said = str(error)
model = get_peft_model(BertForSequenceClassification(BertConfig(num_hidden_layers=1, **sizes)), config)
print("add_adapter says:", said)
print("get_peft_model:", type(model).__name__)
assert "0.22.0" in said, "the behavior has changed"
PYTHON
