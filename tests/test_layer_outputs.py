"""What is read of the layers of many architectures, and what is refused because it is no such output."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from distill_trainer import DistillationTrainer
from experiments.tiny_classifiers import GATED_DELTA, SIZES, tiny_classifier
from layer_distillation.errors import UserError
from layer_distillation.layer_losses import LayerLosses, try_layer_losses
from layer_distillation.layer_outputs import LayerOutputReader
from layer_mapping import build_student
from tests.workers.train_worker import arguments, pad, random_examples, weights


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
    attention = model.base_model.model.bert.encoder.layer[0].attention.self
    before = attention.dropout.p
    assert before > 0
    with LayerOutputReader(model, {"attentions": (1,)}).readable():
        assert attention.dropout.p == 0.0
        assert attention.query.lora_dropout["default"].p == 0.25
    assert attention.dropout.p == before


def test_a_layer_that_does_not_attend_is_refused_by_its_number():
    with pytest.raises(UserError, match="layer 3 of JambaForSequenceClassification .*--layers"):
        read(tiny_classifier("jamba"), "attentions", (2, 3))


# ---- what is refused ----


@pytest.mark.parametrize(
    ("model_type", "kind", "layer", "message"),
    [
        ("canine", "hidden_states", 2, "--hidden_weight .* CanineForSequenceClassification .* 11 .* 6 layers"),
        ("canine", "attentions", 2, "--attention_weight .* CanineForSequenceClassification"),
        ("canine", "value", 6, r"--relation_weight .* CanineForSequenceClassification .* \(3, 12, 32\)"),
        ("squeezebert", "attentions", 2, "--attention_weight .* SqueezeBertForSequenceClassification .* rows"),
        ("squeezebert", "key", 6, r"--relation_weight .* SqueezeBert.* \(3, 32, 48\) .* 3 texts of 48 tokens"),
        ("longformer", "attentions", 1, r"--attention_weight .* Longformer.* \(3, 4, 48, 10\)"),
        ("longformer", "query", 6, r"--relation_weight .* Longformer.* \(48, 3, 32\)"),
        ("mra", "attentions", 2, "--attention_weight .* Mra.* 0 of them"),
        ("yoso", "attentions", 2, r"--attention_weight .* Yoso.* \(3, 48, 32\)"),
        ("big_bird", "attentions", 2, "--attention_weight .* BigBird.* sum to 0"),
        ("gpt_oss", "attentions", 2, "--attention_weight .* GptOss.* sum to 0"),  # which leaves attention sinks out
    ],
)
def test_what_is_no_output_of_a_layer_is_refused(model_type, kind, layer, message):
    with pytest.raises(UserError, match=message):
        read(tiny_classifier(model_type), kind, (layer,))


def test_quantized_maps_give_queries_too():
    model = tiny_classifier("ibert")
    hidden_states = read(model, "hidden_states", (5,))[5]
    query = model.ibert.encoder.layer[5].attention.self.query
    expected = torch.nn.functional.linear(hidden_states, query.weight, query.bias)
    torch.testing.assert_close(read(model, "query", (6,))[6], expected)


def test_a_trainer_refuses_what_it_cannot_compare_before_it_trains(tmp_path):
    teacher = tiny_classifier("canine")
    student = build_student(teacher, (1, 3))
    trainer = DistillationTrainer(
        model=student,
        teacher_model=teacher,
        teacher_layers=(1, 3),
        args=arguments(tmp_path, hidden_weight=1.0),
        train_dataset=random_examples(8).remove_columns("token_type_ids"),
        data_collator=pad,
    )
    before = weights(student)
    with pytest.raises(UserError, match="--hidden_weight .* CanineForSequenceClassification"):
        trainer.train()
    assert all(torch.equal(weights(student)[name], weight) for name, weight in before.items())


def test_losses_that_are_tried_leave_both_models_as_they_are(tmp_path):
    teacher = tiny_classifier("bert")
    student = build_student(teacher, (1, 3))
    args = arguments(tmp_path, attention_weight=1.0, hidden_weight=1.0, relation_weight=1.0)
    try_layer_losses(args, student, teacher, (1, 3), batch())
    for model in (student, teacher):
        assert not model.training and model.config._attn_implementation == "sdpa"
        assert model.bert.encoder.layer[0].attention.self.dropout.p == 0.1


# ---- grouped queries ----


def relation_by_definition(student, teacher, num_heads):
    """The mean over heads and tokens of KL(teacher || student), of vectors `(length, width)` of one text."""
    values = []
    for s, t in zip(student.chunk(num_heads, dim=-1), teacher.chunk(num_heads, dim=-1), strict=True):
        p, q = ((x @ x.T / x.shape[-1] ** 0.5).softmax(dim=-1) for x in (t, s))
        values.append((p * (p / q).log()).sum(dim=-1).mean())
    return torch.stack(values).mean()


@torch.no_grad()
def test_relations_of_keys_and_values_are_those_of_their_own_heads_where_queries_are_grouped(tmp_path):
    sizes = {**SIZES, "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2}
    teacher = tiny_classifier("llama", "", **sizes)
    student = build_student(teacher, (1, 3))
    of_layers = LayerLosses(arguments(tmp_path, relation_weight=1.0), student, teacher, (1, 3))
    _, losses = of_layers.forward(student, batch(), of_layers.teacher_outputs(teacher, batch()))
    s, t = (
        [read(model, kind, (layer,))[layer] for kind in ("query", "key", "value")]
        for model, layer in ((student, 2), (teacher, 6))
    )
    assert [vectors.shape[-1] for vectors in t] == [48, 16, 16]
    for text, length in enumerate((48, 31, 17)):
        expected = torch.stack(
            [relation_by_definition(a[text, :length], b[text, :length], n) for a, b, n in zip(s, t, (6, 2, 2))]
        )
        torch.testing.assert_close(losses["relation"][text], expected.mean())


def test_relation_heads_divide_the_width_of_keys_too(tmp_path):
    teacher = tiny_classifier("llama", "", **{**SIZES, "hidden_size": 48, "num_attention_heads": 6})
    of_layers = LayerLosses(arguments(tmp_path, relation_weight=1.0, relation_heads=6), teacher, teacher, None)
    with pytest.raises(UserError, match="--relation_heads .* 16 and 16, found 6"):
        of_layers.forward(teacher, batch(), of_layers.teacher_outputs(teacher, batch()))
