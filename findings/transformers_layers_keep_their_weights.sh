#!/usr/bin/env bash
# transformers 5.23.0: layers of a loaded model cannot be initialized again; the call does nothing, without a word.
#
# Expected: layer.apply(model._init_weights) gives a layer fresh weights, as in transformers 4, where it is the way to
# train the top layers of a checkpoint from scratch. model.init_weights() initializes the model.
# Found: from_pretrained marks every loaded parameter, and initialization skips marked parameters. Layers of a model
# made from a config, and of a copy.deepcopy of the loaded model, do change. So "reinitialized" and "random" baselines
# keep the weights of the checkpoint.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import copy
import sys

import torch
from transformers import BertConfig, BertForSequenceClassification

sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 20}
fresh = BertForSequenceClassification(BertConfig(**sizes))
fresh.save_pretrained(sys.argv[1])
loaded = BertForSequenceClassification.from_pretrained(sys.argv[1])
changed = {}
for name, model in {"from the config": fresh, "copied": copy.deepcopy(loaded), "loaded": loaded}.items():
    layer = model.bert.encoder.layer[1]
    before = layer.attention.self.query.weight.clone()
    layer.apply(model._init_weights)
    model.init_weights()
    changed[name] = not torch.equal(before, layer.attention.self.query.weight)
print("weights changed:", changed)
assert changed == {"from the config": True, "copied": True, "loaded": False}, "the behavior has changed"
PYTHON
