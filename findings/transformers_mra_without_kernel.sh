#!/usr/bin/env bash
# transformers 5.23.0: MRA without its CUDA kernel computes attention as zeros, silently.
#
# Expected: an error where the kernel cannot be loaded, or another way to compute attention.
# Found: the model runs on the CPU, and no token reads another one: the logits of a text do not depend on any token but
# the first, which the head reads.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from transformers import MraConfig, MraForSequenceClassification

torch.manual_seed(0)
config = MraConfig(
    vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
    max_position_embeddings=128, initializer_range=0.5,
)
model = MraForSequenceClassification(config).eval()
texts = torch.randint(5, 90, (1, 64))
others = texts.clone()
others[:, 1:] = (others[:, 1:] + 7) % 80 + 5
with torch.no_grad():
    difference = (model(input_ids=texts).logits - model(input_ids=others).logits).abs().max().item()
print(f"two texts that share their first token alone: the logits differ by {difference}")
assert difference == 0, "the behavior has changed"
PYTHON
