#!/usr/bin/env bash
# peft 0.21.2: the loss that an AdaLoRA model returns in evaluation is not the loss of its outputs.
#
# Expected: in evaluation the loss of a classifier is the cross entropy of its logits, so that eval_loss can be compared
# between AdaLoRA, LoRA and plain fine-tuning.
# Found: AdaLoRA adds its regularization of the adapters (orth_reg_weight, 0.5) to every loss, in eval() and with
# no_grad() too. Trainer's eval_loss, and with it load_best_model_at_end, then follows the regularization: here it is
# 2.4 where the cross entropy is 0.69.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 peft==0.21.2
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys

import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, default_data_collator

sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
data = [{"input_ids": [5 + number, 6], "labels": number % 2} for number in range(16)]
configs = {
    "LoRA": LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"]),
    "AdaLoRA": AdaLoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], total_step=100),
}
found = {}
for name, config in configs.items():
    torch.manual_seed(0)
    model = get_peft_model(BertForSequenceClassification(BertConfig(vocab_size=50, **sizes)), config)
    args = TrainingArguments(sys.argv[1], label_names=["labels"], use_cpu=True, disable_tqdm=True)
    output = Trainer(model, args, data_collator=default_data_collator).predict(data)
    entropy = torch.nn.functional.cross_entropy(torch.tensor(output.predictions), torch.tensor(output.label_ids))
    found[name] = (round(output.metrics["test_loss"], 3), round(entropy.item(), 3))
    print(name, "loss in evaluation and cross entropy of the predictions:", found[name])
assert found["LoRA"][0] == found["LoRA"][1], "the behavior has changed"
assert found["AdaLoRA"][0] > found["AdaLoRA"][1] + 0.5, "the behavior has changed"
PYTHON
