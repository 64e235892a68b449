#!/usr/bin/env bash
# transformers 5.23.0: DeBERTa has another loss for several labels than BERT, and a pipeline misreads its outputs.
#
# Expected: without problem_type in the config, float labels of shape (examples, labels) mean several labels a text,
# each with a sigmoid, and float labels of a model with one output mean regression; the config then says so.
# Found: DeBERTa and DeBERTa-v2/v3 take a softmax over the labels: a text without labels has the loss 0, a text with two
# counts twice. The config stays without a problem type, so the pipeline applies a softmax to several labels and a
# sigmoid to regression scores. problem_type=... prevents all of it. (Kept so: huggingface/transformers#15864.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertTokenizer, DebertaConfig, DebertaV2Config
from transformers import pipeline

vocabulary = Path(sys.argv[1], "vocab.txt")
vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
tokenizer = BertTokenizer(str(vocabulary))
sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 6}
text = torch.tensor([[2, 5, 3]])


def classifier(config_class, num_labels):
    model = AutoModelForSequenceClassification.from_config(config_class(num_labels=num_labels, **sizes)).eval()
    model.classifier.weight.data.zero_()
    model.classifier.bias.data.fill_(3.5)
    return model


for config_class in (BertConfig, DebertaConfig, DebertaV2Config):
    several, regression = classifier(config_class, 3), classifier(config_class, 1)
    labels = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0]])
    losses = [round(several(text, labels=row[None]).loss.item(), 3) + 0.0 for row in labels]
    regression(text, labels=torch.tensor([0.5]))
    types = [model.config.problem_type for model in (several, regression)]
    scores = [round(pipeline("text-classification", model=model, tokenizer=tokenizer)("a")[0]["score"], 3)
              for model in (several, regression)]
    print(f"{config_class.model_type}: losses with 0, 1, 2 labels {losses}, {types}, scores of the output 3.5 {scores}")
    if config_class is BertConfig:
        assert losses[0] > 3 and types == ["multi_label_classification", "regression"], "the behavior has changed"
        assert scores == [0.971, 3.5], "the behavior has changed"
    else:
        assert losses == [0, 1.099, 2.197] and types == [None, None], "the behavior has changed"
        assert scores == [0.333, 0.971], "the behavior has changed"
PYTHON
