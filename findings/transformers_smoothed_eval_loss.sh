#!/usr/bin/env bash
# transformers 5.23.0: eval_loss is the smoothed loss if the training smooths labels.
#
# Expected: label_smoothing_factor is a matter of training; eval_loss is the cross entropy, comparable between runs.
# Found: Trainer smooths the labels of evaluation and prediction too. The same weights have a higher eval_loss, the more
# so the surer the model is: a comparison of smoothed and plain training by eval_loss compares two losses, and
# load_best_model_at_end prefers a less certain checkpoint.
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
model = BertForSequenceClassification(BertConfig(vocab_size=50, **sizes))
model.classifier.weight.data.zero_()
data = [{"input_ids": [5, 6], "labels": 1}] * 8
found = {}
for sureness in (0.5, 2.0, 4.0):
    model.classifier.bias.data = torch.tensor([-sureness, sureness])  # every example is right, with this certainty
    for smoothing in (0.0, 0.2):
        args = TrainingArguments(sys.argv[1], label_smoothing_factor=smoothing, use_cpu=True, disable_tqdm=True)
        trainer = Trainer(model, args, eval_dataset=data, data_collator=default_data_collator)
        found[sureness, smoothing] = round(trainer.evaluate()["eval_loss"], 4)
print("eval_loss of the same weights, by certainty and label_smoothing_factor:", found)
assert found[0.5, 0.0] > found[2.0, 0.0] > found[4.0, 0.0], "the behavior has changed"
assert found[2.0, 0.2] > 10 * found[2.0, 0.0] and found[4.0, 0.2] > found[0.5, 0.2], "the behavior has changed"
PYTHON
