"""8-bit weights by ONNX Runtime, stored for the processor that will run them.

quantize("model.onnx", "model_int8.onnx")
quantize("model.onnx", "model_int8.onnx", processor="avx2")      # for x86 without VNNI; correct on any processor
"""

import logging
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

from export.parity import INT8_BATCH_SIZE

logger = logging.getLogger(__name__)

# Operators whose constant weights become int8. Attention multiplies two activations; these products stay float32.
QUANTIZED_OPERATORS = ("MatMul", "Gemm", "Gather")
# How weights are stored for each kind of processor. "avx2" stands for all x86 processors without VNNI, with AVX-512 or
# without: with signed weights they add two products in 16 bits, which saturates silently. Unsigned weights use other
# instructions there, which do not saturate. On processors with VNNI signed weights are correct, and faster.
WEIGHT_TYPES = {"vnni": QuantType.QInt8, "arm": QuantType.QInt8, "avx2": QuantType.QUInt8}


def this_processor() -> str:
    """Returns the kind of the processor that runs this process, one of `WEIGHT_TYPES`."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return "arm"
    capabilities = torch.cpu.get_capabilities()
    return "vnni" if capabilities.get("avx512_vnni") or capabilities.get("avx_vnni") else "avx2"


def processor_name() -> str:
    """Returns the name of the processor that runs this process, as its maker writes it; its kind if it has none."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else []
    return names[0].strip() if names else platform.processor() or platform.machine()


def quantize(
    source: str | Path, target: str | Path, in_float32: Sequence[str] = (), processor: str | None = None
) -> None:
    """Writes a float32 graph with 8-bit weights, one scale for each output channel.

    Activations become 8-bit while the graph runs.

    Args:
        source: the float32 graph.
        target: the file to write.
        in_float32: names of operators that stay in float32.
        processor: the kind that will run the graph, one of `WEIGHT_TYPES`; `None` for the kind of this processor.
    """
    graph = onnx.load(source)
    # The quantizer transposes weights but not their recorded shapes, and then refuses the difference:
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
    sample_logits: Callable[..., np.ndarray],
    is_good: Callable[[], bool],
    processor: str | None = None,
) -> list[str] | None:
    """Quantizes as many operators as accuracy allows.

    The first attempt quantizes all of them. If it is not good enough, each operator is quantized alone, and the
    operators are sorted by how much they change the logits of a sample. Further attempts leave the worst operator in
    float32, then the worst two, four, and so on, up to half of them.

    Args:
        source: the float32 graph.
        target: the file to write.
        sample_logits: returns the logits of a graph for some examples; called with a file and a `batch_size`.
        is_good: judges the graph in `target`.
        processor: as for `quantize`.

    Returns:
        Names of the operators left in float32; `None` if even the last attempt is not good enough.
    """
    quantize(source, target, processor=processor)
    if is_good():
        return []
    names = _quantizable(source)
    logger.warning(f"int8 changes too much. Now each of the {len(names)} operators is quantized alone.")
    expected = sample_logits(source)
    changes = {}
    for name in names:
        quantize(source, target, in_float32=[other for other in names if other != name], processor=processor)
        change = np.abs(sample_logits(target, batch_size=INT8_BATCH_SIZE) - expected).mean()
        changes[name] = change if np.isfinite(change) else np.inf
    worst_first = sorted(names, key=changes.__getitem__, reverse=True)
    for count in _up_to(len(names) // 2):
        quantize(source, target, in_float32=worst_first[:count], processor=processor)
        if is_good():
            return worst_first[:count]
    return None


def _up_to(last: int) -> Iterator[int]:
    """Yields 1, 2, 4 and so on, and at the end the last number itself, unless it is 0."""
    count = 1
    while count < last:
        yield count
        count *= 2
    if last:
        yield last


def _quantizable(source: str | Path) -> list[str]:
    """Returns the names of the operators with constant float32 weights, which become int8."""
    graph = onnx.load(source).graph
    weights = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    return [node.name for node in graph.node if node.op_type in QUANTIZED_OPERATORS and weights & set(node.input[:2])]
