#!/usr/bin/env bash
# scikit-learn 1.9.1: the log loss of a model that is sometimes surely wrong depends on the type of the array.
#
# Expected: the same probabilities have the same log loss in float16, float32 and float64, up to their rounding.
# Found: probabilities are clipped to the smallest relative step of the type, 0.001 for float16, although float16 holds
# 0.00001 well. An answer with this probability costs 6.9 in place of 11.5. So predictions that are saved or computed in
# half precision look better calibrated, and a model whose softmax gives 0 has a loss of 8 in float32 and 18 in float64.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-learn==1.9.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from sklearn.metrics import log_loss

found = {}
for wrong in (1e-5, 0.0):
    probabilities = np.array([[1 - wrong, wrong], [0.5, 0.5]])  # the first text has the label 1
    losses = [log_loss([1, 0], probabilities.astype(kind)) for kind in (np.float16, np.float32, np.float64)]
    found[wrong] = [round(float(loss), 1) for loss in losses]
print("0.00001 in float16:", np.float16(1e-5))
print("log loss in float16, float32 and float64, by the probability of the right label:", found)
assert found == {1e-5: [3.8, 6.1, 6.1], 0.0: [3.8, 8.3, 18.4]}, "the behavior has changed"
PYTHON
