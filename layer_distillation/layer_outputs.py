"""What a model computes inside of its layers, for the losses that compare it with a teacher's.

wanted = WantedOutputs(hidden_states=(2, 4, 6), attentions=(), relations=(6,))
reader = LayerOutputReader(model, wanted)
outputs = reader.run(model, input_ids=..., attention_mask=...)
outputs.hidden_states[4], outputs.relations[6]["query"]
"""

from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.trainer_utils import unwrap_peft_model

from layer_distillation.encoder_layers import find_layer_list
from layer_distillation.errors import UserError

# Names of the modules that compute a layer's queries, keys and values, of all architectures that students have.
QUERY_KEY_VALUE = (
    ("query", "key", "value"),
    ("q_lin", "k_lin", "v_lin"),
    ("q", "k", "v"),
    ("q_proj", "k_proj", "v_proj"),
    ("query_proj", "key_proj", "value_proj"),
)
FUSED_QUERY_KEY_VALUE = "Wqkv"
KINDS = ("query", "key", "value")


@dataclass(frozen=True)
class WantedOutputs:
    """Numbers of the layers, from 1, whose outputs are wanted."""

    hidden_states: tuple[int, ...] = ()
    attentions: tuple[int, ...] = ()
    relations: tuple[int, ...] = ()


@dataclass(frozen=True)
class LayerOutputs:
    """Outputs of a batch by the number of the layer, from 1.

    Attributes:
        logits: as the model gives them.
        hidden_states: `(batch, length, width)`, as the model gives them: of a pre-norm architecture such as ModernBERT
            those of the last layer come after the final normalisation.
        attentions: probabilities, `(batch, heads, length, length)`.
        relations: "query", "key" and "value", `(batch, length, width)` each.
    """

    logits: torch.Tensor | None
    hidden_states: dict[int, torch.Tensor] = field(default_factory=dict)
    attentions: dict[int, torch.Tensor] = field(default_factory=dict)
    relations: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)


class LayerOutputReader:
    """Runs a model so that the wanted outputs of its layers come with its logits.

    Attention probabilities are returned by the implementation "eager" alone, so it is chosen where they are wanted. It
    returns them as they are after dropout, which is nothing to compare: the wanted layers attend without it.

    Args:
        model: before it is wrapped for several processes.
        projection: applied to the wanted hidden states, as a part of the model's forward pass: DDP takes parameters
            that are used outside of it for unused ones, and FSDP has shared them out by then.

    Raises:
        UserError: it is not known which modules of the model attend.
    """

    def __init__(self, model: nn.Module, wanted: WantedOutputs, projection: nn.Module | None = None):
        self.wanted = wanted
        self._model, self._projection = model, projection
        model = unwrap_peft_model(model)
        if wanted.attentions:
            model.set_attn_implementation("eager")
        for layer in wanted.attentions:
            _switch_off_dropout(_attention(model, layer)[0])
        self._projections = {layer: _attention(model, layer)[1] for layer in wanted.relations}

    def run(self, model: nn.Module, **inputs: torch.Tensor) -> LayerOutputs:
        """Calls `model`, which may be wrapped by now, in whatever mode it is."""
        relations = {layer: {} for layer in self.wanted.relations}
        hooks = [
            module.register_forward_hook(_keep(relations[layer], kinds))
            for layer, projections in self._projections.items()
            for kinds, module in projections.items()
        ]
        if self._projection is not None:
            hooks.append(self._model.register_forward_hook(self._project, prepend=True))
        flags = {"output_hidden_states": self.wanted.hidden_states, "output_attentions": self.wanted.attentions}
        try:
            outputs = model(**inputs, **{name: True for name, layers in flags.items() if layers})
        finally:
            for hook in hooks:
                hook.remove()
        return LayerOutputs(
            outputs["logits"] if isinstance(outputs, dict) else outputs[0],
            # The first entry is the output of the embeddings.
            {layer: outputs["hidden_states"][layer] for layer in self.wanted.hidden_states},
            {layer: outputs["attentions"][layer - 1] for layer in self.wanted.attentions},
            relations,
        )

    def _project(self, module: nn.Module, inputs: tuple, outputs: dict) -> None:
        states = list(outputs["hidden_states"])
        for layer in self.wanted.hidden_states:
            states[layer] = self._projection(states[layer].to(self._projection.weight.dtype))
        outputs["hidden_states"] = tuple(states)


def _attention(model: PreTrainedModel, layer: int) -> tuple[nn.Module, dict[tuple[str, ...], nn.Module]]:
    """The module of a layer that attends, and those in it that compute queries, keys and values, by what they do."""
    for module in model.get_submodule(find_layer_list(model))[layer - 1].modules():
        parts = dict(module.named_children())
        if FUSED_QUERY_KEY_VALUE in parts:
            return module, {KINDS: parts[FUSED_QUERY_KEY_VALUE]}
        for names in QUERY_KEY_VALUE:
            if parts.keys() >= set(names):
                return module, {(kind,): parts[name] for kind, name in zip(KINDS, names, strict=True)}
    raise UserError(
        f"It is not known which modules of {type(model).__name__} compute queries, keys and values. Set "
        "`attention_weight` and `relation_weight` to 0, or choose another architecture, such as BERT."
    )


def _switch_off_dropout(attention: nn.Module) -> None:
    """Of the attention probabilities, a module or a number in all architectures that students have."""
    if isinstance(getattr(attention, "dropout", None), nn.Dropout):
        attention.dropout.p = 0.0
    else:
        attention.attention_dropout = 0.0


def _keep(vectors: dict[str, torch.Tensor], kinds: tuple[str, ...]):
    """A hook that puts a module's output, or its equal parts, into `vectors`."""

    def hook(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        for kind, part in zip(kinds, output.chunk(len(kinds), dim=-1), strict=True):
            # The first call counts: DeBERTa projects its relative positions with the same modules afterwards.
            vectors.setdefault(kind, part)

    return hook
