#!/usr/bin/env bash
# textbrewer 0.2.1.post1: mmd_loss with a mask depends on how far the batch is padded.
#
# Expected: inputs_mask leaves the padding out of a loss on hidden states: the value stays the same if a batch is padded
# further, and a mask of ones changes nothing. So it is for hid_mse_loss and cos_loss.
# Found: without a mask the similarities are divided by the hidden size, with a mask by the length of the batch with its
# padding. Padded from 4 to 8 tokens, the same texts have a loss of 0.41 and not 1.64, so short and long batches count
# differently. A mask of ones, too, changes the loss, from 0.398 to 1.592.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 textbrewer==0.2.1.post1 tensorboard==2.21.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from textbrewer.losses import cos_loss, hid_mse_loss, mmd_loss

torch.manual_seed(0)
student, teacher = torch.randn(2, 4, 8), torch.randn(2, 4, 8)  # 2 texts of 4 tokens, hidden size 8
mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


def padded(tensor):
    return torch.cat([tensor, torch.zeros_like(tensor)], dim=1)


states = [student] * 2, [teacher] * 2
found = {"all tokens": (mmd_loss(*states), mmd_loss(*states, torch.ones(2, 4)))}
for name, loss in {"hid_mse_loss": hid_mse_loss, "cos_loss": cos_loss}.items():
    found[name] = loss(student, teacher, mask), loss(padded(student), padded(teacher), padded(mask))
long_states = [padded(student)] * 2, [padded(teacher)] * 2
found["mmd_loss"] = mmd_loss(*states, mask), mmd_loss(*long_states, padded(mask))
found = {name: [round(loss.item(), 4) for loss in losses] for name, losses in found.items()}
of_all_tokens = found.pop("all tokens")
print("mmd_loss of all tokens without a mask and with a mask of ones:", of_all_tokens)
print("with a mask, losses of batches of 4 and of 8 tokens:", found)
assert all(found[name][0] == found[name][1] for name in ("hid_mse_loss", "cos_loss")), "the behavior has changed"
assert abs(found["mmd_loss"][0] / found["mmd_loss"][1] - 4) < 0.01, "the behavior has changed"
assert of_all_tokens[1] > 2 * of_all_tokens[0], "the behavior has changed"
PYTHON
