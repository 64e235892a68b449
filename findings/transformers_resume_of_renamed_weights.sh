#!/usr/bin/env bash
# transformers 5.23.0: Trainer resumes a Gemma 3 classifier without the weights of the checkpoint.
#
# Expected: Trainer.train(resume_from_checkpoint=...) continues with the weights that the checkpoint holds, or fails.
# Found: save_pretrained writes the weights under older names (language_model.model...), from_pretrained maps them back,
# but Trainer reads the file itself with strict=False. It logs a warning about missing keys and trains on from the
# weights that the model happened to have. load_best_model_at_end is affected too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 datasets==5.2.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import tempfile

import torch
from datasets import Dataset
from transformers import Gemma3Config, Gemma3ForSequenceClassification, Trainer, TrainingArguments

text = {"vocab_size": 99, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8}
text |= {"num_key_value_heads": 1, "intermediate_size": 16}
vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
config = Gemma3Config(text_config=text, vision_config=vision | {"image_size": 28, "patch_size": 14}, pad_token_id=0)
data = Dataset.from_list([{"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1], "labels": 1}] * 8)


def trainer(folder, steps):
    torch.manual_seed(0)
    args = TrainingArguments(folder, max_steps=steps, save_steps=2, learning_rate=0.0, use_cpu=True, report_to="none")
    return Trainer(Gemma3ForSequenceClassification(config), args, train_dataset=data)


with tempfile.TemporaryDirectory() as folder:
    first = trainer(folder, 2)
    first.model.model.language_model.embed_tokens.weight.data.fill_(0.25)
    first.train()
    second = trainer(folder, 4)
    second.train(resume_from_checkpoint=f"{folder}/checkpoint-2")
resumed = second.model.model.language_model.embed_tokens.weight
print("weights of the checkpoint: 0.25, after resuming with learning rate 0:", resumed[1, :3].tolist())
assert not torch.allclose(resumed[1:], torch.tensor(0.25)), "the behavior has changed"
PYTHON
