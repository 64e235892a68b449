#!/usr/bin/env bash
# torch 2.13.0: FlopCounterMode counts no operations for scaled_dot_product_attention on a processor.
#
# Expected: the count of the same attention written as two matrix products.
# Found: 0 in the forward pass, and 0 more in the backward pass, for the fused kernel of processors. A model whose
# attention is "sdpa" seems to need fewer operations than the same model with "eager".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

query, key, value = (torch.randn(2, 4, 64, 16, requires_grad=True) for _ in range(3))


def written_out():
    return torch.softmax(query @ key.transpose(-1, -2) / 4, dim=-1) @ value


def counted(attention):
    with FlopCounterMode(display=False) as counter:
        attention().sum().backward()
    return counter.get_total_flops()


def fused():
    return scaled_dot_product_attention(query, key, value)


torch.testing.assert_close(fused(), written_out())
print(f"{torch.__version__}: fused {counted(fused):,} operations, written out {counted(written_out):,}")
expected = 3 * 2 * 2 * (2 * 4 * 64 * 64 * 16)  # two products, forward and backward
assert counted(written_out) == expected and counted(fused) == 0, "the behavior has changed"
PYTHON
