#!/usr/bin/env bash
# sentence-transformers 6.2.0: CrossEncoder presses the scores of a regression model between 0 and 1.
#
# Expected: a model that was trained to give scores from 0 to 5, with problem_type="regression" in its config, gives
# these scores, as the pipeline of transformers does.
# Found: CrossEncoder does not read problem_type. One output gets a sigmoid: 3.5 becomes 0.97. Several labels get none,
# where the pipeline applies a sigmoid to each. activation_fn=torch.nn.Identity() gives the scores.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 sentence-transformers==6.2.0
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys
from pathlib import Path

from sentence_transformers import CrossEncoder
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer, pipeline

checkpoint, vocabulary = Path(sys.argv[1], "checkpoint"), Path(sys.argv[1], "vocab.txt")
vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
BertTokenizer(str(vocabulary)).save_pretrained(checkpoint)
sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 6}
found = {}
for problem_type, num_labels in (("regression", 1), ("multi_label_classification", 3)):
    model = BertForSequenceClassification(BertConfig(num_labels=num_labels, problem_type=problem_type, **sizes))
    model.classifier.weight.data.zero_()
    model.classifier.bias.data.fill_(3.5)
    model.save_pretrained(checkpoint)
    score = pipeline("text-classification", model=str(checkpoint))({"text": "a", "text_pair": "a"})["score"]
    other_score = CrossEncoder(str(checkpoint), device="cpu").predict([("a", "a")]).flat[0]
    found[problem_type] = (round(score, 2), round(float(other_score), 2))
print("score of the output 3.5 by the pipeline and by CrossEncoder:", found)
assert found == {"regression": (3.5, 0.97), "multi_label_classification": (0.97, 3.5)}, "the behavior has changed"
PYTHON
