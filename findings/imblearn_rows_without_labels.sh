#!/usr/bin/env bash
# imbalanced-learn 0.14.2: texts without a label get the first label.
#
# Expected: in a matrix with one column a label, a row of zeros, none of the labels, stays a row of zeros or is refused.
# A row with two labels is refused.
# Found: rows of zeros are taken for the first class, and come back as 1, 0, 0. For toxic comments, where most rows are
# zeros, the resampled data call every harmless text "toxic". X is right and no warning is given.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet imbalanced-learn==0.14.2 scikit-learn==1.9.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from imblearn.over_sampling import RandomOverSampler
from imblearn.under_sampling import RandomUnderSampler

texts = np.arange(8)[:, None]
labels = np.array([[0, 0, 0]] * 4 + [[1, 0, 0]] + [[0, 1, 0]] * 2 + [[0, 0, 1]])  # texts 0 to 3 have no label
for sampler in (RandomOverSampler(random_state=0), RandomUnderSampler(random_state=0)):
    sampled_texts, sampled_labels = sampler.fit_resample(texts, labels)
    of_unlabeled = sampled_labels[sampled_texts[:, 0] < 4]
    print(type(sampler).__name__, "gives the texts without a label:", np.unique(of_unlabeled, axis=0).tolist())
    assert len(of_unlabeled) and (of_unlabeled == [1, 0, 0]).all(), "the behavior has changed"
PYTHON
