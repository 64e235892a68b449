#!/usr/bin/env bash
# transformers 5.23.0: with bf16, Trainer trains and predicts a regression with 8 significant bits.
#
# Expected: mixed precision keeps the predictions of a regression in float32, as it keeps the loss, or a warning says
# that they are rounded. The saved model is in float32 and answers as predict() did.
# Found: the head runs under autocast. For targets around 2003, where numbers in bfloat16 are 8 apart, predict() gives
# 2000 for each of 64 texts, and in float32 64 values for the same weights. Loss, gradients and metrics come from the
# rounded values; a correlation is undefined.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, default_data_collator

sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
config = BertConfig(vocab_size=50, num_labels=1, problem_type="regression", initializer_range=0.2, **sizes)
found = {}
for bf16 in (False, True):
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    model.classifier.bias.data += 2003
    rows = [{"input_ids": row, "labels": 2003.0} for row in torch.randint(1, 50, (64, 8)).tolist()]
    args = TrainingArguments(sys.argv[1], bf16=bf16, use_cpu=True, report_to="none", disable_tqdm=True)
    found[bf16] = np.unique(Trainer(model, args, data_collator=default_data_collator).predict(rows).predictions)
    print("bf16:" if bf16 else "float32:", len(found[bf16]), "values, such as", found[bf16][:3])
assert len(found[False]) == 64 and found[True].tolist() == [2000.0], "the behavior has changed"
PYTHON
