"""Classifiers as ONNX files: float32 through PyTorch's exporter, and int8 weights through ONNX Runtime's quantiser.

    export_float32(model, "model.onnx")
    quantize("model.onnx", "model_int8.onnx")
    logits = compute_onnx_logits("model_int8.onnx", tokenized["validation"], collator, INT8_BATCH_SIZE)

ONNX Runtime fuses what it can when it loads a graph, and fusing before quantising has been measured to gain nothing
(docs/LOG.md). What it does not see is that the head of most classifiers reads the first token alone: the last layer's
output for all others is computed for nothing, and left out here.
"""

import inspect
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import nn
from transformers import PreTrainedModel

from layer_distillation.model_outputs import MODEL_INPUTS

# Operators that treat each token by itself if all their other inputs are constants without a token's axis.
TOKENWISE_OPERATORS = ("Add", "Sub", "Mul", "Div", "Erf", "Gelu", "Tanh", "LayerNormalization", "MatMul")


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
