#!/usr/bin/env bash
# torchmetrics 1.9.0: a metric of logits depends on the batch size.
#
# Expected: a metric that takes logits gives the same value for the same examples in batches of any size.
# Found: the metrics of two classes and of several labels take a batch for probabilities if all its values lie between 0
# and 1. The logit 0.3 in a batch of its own then counts as the probability 0.3, which is negative, not as 0.57. Of 7
# right answers, accuracy is 1 in one batch, 0.86 with a last batch of one, and 0.43 with a batch size of 1. sigmoid()
# before update() prevents it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchmetrics==1.9.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torchmetrics.classification import BinaryAccuracy, MultilabelF1Score

logits = torch.tensor([0.3, -0.5, 0.4, 2.0, 0.2, -1.0, 0.1])
targets = (logits > 0).long()  # every answer is right
found = {}
for batch_size in (7, 6, 1):
    accuracy, f1 = BinaryAccuracy(), MultilabelF1Score(num_labels=2)
    for batch, target in zip(logits.split(batch_size), targets.split(batch_size)):
        accuracy.update(batch, target)
        f1.update(torch.stack([batch, batch], dim=1), torch.stack([target, target], dim=1))
    found[batch_size] = (round(accuracy.compute().item(), 3), round(f1.compute().item(), 3))
print("accuracy of two classes and F1 of two labels, by batch size:", found)
assert found == {7: (1, 1), 6: (0.857, 0.889), 1: (0.429, 0.333)}, "the behavior has changed"
PYTHON
