#!/usr/bin/env bash
# transformers 5.23.0: Nystromformer with fewer landmarks than tokens fails on padded batches.
#
# Expected: num_landmarks smaller than the length, for which the architecture is made, works with an attention mask.
# Found: the mask has the shape (batch, 1, length, length), but the scores against landmarks are (batch, heads,
# landmarks, length): RuntimeError. Without a mask the model works, and so do the published checkpoints, whose
# num_landmarks equals segment_means_seq_len, which means full attention.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from transformers import NystromformerConfig, NystromformerForSequenceClassification

config = NystromformerConfig(
    vocab_size=99, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, num_landmarks=8,
    segment_means_seq_len=64, max_position_embeddings=128,
)
model = NystromformerForSequenceClassification(config).eval()
texts, mask = torch.randint(5, 90, (2, 64)), torch.ones(2, 64, dtype=torch.long)
mask[1, 40:] = 0
try:
    model(input_ids=texts, attention_mask=mask)
except RuntimeError as error:
    print(error)
else:
    raise SystemExit("the behavior has changed")
PYTHON
