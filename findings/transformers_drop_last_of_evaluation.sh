#!/usr/bin/env bash
# transformers 5.23.0: dataloader_drop_last leaves examples out of evaluation and prediction as well.
#
# Expected: dropping the last incomplete batch is a matter of training; predict() returns a row for each example.
# Found: the data loaders of evaluate() and predict() drop it too. With per_device_eval_batch_size=8 a test set of 15
# examples gets 8 predictions, and its metrics are those of the first 8, without a warning. The score depends on the
# batch size, and predictions cannot be joined with a data set of another length.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys

from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, default_data_collator

sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
model = BertForSequenceClassification(BertConfig(vocab_size=50, **sizes))
model.classifier.weight.data.zero_()
model.classifier.bias.data[1] = 1.0  # every prediction is the label 1
data = [{"input_ids": [5, 6], "labels": int(number < 8)} for number in range(15)]
found = {}
for drop_last in (False, True):
    args = TrainingArguments(sys.argv[1], dataloader_drop_last=drop_last, use_cpu=True, disable_tqdm=True)
    trainer = Trainer(
        model,
        args,
        data_collator=default_data_collator,
        compute_metrics=lambda output: {"accuracy": float((output.predictions.argmax(1) == output.label_ids).mean())},
    )
    output = trainer.predict(data)
    found[drop_last] = (len(output.predictions), round(output.metrics["test_accuracy"], 3))
print("predictions for 15 examples and their accuracy, by dataloader_drop_last:", found)
assert found == {False: (15, 0.533), True: (8, 1.0)}, "the behavior has changed"
PYTHON
