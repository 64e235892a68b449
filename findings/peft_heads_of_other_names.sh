#!/usr/bin/env bash
# peft 0.21.2: task_type="SEQ_CLS" trains and saves no head that is not called classifier or score, without a warning.
#
# Expected: a LoRA classifier has a trained head, and the saved adapter gives the same outputs on the same base.
# Found: BART (classification_head), XLNet (logits_proj) and FlauBERT (sequence_summary) keep a random, frozen head.
# The adapter learns to fit it, so scores look fair; loaded on the checkpoint again, the adapter meets another random
# head. modules_to_save=["classification_head"] mends it. DeBERTa's new pooler, too, is left out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import BartConfig, BartForSequenceClassification, BartModel

sizes = {"d_model": 16, "vocab_size": 20, "eos_token_id": 2, "forced_eos_token_id": None}
for part in ("encoder", "decoder"):
    sizes |= {f"{part}_layers": 1, f"{part}_ffn_dim": 16, f"{part}_attention_heads": 2}
checkpoint, adapter = f"{sys.argv[1]}/checkpoint", f"{sys.argv[1]}/adapter"
BartModel(BartConfig(**sizes)).save_pretrained(checkpoint)  # like a pretrained model: no head
base = BartForSequenceClassification.from_pretrained(checkpoint)
model = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"], init_lora_weights=False)).eval()
trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad and "lora" not in name]
model.save_pretrained(adapter)
reloaded = PeftModel.from_pretrained(BartForSequenceClassification.from_pretrained(checkpoint), adapter).eval()
tokens = torch.tensor([[5, 6, 2]])
with torch.no_grad():
    difference = (model(input_ids=tokens).logits - reloaded(input_ids=tokens).logits).abs().max().item()
print("trained parameters of the head:", trained)
print(f"difference of the logits after saving and loading: {difference:.4f}")
assert not trained and difference > 1e-4, "the behavior has changed"
PYTHON
