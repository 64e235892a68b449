#!/usr/bin/env bash
# peft 0.21.2: the mean of an adapter and itself is twice, or half, that adapter.
#
# Expected: add_weighted_adapter with weights 0.5 and 0.5 averages two adapters, such as two checkpoints of a training.
# Found: "linear" adds the matrices A and the matrices B, each with the square root of its weight. The product also has
# the matrix A of one adapter with the matrix B of the other, so two equal adapters give twice the adapter. dare_linear
# and magnitude_prune give twice too, ties gives half. "svd" and "cat" give the mean. (huggingface/peft#3004)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model

torch.manual_seed(0)
config = LoraConfig(target_modules=["0"], r=4, init_lora_weights=False)
model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(16, 16)), config, adapter_name="first")
model.add_adapter("second", config)
layer = model.base_model.model[0]
for matrices in (layer.lora_A, layer.lora_B):
    matrices["second"].load_state_dict(matrices["first"].state_dict())
sizes = {}
for kind in ("svd", "cat", "linear", "dare_linear", "magnitude_prune", "ties"):
    model.add_weighted_adapter(["first", "second"], [0.5, 0.5], kind, combination_type=kind, density=1.0)
    sizes[kind] = round((layer.get_delta_weight(kind).norm() / layer.get_delta_weight("first").norm()).item(), 3)
print("size of the mean of two equal adapters, as a multiple of the adapter:", sizes)
assert sizes == dict(svd=1, cat=1, linear=2, dare_linear=2, magnitude_prune=2, ties=0.5), "the behavior has changed"
PYTHON
