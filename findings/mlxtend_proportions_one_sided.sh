#!/usr/bin/env bash
# mlxtend 0.25.0: the p-value of proportion_difference depends on which of the two proportions comes first.
#
# Expected: the p-value of a difference of proportions is two-sided, as that of mcnemar in the same package and that of
# proportions_ztest in statsmodels: small for a large difference, and the same for both orders.
# Found: it is the normal distribution below z, the p-value for "the first proportion is smaller", which the
# documentation does not say. An accuracy of 0.95 against 0.80 of 100 examples has p = 0.9995, so a clear gain counts as
# no difference. In the other order p = 0.0005. And 0.88 against 0.95, in the order in which p is small, has p = 0.037
# where a two-sided test has 0.076. 2 * min(p, 1 - p) mends it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet mlxtend==0.25.0 statsmodels==0.15.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from mlxtend.evaluate import mcnemar, proportion_difference
from statsmodels.stats.proportion import proportions_ztest

found = {}
for first, second in ((95, 80), (80, 95), (88, 95)):
    p = proportion_difference(first / 100, second / 100, 100)[1]
    found[first, second] = round(float(p), 4), round(float(proportions_ztest([first, second], [100, 100])[1]), 4)
print("p-values of mlxtend and, two-sided, of statsmodels, by right answers of 100:", found)
paired = [mcnemar(np.array([[78, below], [17 - below, 5]]), exact=True)[1] for below in (2, 15)]
print("p-values of mlxtend's mcnemar for both orders:", [round(float(p), 4) for p in paired])
assert found[95, 80][0] > 0.999 and found[80, 95][0] < 0.001, "the behavior has changed"
assert found[95, 80][1] == found[80, 95][1] < 0.01, "the behavior has changed"
assert found[88, 95][0] < 0.05 < found[88, 95][1], "the behavior has changed"
assert paired[0] == paired[1] < 0.01, "the behavior has changed"
PYTHON
