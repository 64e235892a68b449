#!/usr/bin/env bash
# torchdistill 1.1.5: KDLoss leaves out the square of the temperature as soon as the labels do not count.
#
# Expected: alpha * CE + (1 - alpha) * temperature² * KL, as the documentation of the class says, for alpha=0 too.
# Found: with alpha=0, and for any alpha without targets, the loss is the plain KL. At temperature 4 it is a sixteenth
# of the loss with alpha=1e-9, so a study of alpha also changes the size of all steps, and learning rates do not carry
# over from labeled to unlabeled texts.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchdistill==1.1.5
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torchdistill.losses.mid_level import KDLoss

torch.manual_seed(0)
student, teacher, targets = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])


def loss(alpha, targets=targets):
    module = KDLoss("head", "output", "head", "output", temperature=4.0, alpha=alpha)
    return module({"head": {"output": student}}, {"head": {"output": teacher}}, targets).item()


found = {"alpha 1e-9": loss(1e-9), "alpha 0": loss(0), "no targets": loss(0.5, None)}
print(found)
assert abs(found["alpha 1e-9"] / found["alpha 0"] - 16) < 0.01, "the behavior has changed"
assert found["no targets"] == found["alpha 0"], "the behavior has changed"
PYTHON
