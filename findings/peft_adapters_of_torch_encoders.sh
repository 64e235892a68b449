#!/usr/bin/env bash
# peft 0.21.2, torch 2.13.0: adapters on nn.TransformerEncoderLayer work in training and are ignored in evaluation.
#
# Expected: eval() and no_grad() change the dropout, not whether the adapters count.
# Found: in evaluation the layer takes a fused path, which reads the weights of its modules and does not call them. The
# training loss falls, and validation shows the base model. Adapters on self_attn are ignored as well. (Hooks, too, are
# skipped: pytorch/pytorch#128413.) Merging, or torch.backends.mha.set_fastpath_enabled(False), mends it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 peft==0.21.2
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from torch import nn


def evaluate(model):
    with torch.no_grad():
        return model.eval()(x)


torch.manual_seed(0)
x = torch.randn(2, 5, 16)
changes = {}
for target in ("linear1", "self_attn"):
    layer = nn.TransformerEncoderLayer(16, 2, 16, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    base = evaluate(encoder)
    model = get_peft_model(encoder, LoraConfig(target_modules=[target], init_lora_weights=False))
    outputs = {"training": model.train()(x), "evaluation": evaluate(model)}
    torch.backends.mha.set_fastpath_enabled(False)
    outputs["evaluation, no fast path"] = evaluate(model)
    torch.backends.mha.set_fastpath_enabled(True)
    outputs["merged"] = evaluate(model.merge_and_unload())
    changes[target] = {mode: round((output - base).abs().max().item(), 3) for mode, output in outputs.items()}
    print("change by the adapters on", target, changes[target])
for change in changes.values():
    assert change["training"] > 0.05 and change["merged"] == change["training"], "the behavior has changed"
    assert change["evaluation"] == 0 and change["evaluation, no fast path"] > 0.05, "the behavior has changed"
PYTHON
