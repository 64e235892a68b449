#!/usr/bin/env bash
# transformers 5.23.0: DeBERTa (v1) raises under autocast to bfloat16, where DeBERTa v2 does not.
#
# Expected: a forward pass within torch.autocast(dtype=bfloat16), as Trainer's bf16 runs it, works for every encoder.
# Found: attention fills masked scores, which autocast has made bfloat16, with the smallest float32 number of the query's
# dtype before it: RuntimeError "value cannot be converted to type c10::BFloat16 without overflow", in training and
# in evaluation, whatever the texts. DeBERTa v2 and v3 run.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from transformers import AutoModelForSequenceClassification, DebertaConfig, DebertaV2Config

sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
found = {}
for config in (DebertaConfig(vocab_size=50, **sizes), DebertaV2Config(vocab_size=50, **sizes)):
    model = AutoModelForSequenceClassification.from_config(config).eval()
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            found[config.model_type] = str(model(torch.arange(1, 9)[None]).logits.dtype)
    except RuntimeError as error:
        found[config.model_type] = str(error)
    print(f"{config.model_type}: {found[config.model_type]}")
expected = {
    "deberta": "value cannot be converted to type c10::BFloat16 without overflow",
    "deberta-v2": "torch.bfloat16",
}
assert found == expected, "the behavior has changed"
PYTHON
