"""What is read of the layers of many architectures, and what is refused because it is no such output."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

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


PROBABILITIES = {"attention_probs_dropout_prob": 0.5}
OTHER_RATES = dict.fromkeys(
    (
        *("hidden_dropout_prob", "activation_dropout", "dropout"),
        *("resid_pdrop", "embd_pdrop", "resid_dropout", "embed_dropout"),
    ),
    0.0,
)


@pytest.mark.parametrize(
    ("model_type", "rates"),
    [
        ("bert", PROBABILITIES),
        ("esm", PROBABILITIES),
        ("layoutlm", PROBABILITIES),
        ("markuplm", PROBABILITIES),
        ("longformer", PROBABILITIES),
        ("biogpt", PROBABILITIES),
        ("opt", {"attention_dropout": 0.5}),
        ("gptj", {"attn_pdrop": 0.5}),
        ("gpt_neo", {"attention_dropout": 0.5}),
        ("llama", {"attention_dropout": 0.5}),
    ],
)
def test_attentions_in_training_are_those_in_evaluation_wherever_their_dropout_is_held(model_type, rates):
    model = tiny_classifier(model_type, None, **OTHER_RATES | rates)
    every_layer = (1, 2, 3, 4, 5, 6)
    expected = read(model, "attentions", every_layer)
    for layer, attentions in read(model.train(), "attentions", every_layer).items():
        torch.testing.assert_close(attentions, expected[layer])


def test_the_dropout_of_adapters_stays_where_attention_is_read():
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["query"], lora_dropout=0.25)
    model = get_peft_model(tiny_classifier("bert"), config)
    LayerOutputReader(model, {"attentions": (1,)})
    attention = model.base_model.model.bert.encoder.layer[0].attention.self
    assert attention.dropout.p == 0.0
    assert attention.query.lora_dropout["default"].p == 0.25


def test_a_layer_that_does_not_attend_is_refused_by_its_number():
    with pytest.raises(UserError, match="layer 3 of JambaForSequenceClassification .*--layers"):
        read(tiny_classifier("jamba"), "attentions", (2, 3))
