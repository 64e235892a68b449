#!/usr/bin/env bash
# transformers 5.23.0: models with linear attention return fewer attentions than layers, and nothing says whose.
#
# Expected: as `hidden_states`, `attentions` has an entry for each layer, so that attentions[k] is that of layer k + 1;
# a layer without attention weights has an entry of its own, such as None.
# Found: Qwen3.5, Qwen3-Next, Jamba, Zamba and others leave such layers out. With linear and full attention in turn,
# attentions[0] is that of layer 2. Code that compares layer k of a student and a teacher by attentions[k - 1] gets the
# weights of another layer, without an error wherever the index exists.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from transformers import AutoModelForSequenceClassification, Qwen3_5TextConfig

torch.manual_seed(0)
config = Qwen3_5TextConfig(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=8,
    linear_num_value_heads=4,
    linear_num_key_heads=4,
    linear_key_head_dim=8,
    linear_value_head_dim=8,
    layer_types=["linear_attention", "full_attention"] * 2,
    pad_token_id=0,
    attn_implementation="eager",
)
model = AutoModelForSequenceClassification.from_config(config).eval()
weights_of = {}


def keep(number):
    return lambda _, args, output: weights_of.update({number: output[1]})


for number, layer in enumerate(model.model.layers, start=1):
    if hasattr(layer, "self_attn"):
        layer.self_attn.register_forward_hook(keep(number))
with torch.no_grad():
    outputs = model(torch.arange(1, 9)[None], output_attentions=True, output_hidden_states=True)
of_layers = [[n for n, weights in weights_of.items() if torch.equal(weights, one)] for one in outputs.attentions]
print(f"layers: {len(model.model.layers)}, hidden states: {len(outputs.hidden_states)} with the embeddings")
print("attentions are those of the layers", of_layers)
assert len(outputs.hidden_states) == 5 and of_layers == [[2], [4]], "the behavior has changed"
PYTHON
