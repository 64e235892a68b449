#!/usr/bin/env bash
# torch 2.13.0: activation checkpointing computes a layer again without the TorchFunctionMode of its forward pass.
#
# Expected: within a mode that replaces a function, gradients are those of the replaced function, with checkpointing as
# without it: both backward passes run inside the `with` block.
# Found: the forward pass of checkpoint() sees the mode, the recomputation in backward() does not. The loss is the same,
# the gradient is that of the function that was not replaced (reentrant), or a mixture of both (not reentrant). Nothing
# is raised. A replaced attribute of the module, such as torch.nn.functional.relu, is seen by both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PYTHON'
from contextlib import contextmanager

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint


class Softplus(TorchFunctionMode):
    """Has relu be softplus."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is functional.relu:
            return functional.softplus(*args)
        return func(*args, **(kwargs or {}))


@contextmanager
def replaced():
    relu, functional.relu = functional.relu, functional.softplus
    yield
    functional.relu = relu


def layer(x):
    return functional.relu(x).square().sum()


def gradient(within, run):
    x = torch.tensor([-1.0, 2.0], requires_grad=True)
    with within():
        loss = run(x)
        loss.backward()
    return round(loss.item(), 3), [round(value, 3) for value in x.grad.tolist()]


runs = {
    "not checkpointed": layer,
    "checkpointed": lambda x: checkpoint(layer, x, use_reentrant=False),
    "checkpointed, reentrant": lambda x: checkpoint(layer, x, use_reentrant=True),
}
found = {}
for within in (Softplus, replaced):
    for name, run in runs.items():
        found[within.__name__, name] = gradient(within, run)
        print(f"{within.__name__}, {name}: loss and gradient {found[within.__name__, name]}")
right = found["Softplus", "not checkpointed"]
for name in list(runs)[1:]:
    assert found["replaced", name] == right, "the behavior has changed"
    loss, values = found["Softplus", name]
    assert loss == right[0] and values != right[1], "the behavior has changed"
PYTHON
