#!/usr/bin/env bash
# PEFT 0.21.2: an OLoRA adapter changes what GPT-2 computes before any training.
#
# Expected: as for Linear layers, the base weight is lowered by what the fresh adapter adds, so that the model answers as
# before. The other initializations that change the base weight, such as PiSSA, do so on GPT-2.
# Found: GPT-2's layers are of the class Conv1D, whose weight is stored transposed. OLoRA decomposes the weight without
# turning it. Where in- and output of a layer have one width, it subtracts the transposed of what the adapter adds. There
# is neither error nor warning: training starts from a broken model. Layers of two widths raise an error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2
"$folder/venv/bin/python" - <<'PYTHON'
import copy

import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2ForSequenceClassification

torch.manual_seed(0)
sizes = {"vocab_size": 100, "initializer_range": 0.2}
gpt2 = GPT2ForSequenceClassification(
    GPT2Config(n_embd=32, n_layer=2, n_head=2, pad_token_id=0, bos_token_id=0, eos_token_id=0, **sizes)
)
bert = BertForSequenceClassification(
    BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, **sizes)
)
texts = torch.randint(1, 100, (8, 12))


def change(model, targets, init):
    """The largest change of a logit by fresh adapters."""
    model = model.eval()
    config = LoraConfig(
        r=4, target_modules=targets, init_lora_weights=init, fan_in_fan_out=model is gpt2, task_type="SEQ_CLS"
    )
    adapted = get_peft_model(copy.deepcopy(model), config).eval()
    with torch.no_grad():
        return (adapted(input_ids=texts).logits - model(input_ids=texts).logits).abs().max().item()


found = {
    (name, init): change(model, targets, init)
    for name, model, targets in (("BERT", bert, ["query"]), ("GPT-2", gpt2, ["attn.c_proj"]))
    for init in ("pissa", "olora")
}
for (name, init), value in found.items():
    print(f"{name}, {init}: a logit changes by up to {value:.1e}")
assert all(value < 1e-4 for key, value in found.items() if key != ("GPT-2", "olora")), "the behavior has changed"
assert found["GPT-2", "olora"] > 0.01, "the behavior has changed"
PYTHON
