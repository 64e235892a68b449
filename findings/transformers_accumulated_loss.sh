#!/usr/bin/env bash
# transformers 5.23.0: gradient accumulation multiplies the loss and the gradients of text classifiers.
#
# Expected: one step on 8 examples is the same as 1 batch of 8 and as 4 accumulated batches of 2.
# Found: Trainer assumes that a model whose forward has **kwargs divides its loss by num_items_in_batch, and does not
# divide by the number of batches itself. Classifiers have **kwargs and return the mean of a batch, so the loss and the
# gradient before clipping are 4 times as large. With label_smoothing_factor both are right, as Trainer computes that
# loss. (huggingface/transformers#47688; trainer.model_accepts_loss_kwargs = False mends it.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, default_data_collator
from transformers import DistilBertConfig, DistilBertForSequenceClassification

data = [{"input_ids": [5, number], "labels": number % 2} for number in range(8)]
bert = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=50)
distilbert = DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=16, vocab_size=50)


def step(model_class, config, batch_size, batches, **options):
    torch.manual_seed(0)
    model = model_class(config)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    options |= {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": batches}
    options |= {"max_steps": 1, "logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    args = TrainingArguments(sys.argv[1], use_cpu=True, **options)
    trainer = Trainer(model, args, train_dataset=data, data_collator=default_data_collator)
    trainer.train()
    return [round(trainer.state.log_history[0][name], 5) for name in ("loss", "grad_norm")]


for model_class, config in ((BertForSequenceClassification, bert), (DistilBertForSequenceClassification, distilbert)):
    one, four = step(model_class, config, 8, 1), step(model_class, config, 2, 4)
    print(f"{model_class.__name__}: loss and gradient norm {one} of 1 batch of 8, {four} of 4 batches of 2")
    assert all(abs(b / a - 4) < 0.05 for a, b in zip(one, four)), "the behavior has changed"
smoothed = [step(BertForSequenceClassification, bert, 8 // n, n, label_smoothing_factor=0.1) for n in (1, 4)]
print("BertForSequenceClassification with label smoothing:", *smoothed)
assert abs(smoothed[1][0] / smoothed[0][0] - 1) < 0.01, "the behavior has changed"
PYTHON
