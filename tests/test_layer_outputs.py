"""What is read of the layers of many architectures, and what is refused because it is no such output."""

import pytest
import torch

from experiments.tiny_classifiers import GATED_DELTA, SIZES, tiny_classifier
from layer_distillation.errors import UserError
from layer_distillation.layer_outputs import LayerOutputReader


def batch():
    """Three texts of 48, 31 and 17 tokens, which are longer than the windows of sparse attention."""
    attention_mask = (torch.arange(48) < torch.tensor([[48], [31], [17]])).long()
    input_ids = torch.randint(5, 30, (3, 48), generator=torch.Generator().manual_seed(0))
    return {"input_ids": input_ids * attention_mask, "attention_mask": attention_mask}


@torch.no_grad()
def read(model, kind, layers):
    return LayerOutputReader(model, {kind: layers}).run(model, **batch()).layers[kind]


def test_attentions_are_those_of_the_layer_where_some_layers_do_not_attend():
    kinds = ["full_attention", "linear_attention", "full_attention"] * 2
    attending = tuple(layer for layer, kind in enumerate(kinds, start=1) if kind == "full_attention")
    model = tiny_classifier("qwen3_5_text", "", **{**SIZES, **GATED_DELTA, "layer_types": kinds})
    model.set_attn_implementation("eager")
    expected = {}
    for layer in attending:
        model.model.layers[layer - 1].self_attn.register_forward_hook(
            lambda module, inputs, outputs, layer=layer: expected.update({layer: outputs[1]})
        )
    attentions = read(model, "attentions", attending)
    assert attentions.keys() == expected.keys()
    for layer in attending:
        torch.testing.assert_close(attentions[layer], expected[layer], rtol=0, atol=0)


def test_a_layer_that_does_not_attend_is_refused_by_its_number():
    with pytest.raises(UserError, match="JambaForSequenceClassification .* layer 3.*--layers"):
        read(tiny_classifier("jamba"), "attentions", (2, 3))
