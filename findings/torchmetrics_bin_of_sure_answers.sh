#!/usr/bin/env bash
# torchmetrics 1.9.0: the calibration error puts answers of exactly 1 into a bin of their own.
#
# Expected: n_bins=10 makes 10 bins, and the last one holds all confidences from 0.9 to 1, as the definition says and as
# for 0.999999.
# Found: there is an 11th bin for 1. A fine-tuned classifier is often so sure that its softmax is 1 in float32, or in
# bfloat16 from 0.998 on. Half of these answers wrong and all answers of 0.95 right are an error of 0.275, not of 0.225:
# in one bin the two partly cancel each other. So the same model has another error in half precision.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchmetrics==1.9.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torchmetrics.classification import BinaryCalibrationError, MulticlassCalibrationError

right = torch.tensor([1, 0, 1, 1])
found = {}
for sure in (0.999999, 1.0):
    confidences = torch.tensor([sure, sure, 0.95, 0.95])
    probabilities = torch.stack([1 - confidences, confidences], dim=1)
    by_classes = MulticlassCalibrationError(num_classes=2, n_bins=10)(probabilities, right)
    binary = BinaryCalibrationError(n_bins=10)(confidences, right)
    found[sure] = (round(by_classes.item(), 3), round(binary.item(), 3))
print("calibration error of 2 classes and of a binary metric, by the confidence of the surest answers:", found)
print("the softmax of 17 and 0 in float32:", torch.tensor([17.0, 0.0]).softmax(0)[0].item() == 1.0)
assert found == {0.999999: (0.225, 0.225), 1.0: (0.275, 0.275)}, "the behavior has changed"
PYTHON
