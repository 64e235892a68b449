"""8-bit weights by ONNX Runtime, stored for the processor that will run them."""

import logging
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from datasets import Dataset
from onnxruntime.quantization import QuantType, quantize_dynamic

from export.parity import INT8_BATCH_SIZE, compute_onnx_logits

logger = logging.getLogger(__name__)

# Operators whose constant weights become int8; the products of two activations within attention stay float32.
QUANTIZED_OPERATORS = ("MatMul", "Gemm", "Gather")
# How weights are stored for each kind of processor. x86 processors without VNNI ("avx2", and AVX-512 without VNNI) add
# two products of unsigned activations and signed weights in 16 bits, which saturates silently. Unsigned weights take
# other instructions there, which do not; with VNNI they are slower than signed ones.
WEIGHT_TYPES = {"vnni": QuantType.QInt8, "arm": QuantType.QInt8, "avx2": QuantType.QUInt8}


def this_processor() -> str:
    """The kind of the processor that this process runs on, one of `WEIGHT_TYPES`."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return "arm"
    capabilities = torch.cpu.get_capabilities()
    return "vnni" if capabilities.get("avx512_vnni") or capabilities.get("avx_vnni") else "avx2"


def quantize(
    source: str | Path, target: str | Path, in_float32: Sequence[str] = (), processor: str | None = None
) -> None:
    """Writes a float32 graph with 8-bit weights, one scale an output channel; activations become 8-bit as it runs.

    Args:
        in_float32: names of operators that stay as they are.
        processor: the kind that will run the graph, one of `WEIGHT_TYPES`; `None` for the one at hand.
    """
    graph = onnx.load(source)
    # The quantiser transposes weights but not their noted shapes, and then finds that the two differ:
    # https://github.com/microsoft/onnxruntime/issues/25890
    del graph.graph.value_info[:]
    quantize_dynamic(
        graph,
        target,
        op_types_to_quantize=list(QUANTIZED_OPERATORS),
        per_channel=True,
        weight_type=WEIGHT_TYPES[processor or this_processor()],
        nodes_to_exclude=list(in_float32),
    )


def quantize_accurately(
    source: str | Path,
    target: str | Path,
    sample: Dataset,
    collator: Callable,
    is_accurate: Callable[[], bool],
    processor: str | None = None,
) -> list[str] | None:
    """Quantises as many operators as accuracy allows.

    First all of them. If that is not accurate enough, those that disturb the logits of the sample most when they alone
    are int8 stay in float32: the worst one, two, four, and so on up to half of them.

    Args:
        sample: some tokenised examples.
        is_accurate: judges the graph in `target`.
        processor: as for `quantize`.

    Returns:
        Names of the operators left in float32; `None` if even the last attempt is not accurate enough.
    """
    quantize(source, target, processor=processor)
    if is_accurate():
        return []
    names = _quantizable(source)
    logger.warning(f"int8 costs too much accuracy: the {len(names)} operators are tried one by one.")
    reference = compute_onnx_logits(source, sample, collator)
    disturbance = {}
    for name in names:
        quantize(source, target, in_float32=[other for other in names if other != name], processor=processor)
        logits = compute_onnx_logits(target, sample, collator, INT8_BATCH_SIZE)
        disturbance[name] = np.abs(logits - reference).mean()
    worst_first = sorted(names, key=disturbance.__getitem__, reverse=True)
    count = 1
    while count <= len(names) // 2:
        quantize(source, target, in_float32=worst_first[:count], processor=processor)
        if is_accurate():
            return worst_first[:count]
        count *= 2
    return None


def _quantizable(source: str | Path) -> list[str]:
    """Names of the operators with constant float32 weights, those that become int8."""
    graph = onnx.load(source).graph
    weights = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    return [node.name for node in graph.node if node.op_type in QUANTIZED_OPERATORS and weights & set(node.input[:2])]
