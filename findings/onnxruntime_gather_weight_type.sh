#!/usr/bin/env bash
# onnxruntime 1.31.1: quantize_dynamic(weight_type=QInt8) stores the weights of Gather (word embeddings) as uint8.
#
# Expected: every quantized weight of the graph is int8, as the argument says.
# Found: the weight of a MatMul is int8; the table that a Gather reads becomes uint8 with a zero point.
# So a graph cannot be told apart by whether it holds uint8 weights: look at the operator that reads them.
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
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

folder = Path(sys.argv[1])
draws = np.random.default_rng(0)
table = numpy_helper.from_array(draws.normal(size=(50, 8)).astype(np.float32), "table")
weight = numpy_helper.from_array(draws.normal(size=(8, 4)).astype(np.float32), "weight")
graph = helper.make_graph(
    [
        helper.make_node("Gather", ["table", "ids"], ["embedded"]),
        helper.make_node("MatMul", ["embedded", "weight"], ["logits"]),
    ],
    "classifier",
    [helper.make_tensor_value_info("ids", TensorProto.INT64, ["length"])],
    [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["length", 4])],
    [table, weight],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
onnx.save(model, folder / "float32.onnx")
quantize_dynamic(
    folder / "float32.onnx",
    folder / "int8.onnx",
    op_types_to_quantize=["Gather", "MatMul"],
    weight_type=QuantType.QInt8,
)
stored = {
    tensor.name: TensorProto.DataType.Name(tensor.data_type)
    for tensor in onnx.load(folder / "int8.onnx").graph.initializer
    if tensor.name.endswith("_quantized")
}
print(stored)
assert stored == {"table_quantized": "UINT8", "weight_quantized": "INT8"}, "the behavior has changed"
PYTHON
