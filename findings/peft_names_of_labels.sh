#!/usr/bin/env bash
# peft 0.21.2: an adapter keeps neither the names of the labels nor the problem type of its classifier.
#
# Expected: a classifier has the labels toxic, obscene and threat, each on its own. Its adapter, saved and loaded, gives
# the same scores under the same names.
# Found: the folder holds the adapter and the head alone. AutoPeftModelForSequenceClassification needs num_labels, and
# then gives LABEL_0 to LABEL_2. The pipeline applies a softmax in place of the sigmoid, so that no two labels can hold
# at once: toxic 0.95 and obscene 0.88 become LABEL_0 0.73 and LABEL_1 0.27. num_labels, id2label, label2id and
# problem_type must be kept elsewhere and given again.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import torch
from peft import AutoPeftModelForSequenceClassification, LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel, BertTokenizer, pipeline

checkpoint, adapter, vocabulary = (Path(sys.argv[1], name) for name in ("checkpoint", "adapter", "vocab.txt"))
vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
tokenizer = BertTokenizer(str(vocabulary))
sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 6}
BertModel(BertConfig(**sizes)).save_pretrained(checkpoint)  # like a pretrained model: no head
names = ["toxic", "obscene", "threat"]
labels = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
base = AutoModelForSequenceClassification.from_pretrained(
    checkpoint, num_labels=3, problem_type="multi_label_classification", **labels
)
model = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
head = model.base_model.model.classifier.modules_to_save["default"]
head.weight.data.zero_()
head.bias.data = torch.tensor([3.0, 2.0, -3.0])
model.save_pretrained(adapter)
reloaded = AutoPeftModelForSequenceClassification.from_pretrained(adapter, num_labels=3)
found = []
for classifier in (model, reloaded):
    answers = pipeline("text-classification", model=classifier.eval(), tokenizer=tokenizer, top_k=None)(["a"])[0]
    found.append({answer["label"]: round(answer["score"], 2) for answer in answers})
print("files:", sorted(path.name for path in adapter.iterdir()))
print("before saving:", found[0], "after loading:", found[1])
assert found[0] == {"toxic": 0.95, "obscene": 0.88, "threat": 0.05}, "the behavior has changed"
assert found[1] == {"LABEL_0": 0.73, "LABEL_1": 0.27, "LABEL_2": 0.0}, "the behavior has changed"
PYTHON
