#!/usr/bin/env bash
# transformers 5.23.0: bf16_full_eval rounds the weights of the model for good, and training goes on with them.
#
# Expected: "full bfloat16 evaluation instead of 32-bit" is a matter of the evaluation, also where a run scores the
# model before training to have a baseline.
# Found: evaluate() and predict() outside of train() convert the model itself, and nothing converts it back. Its weights
# keep 3 digits, train() then runs in bfloat16 without master weights, and save_model writes bfloat16. The evaluations
# inside of train() leave the model as it is.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, default_data_collator

sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
data = [{"input_ids": [5, 6], "labels": 1}] * 8
options = {"max_steps": 2, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True}
options |= {"eval_strategy": "steps", "eval_steps": 1, "bf16_full_eval": True}
types = {}
for baseline in (False, True):
    model = BertForSequenceClassification(BertConfig(vocab_size=50, **sizes))
    args = TrainingArguments(sys.argv[1], **options)
    trainer = Trainer(model, args, train_dataset=data, eval_dataset=data, data_collator=default_data_collator)
    if baseline:
        trainer.evaluate()
    trainer.train()
    types["evaluated before training" if baseline else "trained at once"] = model.classifier.weight.dtype
print("type of the weights after training:", types)
assert types["trained at once"] == torch.float32, "the behavior has changed"
assert types["evaluated before training"] == torch.bfloat16, "the behavior has changed"
PYTHON
