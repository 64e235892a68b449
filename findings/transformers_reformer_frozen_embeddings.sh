#!/usr/bin/env bash
# transformers 5.23.0: a Reformer with frozen embeddings trains none of its layers, without an error.
#
# Expected: parameters that require a gradient get one.
# Found: the reversible layers compute their gradients in an autograd function of their own, which runs only if its input
# requires a gradient. With frozen embeddings (LoRA, adapters, gradual unfreezing) the head alone is trained. A call of
# model.enable_input_require_grads() before the training mends it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from transformers import ReformerConfig, ReformerForSequenceClassification

config = ReformerConfig(
    vocab_size=99, hidden_size=32, num_attention_heads=4, attention_head_size=8, attn_layers=["local", "local"],
    axial_pos_embds=False, feed_forward_size=64, local_attn_chunk_length=8, max_position_embeddings=64, pad_token_id=0,
)
model = ReformerForSequenceClassification(config).train()
model.reformer.embeddings.requires_grad_(False)
model(input_ids=torch.randint(5, 90, (2, 48)), labels=torch.tensor([0, 1])).loss.backward()
layers = [parameter.grad is not None for parameter in model.reformer.encoder.parameters() if parameter.requires_grad]
head = [parameter.grad is not None for parameter in model.classifier.parameters()]
print(f"with a gradient: {sum(layers)} of {len(layers)} parameters of the layers, {sum(head)} of {len(head)} of the head")
assert all(head) and not any(layers[: len(layers) - 2]), "the behavior has changed"
PYTHON
