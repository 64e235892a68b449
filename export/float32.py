"""Classifiers as float32 ONNX files, written by PyTorch's exporter.

    export_float32(model, "model.onnx")

ONNX Runtime fuses operators when it loads a graph; fusing them before quantization gained nothing (docs/LOG.md). ONNX
Runtime does not notice that the head of most classifiers reads the first token alone, and computes the last layer's
output for all other tokens for nothing. The export leaves this computation out.
"""

import inspect
import re
import warnings
from collections import defaultdict
from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import onnx
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import nn
from transformers import PreTrainedModel

from layer_distillation.errors import UserError
from layer_distillation.model_outputs import MODEL_INPUTS, with_own_modules

# The newest version of the file format that ONNX Runtime 1.17 reads. The graphs need nothing newer.
IR_VERSION = 9
# An ONNX file of one piece cannot be larger.
MAX_BYTES = 2**31
# Operators that compute each token by itself if their other inputs are constants without an axis for tokens.
TOKENWISE_OPERATORS = ("Add", "Sub", "Mul", "Div", "Erf", "Gelu", "Tanh", "LayerNormalization", "MatMul")
# What the first cause of an exporter's error says, and what this means.
MECHANISMS = (
    (r"op='[\w.]*grouped_mm", "ONNX has no operator that multiplies each token by the matrices of its own experts"),
    (r"op='([\w.]+)'.*complex-valued", r"ONNX has no \1 of complex numbers"),
    (r"No ONNX function found for .*op='([\w.]+)'", r"ONNX has no operator like \1"),
    (r"inferred a static shape", "what it computes is written for texts of one length"),
    (r"data-dependent", "what it computes next depends on the numbers that it has computed"),
)


class _Logits(nn.Module):
    """The model as a function from its input tensors, in the given order, to its logits."""

    def __init__(self, model: PreTrainedModel, names: Sequence[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(self.names, inputs, strict=True))).logits


def model_inputs(model: PreTrainedModel) -> tuple[str, ...]:
    """Returns the inputs that the architecture reads; `token_type_ids` only if it has several types of tokens."""
    names = [name for name in MODEL_INPUTS if name in inspect.signature(model.forward).parameters]
    if getattr(model.config, "type_vocab_size", 0) < 2 and "token_type_ids" in names:
        names.remove("token_type_ids")
    return tuple(names)


def check_size(model: PreTrainedModel) -> None:
    """Raises a `UserError` if the float32 file of a model would be too large for the format."""
    size = 4 * model.num_parameters()
    if size >= MAX_BYTES:
        raise UserError(
            f"An ONNX file holds less than {MAX_BYTES / 1e9:.2f} GB, but the weights of this {type(model).__name__} "
            f"take {size / 1e9:.2f} GB in float32. Export a student of fewer layers, leave out pieces of a large "
            "vocabulary with --trim_vocabulary, or use the checkpoint in PyTorch."
        )


def export_float32(model: PreTrainedModel, file: str | Path) -> None:
    """Writes the model as an ONNX graph with one output, `logits`, for batches of any size and length.

    Args:
        model: on the CPU, in float32. Its attention is set to the plain implementation: other implementations are
            exported with checks for rows without tokens, which cost time.
        file: the file to write.

    Raises:
        UserError: PyTorch's exporter does not know how to write the architecture.
    """
    names = model_inputs(model)
    model.set_attn_implementation("eager")
    # The two sizes differ from each other and from 1: otherwise the exporter takes a size for a constant. The second
    # half of the tokens is padding, as in real batches.
    is_text = (torch.arange(9) < 5).long().repeat(2, 1)
    padding = model.config.get_text_config().pad_token_id or 0
    batch = {"input_ids": padding + is_text, "attention_mask": is_text, "token_type_ids": torch.zeros_like(is_text)}
    # The exporter warns about its own parts, and prints its unfinished graph if it fails.
    with warnings.catch_warnings(), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                _Logits(with_own_modules(model), names).eval(),  # tracing may leave modules changed: BigBird's
                tuple(batch[name] for name in names),
                input_names=names,
                output_names=["logits"],
                dynamic_shapes=(tuple({0: "batch", 1: "sequence"} for _ in names),),
                dynamo=True,  # the TorchScript exporter writes a graph that is wrong for other lengths
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise UserError(
                f"PyTorch's exporter cannot write a {type(model).__name__} as ONNX: {_mechanism(error)}. Use the "
                "checkpoint in PyTorch."
            ) from error
    # The exporter notes at each operator which line of which file on this machine has made it.
    ClearMetadataAndDocStringPass()(program.model)
    graph = program.model_proto
    leave_out_unread_tokens(graph.graph)
    graph.ir_version = IR_VERSION
    onnx.save(graph, file)


def _mechanism(error: Exception) -> str:
    """Returns why the exporter cannot write a model. Its own message is advice on how to report errors of PyTorch."""
    while error.__cause__ is not None:
        error = error.__cause__
    for pattern, meaning in MECHANISMS:
        if found := re.search(pattern, str(error)):
            return found.expand(meaning)
    return str(error).strip().partition("\n")[0].partition(". ")[0].removesuffix(".") or type(error).__name__


def leave_out_unread_tokens(graph: onnx.GraphProto) -> None:
    """Computes what follows the last attention for one token alone, if the head reads only this token.

    The head chooses its token by an operator such as `hidden_states[:, 0]`. An operator that computes each token by
    itself gives the same result after this choice as before it. The choice therefore moves towards the input, as long
    as nothing else reads the other tokens: past the output and the feed-forward part of the last layer, three quarters
    of the layer's weights. A graph whose head reads all tokens stays as it is.

    Args:
        graph: changed in place. The shapes recorded in it are removed if they become wrong.
    """
    tensors = _Tensors(graph)
    choice = next((position for position, node in enumerate(graph.node) if tensors.is_choice(node)), None)
    if choice is None:
        return
    moved = _operators_to_move(graph, choice, tensors)
    if moved:
        _compute_for_one_token(graph, choice, moved, tensors)


class _Tensors:
    """The ranks of a graph's tensors: `constants` for its weights, `ranks` for everything computed from its inputs."""

    def __init__(self, graph: onnx.GraphProto):
        self.ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
        self.constants = {tensor.name: len(tensor.dims) for tensor in graph.initializer}

    def is_choice(self, node: onnx.NodeProto) -> bool:
        """Whether an operator chooses one token: from `(batch, tokens, width)`, along the axis of the tokens."""
        return (
            node.op_type == "Gather"
            and any(attribute.name == "axis" and attribute.i == 1 for attribute in node.attribute)
            and self.ranks.get(node.input[0]) == 3
            and self.constants.get(node.input[1]) == 0
        )

    def is_tokenwise(self, node: onnx.NodeProto) -> bool:
        """Whether an operator maps tensors `(batch, tokens, width)` to such a tensor, each token by itself."""
        weights = [self.constants[name] for name in node.input if name in self.constants]
        computed = [self.ranks.get(name) for name in node.input if name not in self.constants]
        if node.op_type not in TOKENWISE_OPERATORS or set(computed) != {3}:
            return False
        if node.op_type == "MatMul":
            return node.input[0] not in self.constants and weights == [2]
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1)
        return axis in (-1, 2) and all(rank <= 1 for rank in weights)


def _operators_to_move(graph: onnx.GraphProto, choice: int, tensors: _Tensors) -> set[int]:
    """Returns the positions of the tokenwise operators whose results are read through the choice alone."""
    readers = defaultdict(set)
    for position, node in enumerate(graph.node):
        for name in node.input:
            readers[name].add(position)
    read_for_one_token = {graph.node[choice].input[0]}
    moved = set()
    for position in reversed(range(choice)):
        node = graph.node[position]
        output = node.output[0]
        if output in read_for_one_token and readers[output] <= moved | {choice} and tensors.is_tokenwise(node):
            moved.add(position)
            read_for_one_token.update(name for name in node.input if name not in tensors.constants)
    return moved


def _compute_for_one_token(graph: onnx.GraphProto, choice: int, moved: set[int], tensors: _Tensors) -> None:
    """Puts the choice before the operators at the positions `moved`."""
    all_tokens, index = graph.node[choice].input
    one_token = graph.node[choice].output[0]
    results = {graph.node[position].output[0] for position in moved}
    sources = {name for position in moved for name in graph.node[position].input}
    sources -= results | tensors.constants.keys()

    nodes = []
    for position, node in enumerate(graph.node):
        renamed = {name: f"{name}_chosen" for name in sources} if position in moved else {one_token: all_tokens}
        node.input[:] = [renamed.get(name, name) for name in node.input]
        if position != choice:
            nodes.append(node)
        for name in sources.intersection(node.output):
            nodes.append(onnx.helper.make_node("Gather", [name, index], [f"{name}_chosen"], axis=1))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
