#!/usr/bin/env bash
# fairlearn 0.15.0: a perfect classifier is as unfair as can be if a group has no positive example.
#
# Expected: a rate that cannot be computed for a group, such as the true positive rate without positives, is left out of
# the difference between the groups, or makes it undefined. A classifier without errors has no difference.
# Found: the rate of such a group is 0, without a warning. The equalized odds difference of a classifier without errors
# is then 1, its largest value, and so is the equal opportunity difference. Small groups often lack positives.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet fairlearn==0.15.0 scikit-learn==1.9.1 numpy==2.4.6
"$folder/venv/bin/python" -W error::UserWarning - <<'PYTHON'
import numpy as np
from fairlearn.metrics import MetricFrame, equal_opportunity_difference, equalized_odds_difference, true_positive_rate

labels = np.array([0, 1, 0, 1, 0, 0])
groups = np.array(["a", "a", "b", "b", "c", "c"])  # no positive example in group c
data = {"y_true": labels, "y_pred": labels, "sensitive_features": groups}
rates = MetricFrame(metrics=true_positive_rate, **data).by_group.to_dict()
differences = [float(equalized_odds_difference(**data)), float(equal_opportunity_difference(**data))]
print("true positive rates of a classifier without errors:", rates)
print("its equalized odds difference and equal opportunity difference:", differences)
assert rates == {"a": 1, "b": 1, "c": 0} and differences == [1, 1], "the behavior has changed"
PYTHON
