#!/usr/bin/env bash
# transformers 5.23.0: Gemma loaded in half precision and cast to float32 computes something else after saving.
#
# Expected: model.float() of a model that was made in bfloat16, and the same model after save_pretrained() and
# from_pretrained(dtype="float32"), have the same weights and give the same logits.
# Found: the embeddings are scaled by a buffer that no checkpoint holds. It is computed in the precision of the config
# and stays rounded after float(): 25.25 for a width of 640. The reloaded model has 25.298, with all weights the same.
# What is trained after the cast is not what is saved.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys

import torch
from transformers import AutoModelForSequenceClassification, Gemma3TextConfig

torch.manual_seed(0)
config = Gemma3TextConfig(
    vocab_size=50,
    hidden_size=640,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=16,
    pad_token_id=0,
)
ids = torch.arange(1, 9)[None]
model = AutoModelForSequenceClassification.from_config(config, dtype=torch.bfloat16).float().eval()
model.save_pretrained(f"{sys.argv[1]}/model")
again = AutoModelForSequenceClassification.from_pretrained(f"{sys.argv[1]}/model", dtype="float32").eval()
weights, weights_again = model.state_dict(), again.state_dict()
same = all(torch.equal(weights[name], weights_again[name]) for name in weights)
scales = [round(one.model.embed_tokens.embed_scale.item(), 3) for one in (model, again)]
with torch.no_grad():
    difference = (model(ids).logits - again(ids).logits).abs().max().item()
print(f"same weights: {same}; scale of the embeddings: {scales}; logits differ by {difference:.1g}")
assert same and scales == [25.25, 25.298] and difference > 1e-5, "the behavior has changed"
PYTHON
