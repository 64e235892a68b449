#!/usr/bin/env bash
# torch 2.13.0: on the CPU, autocast computes a distillation loss in bfloat16, though cross_entropy is in float32.
#
# Expected: as on CUDA, where softmax and log_softmax under autocast give float32, so does the divergence made of them.
# Found: cross_entropy and kl_div are in float32, but kl_div reads probabilities that log_softmax and softmax have
# rounded to bfloat16. For a student close to its teacher the error is many times the loss, which can be negative:
# training seems to stop getting better. logits.float() before the loss mends it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import torch.nn.functional as F

torch.manual_seed(0)
teacher = 3 * torch.randn(256, 3)
student = teacher + 0.01 * torch.randn(256, 3)
identity = torch.eye(3)


def divergence(student_logits, teacher_logits):
    return F.kl_div(F.log_softmax(student_logits, -1), F.softmax(teacher_logits, -1), reduction="batchmean").item()


with torch.autocast("cpu", dtype=torch.bfloat16):
    student, teacher = F.linear(student, identity), F.linear(teacher, identity)  # the head of a model
    dtypes = {"log_softmax": F.log_softmax(student, -1).dtype, "softmax": F.softmax(student, -1).dtype}
    dtypes["cross_entropy"] = F.cross_entropy(student, teacher.argmax(-1)).dtype
    losses = {"autocast": divergence(student, teacher), "float": divergence(student.float(), teacher.float())}
print(dtypes)
print(losses)
assert dtypes["cross_entropy"] == torch.float32 and dtypes["log_softmax"] == torch.bfloat16, "the behavior has changed"
assert abs(losses["autocast"] - losses["float"]) > 5 * losses["float"] > 0, "the behavior has changed"
PYTHON
