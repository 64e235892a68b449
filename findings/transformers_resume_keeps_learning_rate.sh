#!/usr/bin/env bash
# transformers 5.23.0: a resumed training passes over a new learning rate and weight decay, without a word.
#
# Expected: TrainingArguments(learning_rate=1e-5) holds for what is trained from now on, as other new arguments do, such
# as num_train_epochs; or a warning tells that it does not, as there is one for another logging_steps.
# Found: the states of the optimizer and of the scheduler bring back the values of the first training. The arguments,
# which are saved and put into model cards, say 1e-5, and the steps are made with 1e-3. Warmup steps do change.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0
"$folder/venv/bin/python" -W ignore - "$folder" 2>"$folder/warnings" <<'PYTHON'
import sys

from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, default_data_collator

sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
data = [{"input_ids": [5, 6], "labels": number % 2} for number in range(16)]


def train(checkpoint=None, **arguments):
    args = TrainingArguments(
        sys.argv[1],
        per_device_train_batch_size=4,
        save_steps=4,
        lr_scheduler_type="constant",
        use_cpu=True,
        disable_tqdm=True,
        **arguments,
    )
    model = BertForSequenceClassification(BertConfig(vocab_size=50, **sizes))
    trainer = Trainer(model, args, train_dataset=data, data_collator=default_data_collator)
    trainer.train(resume_from_checkpoint=checkpoint)
    group = trainer.optimizer.param_groups[0]
    return group["lr"], group["weight_decay"]


first = train(num_train_epochs=1, learning_rate=1e-3, weight_decay=0.1, logging_steps=2)
second = train(f"{sys.argv[1]}/checkpoint-4", num_train_epochs=2, learning_rate=1e-5, weight_decay=0.0, logging_steps=1)
print("learning rate and weight decay of the first training and of the resumed one:", first, second)
assert first == second == (1e-3, 0.1), "the behavior has changed"
PYTHON
grep --ignore-case "logging_steps: 1" "$folder/warnings"
! grep --ignore-case "learning_rate" "$folder/warnings" || { echo "the behavior has changed"; exit 1; }
