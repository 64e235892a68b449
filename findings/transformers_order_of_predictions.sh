#!/usr/bin/env bash
# transformers 5.23.0: Trainer.predict returns predictions in another order than the data with group_by_length.
#
# Expected: row i of the predictions belongs to example i of the test set; train_sampling_strategy is about training.
# Found: train_sampling_strategy="group_by_length" groups the examples of evaluation and prediction by length too, and
# the predictions stay in that order. label_ids have the same order, so that scores are right; predictions that are
# joined with the texts, or averaged with another model's, belong to other texts. (huggingface/transformers#33514)
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
model = BertForSequenceClassification(BertConfig(vocab_size=50, num_labels=8, **sizes))
lengths = [3, 9, 5, 12, 4, 7, 10, 6]
data = [{"input_ids": [5] * length, "labels": number} for number, length in enumerate(lengths)]
found = {}
for strategy in ("random", "group_by_length"):
    options = {"train_sampling_strategy": strategy, "per_device_eval_batch_size": 1}
    args = TrainingArguments(sys.argv[1], use_cpu=True, disable_tqdm=True, **options)
    trainer = Trainer(model, args, data_collator=default_data_collator)
    predictions = torch.tensor(trainer.predict(data).predictions)
    with torch.no_grad():
        expected = torch.cat([model(torch.tensor([example["input_ids"]])).logits for example in data])
    found[strategy] = torch.cdist(predictions, expected).argmin(1).tolist()
print("the examples that the rows of the predictions belong to:", found)
assert found["random"] == list(range(8)), "the behavior has changed"
assert sorted(found["group_by_length"]) == list(range(8)) != found["group_by_length"], "the behavior has changed"
PYTHON
