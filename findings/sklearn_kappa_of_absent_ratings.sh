#!/usr/bin/env bash
# scikit-learn 1.9.1: the weighted kappa of ratings has another scale where a rating does not occur.
#
# Expected: with weights="quadratic" a prediction of 2 stars for 5 counts as 3 stars of difference.
# Found: the weights come from the positions in the sorted labels that occur. If nobody gave or got 3 or 4 stars, 2 and
# 5 are neighbors, and kappa is too high. A test set, a fold or a bootstrap sample may lack a rating by chance. All
# ratings must be named: labels=[1, 2, 3, 4, 5].
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-learn==1.9.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
from sklearn.metrics import cohen_kappa_score

truth, predictions = [1, 2, 5, 1, 2, 5], [1, 2, 2, 1, 2, 5]
found = cohen_kappa_score(truth, predictions, weights="quadratic")
named = cohen_kappa_score(truth, predictions, weights="quadratic", labels=[1, 2, 3, 4, 5])
renamed = cohen_kappa_score([1, 2, 3, 1, 2, 3], [1, 2, 2, 1, 2, 3], weights="quadratic")
print(f"kappa: {found:.3f}, with all ratings named: {named:.3f}, with 3 stars instead of 5: {renamed:.3f}")
assert found == renamed and found - named > 0.1, "the behavior has changed"
PYTHON
