#!/usr/bin/env bash
# transformers 5.23.0: after its end the cosine schedule raises the learning rate again, up to the first one.
#
# Expected: "decreases following the values of the cosine function [...] to 0". Where a training has more steps than the
# schedule was told, the rate stays at 0, as with the linear and polynomial schedules and with cosine_with_restarts.
# Found: cosine and cosine_with_min_lr go on along the cosine: after twice the steps the rate is back at its largest. A
# loop that counts its steps wrongly, by an epoch more or by several processes, ends with large steps in place of none.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from transformers import get_scheduler

found = {}
for name in ("linear", "polynomial", "cosine_with_restarts", "cosine", "cosine_with_min_lr"):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    options = {"min_lr": 0.1} if name == "cosine_with_min_lr" else {}
    scheduler = get_scheduler(name, optimizer, 0, num_training_steps=10, scheduler_specific_kwargs=options)
    rates = []
    for _ in range(20):
        optimizer.step()
        scheduler.step()
        rates.append(round(optimizer.param_groups[0]["lr"], 2))
    found[name] = (rates[9], rates[14], rates[19])
print("rates after 10, 15 and 20 steps of 10:", found)
for name in ("linear", "polynomial", "cosine_with_restarts"):
    assert found[name] == (0, 0, 0), "the behavior has changed"
assert found["cosine"] == (0, 0.5, 1) and found["cosine_with_min_lr"] == (0.1, 0.55, 1), "the behavior has changed"
PYTHON
