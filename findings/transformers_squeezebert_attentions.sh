#!/usr/bin/env bash
# transformers 5.23.0: SqueezeBERT's attentions are scores before the softmax, with the mask added.
#
# Expected: output_attentions=True returns "attention weights after the attention softmax", as the documentation of the
# outputs says and as BERT does: not negative, each row with the sum 1.
# Found: SqueezeBERT returns the scores that go into the softmax. Padding has -3.4e38, rows add up to -inf, and a loss
# or a picture that takes them for probabilities has values of any size.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, SqueezeBertConfig

ids, mask = torch.arange(1, 9)[None], torch.tensor([[1, 1, 1, 1, 1, 1, 0, 0]])
sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
found = {}
for config in (BertConfig(vocab_size=50, **sizes), SqueezeBertConfig(vocab_size=50, embedding_size=32, **sizes)):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        weights = model(ids, attention_mask=mask, output_attentions=True).attentions[0]
    found[config.model_type] = weights.min().item(), weights.sum(dim=-1).min().item()
    print(f"{config.model_type}: smallest weight {weights.min():.3g}, smallest sum of a row {weights.sum(-1).min():.3g}")
assert found["bert"][0] >= 0 and abs(found["bert"][1] - 1) < 1e-5
assert found["squeezebert"] == (torch.finfo(torch.float32).min, -float("inf")), "the behavior has changed"
PYTHON
