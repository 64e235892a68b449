#!/usr/bin/env bash
# peft 0.21.2: unload() does not give back the base model: the trained head stays.
#
# Expected: "gets back the base model by removing all the lora modules without merging", so that base and adapter can be
# compared, or another adapter trained from the same start.
# Found: the modules of modules_to_save, for task_type="SEQ_CLS" the head, are replaced by their trained copies. The
# result is the encoder of the base with a head for another encoder. disable_adapter() does use the head of the base.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification

torch.manual_seed(0)
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 20}
base, tokens = BertForSequenceClassification(BertConfig(**sizes)).eval(), torch.tensor([[5, 6, 7]])
with torch.no_grad():
    logits = {"base": base(tokens).logits}
    model = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", target_modules=["query"])).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter))  # stands for a training
    with model.disable_adapter():
        logits["disabled"] = model(tokens).logits
    logits["unloaded"] = model.unload()(tokens).logits
print({name: [round(value, 3) for value in row[0].tolist()] for name, row in logits.items()})
assert torch.allclose(logits["base"], logits["disabled"]), "the behavior has changed"
assert not torch.allclose(logits["base"], logits["unloaded"], atol=0.1), "the behavior has changed"
PYTHON
