#!/usr/bin/env bash
# peft 0.21.2: merging adapters on two modules that share one weight adds both adapters to that weight.
#
# Expected: merge_and_unload() gives a model with the same outputs as the model with its adapters, or an error.
# Found: each module trains an adapter of its own, merging adds both to the shared weight, and the outputs differ.
# Models with shared blocks (Zamba) and tied embeddings are affected: leave shared weights without adapters.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 peft==0.21.2
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from torch import nn


class TwoUses(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


torch.manual_seed(0)
model = get_peft_model(TwoUses(), LoraConfig(r=2, target_modules=["first", "second"], init_lora_weights=False))
x = torch.randn(4, 8)
with torch.no_grad():
    with_adapters = model(x)
    merged = model.merge_and_unload()(x)
difference = (with_adapters - merged).abs().max().item()
print(f"adapters against merged: {difference:.3f}")
assert difference > 0.01, "the behavior has changed"
PYTHON
