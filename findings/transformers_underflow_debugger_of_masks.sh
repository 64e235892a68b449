#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0: `--debug underflow_overflow` (DebugUnderflowOverflow) cannot watch BERT with padded
# texts and its default attention.
#
# Expected: the least and the largest absolute value of what each module reads and returns.
# Found: with "sdpa", layers get a boolean mask as soon as a text is padded, and the debugger takes the absolute value
# of every input, which PyTorch does not have for booleans: NotImplementedError in the first forward pass. With "eager"
# attention, or without padding, it works.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification
from transformers.debug_utils import DebugUnderflowOverflow

ids = torch.randint(5, 90, (2, 8))
padded = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0, 0]])


def watched(attention, mask):
    config = BertConfig(
        vocab_size=99, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        attn_implementation=attention,
    )
    model = BertForSequenceClassification(config)
    DebugUnderflowOverflow(model)
    try:
        return tuple(model(input_ids=ids, attention_mask=mask).logits.shape)
    except NotImplementedError as error:
        return f"NotImplementedError: {error}"


found = {
    (attention, name): watched(attention, mask)
    for attention in ("sdpa", "eager")
    for name, mask in {"padded": padded, "not padded": torch.ones_like(padded)}.items()
}
print(transformers.__version__, *found.items(), sep="\n")
failed = found.pop(("sdpa", "padded"))
assert "Bool" in str(failed) and set(found.values()) == {(2, 2)}, "the behavior has changed"
PYTHON
