#!/usr/bin/env bash
# transformers 5.23.0: a head mask has no effect, and a misspelled argument has none either, without an error.
#
# Expected: head_mask switches heads of the attention off, as in transformers 4, where the importance of a head is
# measured with it before heads are pruned; or a TypeError, as for any argument that a function does not have.
# Found: head_mask was removed (huggingface/transformers#41076), but forward of a text classifier takes **kwargs and
# passes over all names that it does not know. With every head masked the logits are the same, so that all heads seem
# to be of no use. With attention_masks=..., a slip, the padding is read as text.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, DistilBertConfig, GPT2Config

bert = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
distilbert = DistilBertConfig(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=16)
gpt2 = GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, pad_token_id=0, bos_token_id=1, eos_token_id=1)
ids = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
mask = (ids > 0).long()
for config in (bert, distilbert, gpt2):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) / 2)
        logits = model(ids).logits
        all_masked = model(ids, attention_mask=mask, head_mask=torch.zeros(2, 2)).logits
        none_masked = model(ids, attention_mask=mask).logits
        misspelled = model(ids, attention_masks=mask).logits
    found = [(all_masked - none_masked).abs().max().item(), (misspelled - logits).abs().max().item()]
    right = (none_masked - logits).abs().max().item()
    changes = {"head_mask": found[0], "attention_masks": found[1], "attention_mask": right}
    print(config.model_type, "change of the logits:", {name: round(value, 4) for name, value in changes.items()})
    assert max(found) < 1e-4 and (right > 0.01 or config is gpt2), "the behavior has changed"
PYTHON
