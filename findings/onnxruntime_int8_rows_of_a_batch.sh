#!/usr/bin/env bash
# onnxruntime 1.31.1: in a model of quantize_dynamic, what comes out for a text depends on the other texts of its batch.
#
# Expected: the rows of a batch are independent, as they are in float32; "dynamic" means a scale for each input.
# Found: one scale covers the whole tensor. A single row with large values takes the precision from all other rows, and
# a row with an infinite value makes all rows NaN. So labels change with the batch size and with the order of the texts.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.31.1 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic

folder = Path(sys.argv[1])
draws = np.random.default_rng(0)
graph = helper.make_graph(
    [helper.make_node("MatMul", ["x", "weight"], ["y"], name="linear")],
    "linear",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 64])],
    [numpy_helper.from_array(draws.normal(size=(64, 64)).astype(np.float32), "weight")],
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "float32.onnx")
quantize_dynamic(folder / "float32.onnx", folder / "int8.onnx")
session = onnxruntime.InferenceSession(folder / "int8.onnx", providers=["CPUExecutionProvider"])


def second_row(first_row):
    return session.run(None, {"x": np.stack([first_row, row])})[0][1]


row, other = draws.normal(size=(2, 64)).astype(np.float32)
alone = session.run(None, {"x": row[None]})[0][0]
change = {size: float(np.abs(second_row(other * size) - alone).max()) for size in (1, 100, 10_000)}
print("change of a row, by the size of the other row of the batch:", {size: round(c, 2) for size, c in change.items()})
print("largest value of the row:", round(float(np.abs(alone).max()), 2))
with_infinity = second_row(np.full(64, np.inf, dtype=np.float32))
print("next to a row of infinities:", with_infinity[:3])
assert change[10_000] > np.abs(alone).max() / 2 and np.isnan(with_infinity).all(), "the behavior has changed"
PYTHON
