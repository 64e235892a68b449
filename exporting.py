"""Classifiers as ONNX files: float32 through PyTorch's exporter, and int8 weights through ONNX Runtime's quantiser.

    export_float32(model, "model.onnx")
    quantize("model.onnx", "model_int8.onnx")
    logits = compute_onnx_logits("model_int8.onnx", tokenized["validation"], collator, INT8_BATCH_SIZE)

ONNX Runtime fuses what it can when it loads a graph, and fusing before quantising has been measured to gain nothing
(docs/LOG.md). What it does not see is that the head of most classifiers reads the first token alone: the last layer's
output for all others is computed for nothing, and left out here.
"""

import inspect
import logging
import platform
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from datasets import Dataset
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn
from transformers import PreTrainedModel

from teacher_cache import MODEL_INPUTS

logger = logging.getLogger(__name__)

# Operators whose constant weights become int8; the products of two activations within attention stay float32.
QUANTIZED_OPERATORS = ("MatMul", "Gemm", "Gather")
# Operators that treat each token by itself if all their other inputs are constants without a token's axis.
TOKENWISE_OPERATORS = ("Add", "Sub", "Mul", "Div", "Erf", "Gelu", "Tanh", "LayerNormalization", "MatMul")
BATCH_SIZE = 8  # on a processor the quickest per example; larger batches outgrow its caches
# In int8 the activations of a batch have one scale, so that an answer would depend on the texts beside it.
INT8_BATCH_SIZE = 1
# How weights are stored for each kind of processor. x86 processors without VNNI ("avx2", and AVX-512 without VNNI) add
# two products of unsigned activations and signed weights in 16 bits, which saturates silently. Unsigned weights take
# other instructions there, which do not; with VNNI they are slower than signed ones.
WEIGHT_TYPES = {"vnni": QuantType.QInt8, "arm": QuantType.QInt8, "avx2": QuantType.QUInt8}


class _Logits(nn.Module):
    """The model as a function from its input tensors, in the given order, to its logits."""

    def __init__(self, model: PreTrainedModel, names: Sequence[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(self.names, inputs, strict=True))).logits


def model_inputs(model: PreTrainedModel) -> tuple[str, ...]:
    """The inputs that the architecture reads: `token_type_ids` only where there is more than one type of token."""
    names = [name for name in MODEL_INPUTS if name in inspect.signature(model.forward).parameters]
    if getattr(model.config, "type_vocab_size", 0) < 2 and "token_type_ids" in names:
        names.remove("token_type_ids")
    return tuple(names)


def export_float32(model: PreTrainedModel, file: str | Path) -> None:
    """Writes the model as an ONNX graph with one output, `logits`, for batches of any size and length.

    Args:
        model: on the CPU, in float32. Its attention is set to the plain implementation: the others are exported with
            guards against rows without any token, which cost time.
    """
    names = model_inputs(model)
    model.set_attn_implementation("eager")
    # Sizes that differ from each other and from 1, so that none is taken for a constant; padding, as batches have it.
    batch = {name: torch.zeros(2, 9, dtype=torch.long) for name in names}
    batch["input_ids"] += model.config.pad_token_id or 0
    batch["input_ids"][:, :5] = 1 + batch["input_ids"][0, 0]
    batch["attention_mask"][:, :5] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's about its own parts
        # `dynamo=False`, the exporter of old, writes a graph that is wrong for other lengths than the example's.
        torch.onnx.export(
            _Logits(model, names).eval(),
            tuple(batch.values()),
            str(file),
            input_names=names,
            output_names=["logits"],
            dynamic_shapes=(tuple({0: "batch", 1: "sequence"} for _ in names),),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    graph = onnx.load(file)
    leave_out_unread_tokens(graph.graph)
    onnx.save(graph, file)


def leave_out_unread_tokens(graph: onnx.GraphProto) -> None:
    """Where a head reads one token, computes what follows the last attention for this token alone.

    A choice among the tokens (`hidden_states[:, 0]`) gives the same before an operator that treats each token by
    itself as after it. So it moves towards the input, as long as nothing else reads the other tokens: past the last
    layer's feed-forward part and output, three quarters of its weights. A graph whose head reads all tokens stays as
    it is.

    Args:
        graph: changed in place; the shapes noted in it, which would be wrong then, are removed.
    """
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    constants = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    readers = defaultdict(set)
    for position, node in enumerate(graph.node):
        for name in node.input:
            readers[name].add(position)

    choices = (position for position, node in enumerate(graph.node) if _chooses_token(node, ranks, constants))
    choice = next(choices, None)
    if choice is None:
        return
    chosen_from, index = graph.node[choice].input
    moved, read = {choice}, {chosen_from}
    for position in reversed(range(choice)):
        node = graph.node[position]
        output = node.output[0]
        if output in read and readers[output] <= moved and _is_tokenwise(node, ranks, constants):
            moved.add(position)
            read.update(name for name in node.input if name not in constants)
    made = {graph.node[position].output[0] for position in moved}
    if chosen_from not in made:
        return

    nodes = []
    result = graph.node[choice].output[0]
    for position, node in enumerate(graph.node):
        renamed = {name: f"{name}_chosen" for name in read - made} if position in moved else {result: chosen_from}
        node.input[:] = [renamed.get(name, name) for name in node.input]
        if position != choice:
            nodes.append(node)
        for name in (read - made).intersection(node.output):
            nodes.append(onnx.helper.make_node("Gather", [name, index], [f"{name}_chosen"], axis=1))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)


def _chooses_token(node: onnx.NodeProto, ranks: Mapping[str, int], constants: Mapping[str, int]) -> bool:
    return (
        node.op_type == "Gather"
        and any(attribute.name == "axis" and attribute.i == 1 for attribute in node.attribute)
        and ranks.get(node.input[0]) == 3
        and constants.get(node.input[1]) == 0
    )


def _is_tokenwise(node: onnx.NodeProto, ranks: Mapping[str, int], constants: Mapping[str, int]) -> bool:
    """Whether a node makes `(batch, tokens, width)` of such tensors, each token by itself."""
    weights = [constants[name] for name in node.input if name in constants]
    activations = [ranks.get(name) for name in node.input if name not in constants]
    if node.op_type not in TOKENWISE_OPERATORS or set(activations) != {3}:
        return False
    if node.op_type == "MatMul":
        return node.input[0] not in constants and weights == [2]
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1)
    return axis in (-1, 2) and all(rank <= 1 for rank in weights)


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


def compute_onnx_logits(
    file: str | Path, dataset: Dataset, collator: Callable, batch_size: int = BATCH_SIZE
) -> np.ndarray:
    """Runs an ONNX classifier over a tokenised data set.

    Args:
        collator: pads a list of examples into a batch of tensors, for example `DataCollatorWithPadding(tokenizer)`.
        batch_size: `INT8_BATCH_SIZE` for an int8 graph.

    Returns:
        float32 `(len(dataset), num_labels)`, in the data set's order.
    """
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    inputs = dataset.select_columns(names)
    rows = []
    for start in range(0, len(inputs), batch_size):
        batch = collator(inputs.select(range(start, min(start + batch_size, len(inputs)))).to_list())
        rows.append(session.run(["logits"], {name: batch[name].numpy() for name in names})[0])
    return np.concatenate(rows)
