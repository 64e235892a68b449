#!/usr/bin/env bash
# torch 2.13.0: ReduceLROnPlateau takes a standstill for an improvement if the metric is negative.
#
# Expected: the learning rate falls after `patience` epochs in which the metric did not get better, whatever its sign.
# Found: "better" is measured against best * (1 - 0.0001), or 1 + 0.0001 for mode="max", which for a negative best lies
# on the wrong side: the same value again, and even a slightly worse one, counts as a new best. With a loss of cosine
# similarity, a log likelihood or a negative log loss the rate is never reduced. threshold_mode="abs" mends it.
# (pytorch/pytorch#47513)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch


def rate(values, **arguments):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=2, **arguments)
    for value in values:
        scheduler.step(value)
    return optimizer.param_groups[0]["lr"]


worse = [-0.9 + 0.00001 * epoch for epoch in range(20)]  # a loss that rises
found = {
    "loss 0.9": rate([0.9] * 20),
    "loss -0.9": rate([-0.9] * 20),
    "loss that rises from -0.9": rate(worse),
    "score -0.9": rate([-0.9] * 20, mode="max"),
    "loss -0.9, threshold_mode=abs": rate([-0.9] * 20, threshold_mode="abs"),
}
print("learning rate after 20 epochs without progress:", found)
assert found["loss 0.9"] < 0.001 and found["loss -0.9, threshold_mode=abs"] < 0.001, "the behavior has changed"
for name in ("loss -0.9", "score -0.9", "loss that rises from -0.9"):
    assert found[name] == 1.0, "the behavior has changed"
PYTHON
