#!/usr/bin/env bash
# torchao 0.18.0, transformers 5.23.0: of a GPT-2 classifier, quantize_ quantizes the head alone.
#
# Expected: quantize_(model, Int8WeightOnlyConfig()) makes the weights of the layers int8, about a quarter of the size,
# or says that it found nothing to quantize.
# Found: it looks for torch.nn.Linear. The layers of GPT-2 are made of transformers' Conv1D and stay in float32; the one
# Linear, score.weight, is the small head. Nothing says so, and the model works at nearly its old size. In BERT all 8
# linear maps become int8.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchao==0.18.0 transformers==5.23.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from torchao.quantization import Int8WeightOnlyConfig, quantize_
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2ForSequenceClassification

bert = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}
gpt2 = {"n_embd": 64, "n_layer": 1, "n_head": 2, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 1}
found = {}
for model in (BertForSequenceClassification(BertConfig(**bert)), GPT2ForSequenceClassification(GPT2Config(**gpt2))):
    quantize_(model, Int8WeightOnlyConfig())
    weights = model.named_parameters()
    found[type(model).__name__] = [name for name, weight in weights if type(weight).__name__ == "Int8Tensor"]
print("quantized weights:", found)
assert len(found["BertForSequenceClassification"]) == 8, "the behavior has changed"
assert found["GPT2ForSequenceClassification"] == ["score.weight"], "the behavior has changed"
PYTHON
