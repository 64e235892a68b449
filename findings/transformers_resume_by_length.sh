#!/usr/bin/env bash
# transformers 5.23.0: a training that is resumed with group_by_length reads examples twice and others not at all.
#
# Expected: train(resume_from_checkpoint=...) goes on where the training stopped, so that the interrupted epoch reads
# each example once, as with random order. For this the batches that were already seen are skipped.
# Found: the order by length comes from the global random numbers, whose state at the start of the epoch is not kept.
# In any epoch after the first, the resumed training makes another order and skips the first batches of it: about
# half of what is left in the epoch was seen before it was interrupted.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

NUM_EXAMPLES, BATCH_SIZE, STOP = 480, 4, 180  # 120 steps an epoch: the second epoch stops at its half
data = [{"input_ids": [number] + [1] * (number * 7 % 11), "labels": number % 2} for number in range(NUM_EXAMPLES)]


class StopInTheMiddle(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = control.should_save = state.global_step == STOP


def examples_of_second_epoch(order):
    read = []

    def collate(examples):
        read.extend(example["input_ids"][0] for example in examples)
        return {
            "input_ids": torch.tensor([example["input_ids"][:1] for example in examples]),
            "labels": torch.tensor([example["labels"] for example in examples]),
        }

    def train(callbacks, checkpoint):
        torch.manual_seed(0)
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
        args = TrainingArguments(
            f"{sys.argv[1]}/{order}",
            train_sampling_strategy=order,
            per_device_train_batch_size=BATCH_SIZE,
            num_train_epochs=2,
            save_strategy="no",
            logging_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        )
        model = BertForSequenceClassification(BertConfig(vocab_size=NUM_EXAMPLES, **sizes))
        trainer = Trainer(model, args, train_dataset=data, data_collator=collate, callbacks=callbacks)
        trainer.train(resume_from_checkpoint=checkpoint)

    train([StopInTheMiddle()], None)
    before = read[NUM_EXAMPLES : STOP * BATCH_SIZE]  # the loader may have fetched one batch more
    read.clear()
    train([], f"{sys.argv[1]}/{order}/checkpoint-{STOP}")
    after = read[-NUM_EXAMPLES // 2 :]
    return len(set(before) | set(after)), len(set(before) & set(after))


found = {order: examples_of_second_epoch(order) for order in ("random", "group_by_length")}
print("of 480 examples the second epoch read at all, and twice:", found)
assert found["random"] == (480, 0), "the behavior has changed"
assert found["group_by_length"][0] < 400 and found["group_by_length"][1] > 80, "the behavior has changed"
PYTHON
