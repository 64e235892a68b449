"""Reads what a model computes in its layers: hidden states, attention probabilities, queries, keys and values.

from layer_distillation.layer_outputs import LayerOutputReader

reader = LayerOutputReader(model, {"hidden_states": (2, 4, 6), "query": (6,)})
outputs = reader.run(model, input_ids=..., attention_mask=...)
outputs.logits, outputs.layers["hidden_states"][4], outputs.layers["query"][6]
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from layer_distillation.attention import eager_attention
from layer_distillation.dropout import dropout_rates
from layer_distillation.encoder_layers import find_layer_list
from layer_distillation.errors import UserError
from layer_distillation.model_outputs import logits_of, plain_model

# The kinds of outputs. A model returns the first two; hooks on the modules that compute them read the last three.
HIDDEN_STATES = "hidden_states"
ATTENTIONS = "attentions"
QUERY_KEY_VALUE = ("query", "key", "value")

# What the losses need of each kind.
NEEDED = {
    HIDDEN_STATES: "--hidden_weight compares hidden states `(batch, length, width)`, one more than there are layers",
    ATTENTIONS: "--attention_weight compares probabilities `(batch, heads, length, length)`, whose rows sum to 1",
    **dict.fromkeys(QUERY_KEY_VALUE, "--relation_weight compares queries, keys and values `(batch, length, width)`"),
}
TOLERANCE = 0.02  # of a sum of probabilities, which bfloat16 rounds

# What these modules are called in the architectures that students have.
NAMES_OF_QUERY_KEY_VALUE = (
    ("query", "key", "value"),
    ("q_lin", "k_lin", "v_lin"),
    ("q", "k", "v"),
    ("q_proj", "k_proj", "v_proj"),
    ("query_proj", "key_proj", "value_proj"),
)
NAME_OF_ALL_THREE = "Wqkv"


@dataclass(frozen=True)
class LayerOutputs:
    """The outputs of a model for a batch.

    Attributes:
        logits: as the model returns them.
        returned: all that the model returns; `None` if the outputs are stored ones.
        layers: tensors by kind and by the 1-based number of the layer. `hidden_states`, `query`, `key` and `value` are
            `(batch, length, width)`; `attentions` are probabilities, `(batch, heads, length, length)`. In a pre-norm
            architecture, such as ModernBERT, the hidden states of the last layer come after the final norm.
    """

    logits: torch.Tensor | None
    layers: Mapping[str, Mapping[int, torch.Tensor]] = field(default_factory=dict)
    returned: Any = None


class LayerOutputReader:
    """Runs a model and returns its logits with the wanted outputs of its layers.

    Only the attention implementation "eager" returns attention probabilities, so the model is switched to it where
    they are wanted. It returns them after dropout, which would compare noise: in the wanted layers, the module that
    attends loses its dropout. Both are so while the reader runs the model, and within `readable`.

    Args:
        model: before it is wrapped for several processes.
        wanted: the 1-based numbers of the layers for each kind of output.
        projection: applied to the wanted hidden states within the forward pass of the model. Outside of it, DDP would
            take the parameters of the projection for unused, and FSDP would have sharded them.

    Raises:
        UserError: the modules that compute attention are not known for this architecture.
    """

    def __init__(self, model: nn.Module, wanted: Mapping[str, tuple[int, ...]], projection: nn.Module | None = None):
        self._model, self._projection = model, projection
        self._wanted = {kind: layers for kind, layers in wanted.items() if layers}
        self._encoder = encoder = plain_model(model)
        self._attentions = [attention_of(encoder, layer)[0] for layer in self._wanted.get(ATTENTIONS, ())]
        hooked = sorted({layer for kind in QUERY_KEY_VALUE for layer in self._wanted.get(kind, ())})
        self._hooked_modules = {layer: attention_of(encoder, layer)[1] for layer in hooked}
        modules = encoder.get_submodule(find_layer_list(encoder)) if self._wanted else ()
        self._numbers = range(1, len(modules) + 1)
        self._attending = [number for number in self._numbers if _attention_in(modules[number - 1]) is not None]
        self._model_name = type(encoder).__name__
        self._are_probabilities_checked = False

    @contextmanager
    def readable(self) -> Iterator[None]:
        """Has the model return the attention probabilities that are wanted, and restores it at the end.

        For a whole training: checkpointed layers are computed again after `run`, and have to compute the same.
        """
        with ExitStack() as stack:
            if self._attentions and self._encoder.config._attn_implementation != "eager":
                stack.enter_context(eager_attention(self._encoder))
            for attention in self._attentions:
                stack.enter_context(_without_dropout(attention))
            yield

    def run(self, model: nn.Module, **inputs: torch.Tensor) -> LayerOutputs:
        """Returns the outputs of `model`: the reader's model, by now possibly wrapped, in train or eval mode.

        Raises:
            UserError: the outputs are not what `LayerOutputs` says. Whether attentions are probabilities is asked in
                the first run only, because that waits for the device.
        """
        layers: dict[str, dict[int, torch.Tensor]] = {kind: {} for kind in self._wanted}
        flags = {f"output_{kind}": True for kind in (HIDDEN_STATES, ATTENTIONS) if kind in self._wanted}
        if flags:
            flags["return_dict"] = True
        with self.readable(), ExitStack() as hooks:
            for layer, modules in self._hooked_modules.items():
                for kinds, module in modules.items():
                    handle = module.register_forward_hook(_keep(layers, layer, kinds))
                    hooks.callback(handle.remove)
            if self._projection is not None:
                hooks.callback(self._model.register_forward_hook(self._project, prepend=True).remove)
            outputs = model(**inputs, **flags)
        if HIDDEN_STATES in self._wanted:  # the first entry is the embeddings
            layers[HIDDEN_STATES] = self._by_layer(outputs, HIDDEN_STATES, (0, *self._numbers))
        if ATTENTIONS in self._wanted:
            # Hybrids with linear attention or Mamba have layers that do not attend. Most return nothing for them.
            layers[ATTENTIONS] = self._by_layer(outputs, ATTENTIONS, self._numbers, self._attending)
        if self._wanted:
            mask = token_mask(inputs)
            if mask.dim() != 2:
                raise UserError(
                    f"Losses on layers need an attention mask `(batch, length)`, found {tuple(mask.shape)}."
                )
            self._check_shapes(layers, *mask.shape)
            if not self._are_probabilities_checked:
                self._check_probabilities(layers.get(ATTENTIONS, {}), mask)
                self._are_probabilities_checked = True
        return LayerOutputs(logits_of(outputs), layers, outputs)

    def _by_layer(self, outputs: Mapping, kind: str, *numberings: Sequence[int]) -> dict[int, torch.Tensor]:
        """Returns, by layer, the wanted ones of what a model returns, in the numbering that has as many entries."""
        returned = outputs.get(kind) or ()
        for numbers in numberings:
            if len(numbers) == len(returned):
                numbered = zip(numbers, returned, strict=True)
                return {layer: output for layer, output in numbered if layer in self._wanted[kind]}
        raise self._unusable(kind, f"{len(returned)} of them from {len(self._numbers)} layers")

    def _check_shapes(self, layers: Mapping[str, Mapping[int, torch.Tensor]], batch: int, length: int) -> None:
        for kind, wanted in self._wanted.items():
            for layer in wanted:
                output = layers[kind].get(layer)
                shape = tuple(output.shape) if isinstance(output, torch.Tensor) else ()
                if kind == ATTENTIONS:
                    fits = (*shape[:1], *shape[2:]) == (batch, length, length)
                else:
                    fits = len(shape) == 3 and shape[:2] == (batch, length)
                if not fits:
                    raise self._unusable(
                        kind, f"{kind} {shape} in layer {layer} from {batch} texts of {length} tokens"
                    )

    def _check_probabilities(self, attentions: Mapping[int, torch.Tensor], mask: torch.Tensor) -> None:
        for layer, of_layer in attentions.items():
            rows = of_layer.detach().float().transpose(1, 2)[mask.bool()]  # (tokens, heads, length)
            sums = rows.sum(dim=-1)
            if rows.min() < 0 or (sums - 1).abs().max() > TOLERANCE:
                found = f"values from {rows.min():.3g} on in rows that sum to {sums.min():.3g} up to {sums.max():.3g}"
                raise self._unusable(ATTENTIONS, f"{found} in layer {layer}")

    def _unusable(self, kind: str, found: str) -> UserError:
        return UserError(
            f"{NEEDED[kind]}, but {self._model_name} computes {found}. Set the weight to 0, or choose another "
            "architecture, such as BERT."
        )

    def _project(self, module: nn.Module, inputs: tuple, outputs: dict) -> None:
        states = list(outputs["hidden_states"])
        for layer in self._wanted[HIDDEN_STATES]:
            states[layer] = self._projection(states[layer].to(self._projection.weight.dtype))
        outputs["hidden_states"] = tuple(states)


def token_mask(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Returns which positions of a batch are tokens, `(batch, length)`: all of them if its inputs do not say."""
    mask = inputs.get("attention_mask")
    return torch.ones_like(inputs["input_ids"]) if mask is None else mask


def attention_of(model: PreTrainedModel, layer: int) -> tuple[nn.Module, dict[tuple[str, ...], nn.Module]]:
    """Returns the module of a layer that attends, and its modules that compute queries, keys and values, by kind.

    Raises:
        UserError: these modules are not known for this architecture.
    """
    found = _attention_in(model.get_submodule(find_layer_list(model))[layer - 1])
    if found is None:
        raise UserError(
            f"It is not known which modules of layer {layer} of {type(model).__name__} compute queries, keys and "
            "values. Set --attention_weight and --relation_weight to 0, choose --layers that attend, or another "
            "architecture, such as BERT."
        )
    return found


def _attention_in(layer: nn.Module) -> tuple[nn.Module, dict[tuple[str, ...], nn.Module]] | None:
    """Returns what `attention_of` returns of a layer, `None` if its modules are not known or do not attend."""
    for module in layer.modules():
        parts = dict(module.named_children())
        if NAME_OF_ALL_THREE in parts:
            return module, {QUERY_KEY_VALUE: parts[NAME_OF_ALL_THREE]}
        for names in NAMES_OF_QUERY_KEY_VALUE:
            if parts.keys() >= set(names):
                return module, {(kind,): parts[name] for kind, name in zip(QUERY_KEY_VALUE, names, strict=True)}
    return None


@contextmanager
def _without_dropout(attention: nn.Module) -> Iterator[None]:
    """Has every dropout rate of a module that attends be 0, because which of them is that of probabilities varies.

    The dropout of LoRA's adapters has an option of its own and stays.
    """
    rates = dropout_rates(attention, "drop")
    for module, name, _ in rates:
        setattr(module, name, 0.0)
    try:
        yield
    finally:
        for module, name, value in rates:
            setattr(module, name, value)


def _keep(layers: dict[str, dict[int, torch.Tensor]], layer: int, kinds: tuple[str, ...]):
    """Returns a hook that splits the output of a module into one equal part a kind and keeps the kinds in `layers`."""

    def hook(module: nn.Module, inputs: tuple, output: torch.Tensor | tuple) -> None:
        if isinstance(output, tuple):  # I-BERT's maps return a scale too
            output = output[0]
        for kind, part in zip(kinds, output.chunk(len(kinds), dim=-1), strict=True):
            if kind in layers:
                # The first call counts: DeBERTa later projects its relative positions with the same modules.
                layers[kind].setdefault(layer, part)

    return hook
