#!/usr/bin/env bash
# transformers 5.23.0: one batch of short texts changes what a BigBird model computes for long texts, for good.
#
# Expected: what a model computes for a text does not depend on the texts that it has read before.
# Found: for texts that are too short for block-sparse attention the model calls set_attention_type("original_full") on
# itself and stays so. The config still says block_sparse, so a saved and reloaded model computes something else.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from transformers import BigBirdConfig, BigBirdForSequenceClassification

sizes = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
config = BigBirdConfig(**sizes, intermediate_size=64, block_size=4, num_random_blocks=1, initializer_range=0.2)
torch.manual_seed(0)
model = BigBirdForSequenceClassification(config).eval()
long_texts = torch.randint(5, 90, (2, 48))
with torch.no_grad():
    before = model(input_ids=long_texts).logits
    model(input_ids=long_texts[:, :8])
    after = model(input_ids=long_texts).logits
difference = (before - after).abs().max().item()
print(f"the same texts before and after a batch of short ones: {difference:.3f}; config: {config.attention_type}")
assert difference > 1e-3 and config.attention_type == "block_sparse", "the behavior has changed"
PYTHON
