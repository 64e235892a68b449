"""Tests of `layer_mapping`: which layers are chosen, and that the student is made of exactly those."""

import re
from contextlib import suppress
from copy import deepcopy

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from peft import LilyConfig, LNTuningConfig, LoHaConfig, LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoModelForSequenceClassification,
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    HfArgumentParser,
    LongformerConfig,
    LongformerForSequenceClassification,
    XLMConfig,
    XLMForSequenceClassification,
)

from experiments.tiny_classifiers import CONFIGURATIONS, tiny_classifier
from layer_distillation.encoder_layers import find_layer_list, num_layers
from layer_distillation.errors import UserError
from layer_distillation.problem_types import MULTI_LABEL
from layer_mapping import (
    BY_POSITION,
    EVIDENCE_STRATEGIES,
    STRATEGIES,
    SYNONYMS,
    build_random_student,
    build_student,
    describe_mapping,
    parse_layers,
    select_layers,
    selections_by_position,
    spread_evenly,
)
from tests.tiny_models import TINY_CLASSIFIERS
from training.arguments import StudentArguments
from training.student import student_from_arguments

NUM_LAYERS = 6
NUM_LABELS = 3
SMALL = {
    "vocab_size": 128,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}

TEXT = CONFIGURATIONS["modernvbert"]["depth in the text config"]["text_config"]

LAYER_LISTS = {
    "bert": "bert.encoder.layer",
    "roberta": "roberta.encoder.layer",
    "xlm-roberta": "roberta.encoder.layer",
    "distilbert": "distilbert.transformer.layer",
    "electra": "electra.encoder.layer",
    "mpnet": "mpnet.encoder.layer",
    "deberta-v2": "deberta.encoder.layer",
    "modernbert": "model.layers",
    "camembert": "roberta.encoder.layer",
}
# No other layer of ModernBERT is copied exactly to the first place, and its layer 1 is to no other place.
LAYERS_STARTING_WITH_1 = ((1, 3, 5), (1, 6, 2, 4), (1,))
LAYERS_STARTING_ELSEWHERE = ((2, 4, 6), (6, 1, 3), (4,))


def layer_sets(name):
    return LAYERS_STARTING_WITH_1 + (() if name == "modernbert" else LAYERS_STARTING_ELSEWHERE)


@pytest.fixture(scope="session")
def pristine_teachers():
    return {name: build(NUM_LAYERS, NUM_LABELS) for name, build in TINY_CLASSIFIERS.items()}


@pytest.fixture
def make_teacher(pristine_teachers):
    return lambda name="bert": deepcopy(pristine_teachers[name])


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(0)
    attention_mask = torch.ones(3, 24, dtype=torch.long)
    attention_mask[1, 15:] = 0
    return {
        "input_ids": torch.randint(5, 120, (3, 24), generator=generator),
        "attention_mask": attention_mask,
    }


@torch.no_grad()
def logits_of(model, inputs):
    return model(**inputs).logits


def compose_by_hand(teacher, layer_list_name, layers):
    """Returns the teacher with its own layers, untouched and numbered from 1, restacked in the given order."""
    reference = deepcopy(teacher)
    parent_name, _, attribute = layer_list_name.rpartition(".")
    own_layers = reference.get_submodule(layer_list_name)
    restacked = nn.ModuleList([module for layer in layers for module in own_layers[layer - 1 : layer]])
    setattr(reference.get_submodule(parent_name), attribute, restacked)
    return reference


def assert_same_tensors(actual, expected):
    assert actual.keys() == expected.keys()
    for name in expected:
        assert actual[name].dtype == expected[name].dtype, name
        assert torch.equal(actual[name], expected[name]), name


def tiny_bert(model_class=BertForSequenceClassification, **config_kwargs):
    torch.manual_seed(0)
    return model_class(BertConfig(**SMALL, initializer_range=0.2, **config_kwargs)).eval()


# --- which layers ---


@pytest.mark.parametrize(
    ("strategy", "layers"),
    [
        ("top", (1, 2, 3, 4, 5, 6)),
        ("bottom", (7, 8, 9, 10, 11, 12)),
        ("odd", (1, 3, 5, 7, 9, 11)),
        ("even", (2, 4, 6, 8, 10, 12)),
        ("uniform", (2, 4, 6, 8, 10, 12)),
        ("random", ()),
    ],
)
def test_strategy_selects_half_of_twelve_layers(strategy, layers):
    assert select_layers(strategy, 12) == layers


def test_top_and_bottom_and_their_synonyms_select_the_asked_number_of_layers():
    for depth in range(1, 13):
        assert select_layers("top", 12, depth) == select_layers("first", 12, depth) == tuple(range(1, depth + 1))
        assert select_layers("bottom", 12, depth) == select_layers("last", 12, depth) == tuple(range(13 - depth, 13))


def test_uniform_spreads_layers_evenly():
    expected = {1: (12,), 3: (4, 8, 12), 5: (2, 5, 7, 10, 12), 8: (2, 3, 5, 6, 8, 9, 11, 12)}
    assert {depth: select_layers("uniform", 12, depth) for depth in expected} == expected


def test_a_student_deeper_than_its_teacher_is_spread_over_all_its_layers():
    assert spread_evenly(4, 6) == (1, 1, 2, 3, 3, 4)
    assert spread_evenly(2, 9) == (1, 1, 1, 1, 1, 1, 2, 2, 2)


def test_uniform_increases_keeps_the_last_layer_and_has_gaps_that_differ_by_one_at_most():
    for num_teacher_layers in range(1, 49):
        for depth in range(1, num_teacher_layers + 1):
            layers = select_layers("uniform", num_teacher_layers, depth)
            gaps = [after - before for before, after in zip((0, *layers), layers)]
            assert len(layers) == depth
            assert layers[-1] == num_teacher_layers
            assert min(gaps) >= 1
            assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("strategy", ["odd", "even"])
def test_every_second_layer_without_an_exact_half_names_uniform(strategy):
    for num_teacher_layers, depth, found in ((7, None, 3), (7, 3, 3), (12, 4, 4), (12, 7, 7)):
        with pytest.raises(UserError, match=f"{strategy} .* N = {num_teacher_layers} .* K = {found}. .*uniform"):
            select_layers(strategy, num_teacher_layers, depth)


def test_the_selections_by_position_are_those_of_all_strategies_that_can_choose_so_many_layers():
    assert set(BY_POSITION) == {*STRATEGIES} - {*EVIDENCE_STRATEGIES, *SYNONYMS, "random", "narrow"}
    for num_teacher_layers, depth in ((12, 6), (12, 5), (7, 3), (4, 2), (4, 4)):
        possible = {}
        for strategy in BY_POSITION:
            with suppress(UserError):
                possible[strategy] = select_layers(strategy, num_teacher_layers, depth)
        assert dict(selections_by_position(num_teacher_layers, depth)) == possible


def test_depth_outside_the_teacher_is_an_error():
    for strategy in STRATEGIES:
        for depth in (0, 13):
            with pytest.raises(UserError, match=f"--num_student_layers .* 12, .* found {depth}"):
                select_layers(strategy, 12, depth)


def test_a_strategy_that_cannot_be_used_says_what_can():
    for strategy in EVIDENCE_STRATEGIES:
        with pytest.raises(UserError, match=f"run_distillation.py --layer_strategy {strategy}, .*uniform"):
            select_layers(strategy, 12)
    with pytest.raises(UserError, match=f"--layer_strategy .*{', '.join(STRATEGIES)}, found 'middle'"):
        select_layers("middle", 12)


# --- what the student is made of ---


def assert_copied(student, teacher, layer_list, layers):
    """Every tensor of the student, buffers included, equals the teacher's tensor that it is copied from."""
    assert type(student) is type(teacher)
    student_layers, teacher_layers = student.get_submodule(layer_list), teacher.get_submodule(layer_list)
    assert len(student_layers) == student.config.num_hidden_layers == num_layers(student) == len(layers)
    for student_layer, layer in zip(student_layers, layers):
        assert_same_tensors(student_layer.state_dict(), teacher_layers[layer - 1].state_dict())

    def outside_the_layers(model):
        tensors = model.state_dict() | dict(model.named_buffers())
        return {key: tensor for key, tensor in tensors.items() if not key.startswith(layer_list)}

    expected = outside_the_layers(teacher)
    if student.config.model_type == "modernbert" and layers == (1,):  # no sliding window uses this buffer any more
        expected = {key: tensor for key, tensor in expected.items() if "sliding_attention" not in key}
    assert_same_tensors(outside_the_layers(student), expected)


@pytest.mark.parametrize("name", TINY_CLASSIFIERS)
def test_student_is_copied_and_computes_what_the_teachers_own_layers_compute_also_when_reloaded(
    name, make_teacher, inputs, tmp_path
):
    for layers in layer_sets(name):
        teacher = make_teacher(name)
        expected = logits_of(compose_by_hand(teacher, LAYER_LISTS[name], layers), inputs)
        assert not torch.allclose(expected, logits_of(teacher, inputs), atol=1e-2)

        student = build_student(teacher, layers)
        assert_copied(student, teacher, LAYER_LISTS[name], layers)
        student.save_pretrained(tmp_path)
        reloaded = type(student).from_pretrained(tmp_path)

        assert torch.equal(logits_of(student, inputs), expected), layers
        assert torch.equal(logits_of(reloaded, inputs), expected), layers


@pytest.mark.parametrize("name", TINY_CLASSIFIERS)
def test_student_of_all_layers_gives_the_teachers_logits(name, make_teacher, inputs):
    teacher = make_teacher(name)
    student = build_student(teacher, range(1, NUM_LAYERS + 1))
    assert torch.equal(logits_of(student, inputs), logits_of(teacher, inputs))
    assert student.config.to_dict() == teacher.config.to_dict()


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_teacher_is_unchanged_and_shares_no_memory_with_the_student(name, make_teacher):
    teacher, untouched = make_teacher(name), make_teacher(name)
    teacher.requires_grad_(False)

    student = build_student(teacher, (1, 4))
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert not any(module.training for module in student.modules())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()

    assert_same_tensors(teacher.state_dict(), untouched.state_dict())
    assert teacher.config.to_dict() == untouched.config.to_dict()
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_teacher_in_training_with_activation_checkpointing_can_be_copied(make_teacher):
    teacher = make_teacher("modernbert")
    teacher.activation_checkpointing_enable()
    teacher.train()
    student = build_student(teacher, (1, 3, 5))
    assert not student.training
    assert not student.is_activation_checkpointing
    assert teacher.training


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_student_of_a_teacher_in_half_precision_has_the_same_weights_in_float32(name, make_teacher):
    for dtype in (torch.bfloat16, torch.float16):
        teacher = make_teacher(name).to(dtype)
        student = build_student(teacher, (1, 2))
        assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
        assert torch.equal(student.classifier.weight, teacher.classifier.weight.float())


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_student_of_a_gemma_in_half_precision_computes_the_same_when_it_is_reloaded(name, inputs, tmp_path):
    """Gemma scales its embeddings by a constant that no checkpoint holds."""
    inputs = {"input_ids": inputs["input_ids"] % 90 + 5, "attention_mask": inputs["attention_mask"]}
    tiny_classifier(name).to(torch.bfloat16).save_pretrained(tmp_path)
    in_float32, in_half = (
        AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=dtype).eval()
        for dtype in (torch.float32, torch.bfloat16)
    )
    student = build_student(in_half, range(1, NUM_LAYERS + 1))
    assert torch.equal(logits_of(student, inputs), logits_of(in_float32, inputs))
    student.save_pretrained(tmp_path)
    assert torch.equal(logits_of(type(student).from_pretrained(tmp_path), inputs), logits_of(student, inputs))
    assert not {"float16", "bfloat16"} & set(re.findall(r"\w+", str(build_random_student(in_half).config)))


def test_student_keeps_labels_problem_type_and_attention_implementation():
    teacher = tiny_bert(
        id2label={0: "good", 1: "bad"},
        label2id={"good": 0, "bad": 1},
        problem_type=MULTI_LABEL,
        attn_implementation="eager",
    )
    student = build_student(teacher, (1, 3))
    assert student.config.id2label == {0: "good", 1: "bad"}
    assert student.config.label2id == {"good": 0, "bad": 1}
    assert student.config.problem_type == MULTI_LABEL
    assert student.config._attn_implementation == "eager"


def test_building_a_student_draws_no_random_numbers(make_teacher):
    teacher = make_teacher()
    state = torch.get_rng_state()
    build_student(teacher, (1, 2))
    assert torch.equal(torch.get_rng_state(), state)


def test_token_classifier_computes_what_its_own_layers_compute(inputs):
    teacher = tiny_bert(BertForTokenClassification, num_labels=5)
    expected = logits_of(compose_by_hand(teacher, "bert.encoder.layer", (4, 2)), inputs)
    assert torch.equal(logits_of(build_student(teacher, (4, 2)), inputs), expected)


def test_tied_weights_stay_tied():
    student = build_student(tiny_bert(BertForMaskedLM), (1, 3))
    assert student.cls.predictions.decoder.weight is student.bert.embeddings.word_embeddings.weight


def test_six_of_the_layers_of_bert_base_have_the_published_size():
    with init_empty_weights():
        teacher = BertForSequenceClassification(BertConfig(num_labels=3))
    assert teacher.num_parameters() == 109_484_547
    assert build_student(teacher, select_layers("even", 12)).num_parameters() == 66_957_315


# --- layers that differ from each other ---


def test_modernbert_layers_keep_their_kind_of_attention(make_teacher):
    teacher = make_teacher("modernbert")
    assert teacher.config.layer_types == ["full_attention", "sliding_attention", "sliding_attention"] * 2
    student = build_student(teacher, (1, 4, 3, 6))
    kinds = ["full_attention", "full_attention", "sliding_attention", "sliding_attention"]
    assert student.config.layer_types == kinds
    assert [layer.attention_type for layer in student.model.layers] == kinds
    assert [layer.attn.sliding_window for layer in student.model.layers] == [None, None, 5, 5]


def test_layer_1_of_modernbert_behind_another_is_an_error_that_says_so(make_teacher):
    teacher = make_teacher("modernbert")
    for layers, position in (((6, 1, 3), 2), ((2, 1), 2)):
        message = f"layer 1 .* layer {position}, .*ModernBert.*attn_norm.*--layer_strategy top"
        with pytest.raises(UserError, match=message):
            build_student(teacher, layers)


@pytest.mark.parametrize("name", ["modernbert", "modernbert-decoder", "modernvbert"])
def test_the_norm_of_modernberts_first_layer_is_folded_into_its_projections(name, caplog):
    """The folded projections are close to norm and projections; without the norm they are not."""
    teacher = tiny_classifier(name)
    student = build_student(teacher, (2, 4, 6))
    assert "layer 2" in caplog.text
    layers = find_layer_list(teacher)
    encoder = teacher.get_submodule(layers.rpartition(".")[0])
    states = encoder.embeddings(input_ids=torch.arange(99)[None])
    copied, (folded, *others) = teacher.get_submodule(layers)[1], student.get_submodule(layers)
    for part in ("q_proj", "k_proj", "v_proj") if name == "modernbert-decoder" else ("Wqkv",):
        projection = copied.attn.get_submodule(part)
        expected = projection(copied.attn_norm(states))
        errors = [
            (found - expected).norm() / expected.norm()
            for found in (folded.attn.get_submodule(part)(states), projection(states))
        ]
        assert errors[0] < errors[1] / 2
    assert_same_tensors(others[0].state_dict(), teacher.get_submodule(layers)[3].state_dict())
    assert torch.equal(folded.attn.Wo.weight, copied.attn.Wo.weight)
    assert_same_tensors(folded.mlp.state_dict(), copied.mlp.state_dict())


@pytest.mark.parametrize("name", ["modernbert", "modernbert-decoder", "modernvbert"])
def test_a_bias_of_the_norm_that_modernberts_projections_cannot_take_is_refused(name):
    def teacher(**entries):
        return tiny_classifier(name, **({"text_config": TEXT | entries} if name == "modernvbert" else entries))

    with pytest.raises(UserError, match="layer 2 .* layer 1, .*attn_norm.*bias.*--layer_strategy top"):
        build_student(teacher(norm_bias=True), (2, 4, 6))
    build_student(teacher(norm_bias=True, attention_bias=True), (2, 4, 6))
    unbiased = teacher(norm_bias=True)
    for layer in unbiased.get_submodule(find_layer_list(unbiased))[1:]:
        nn.init.zeros_(layer.attn_norm.bias)
    build_student(unbiased, (2, 4, 6))


def test_longformer_layers_keep_their_attention_window(tmp_path, inputs):
    torch.manual_seed(0)
    config = LongformerConfig(
        **SMALL, max_position_embeddings=64, initializer_range=0.2, attention_window=[4, 8, 8, 16]
    )
    teacher = LongformerForSequenceClassification(config).eval()

    student = build_student(teacher, (4, 1))
    student.save_pretrained(tmp_path)

    assert student.config.attention_window == [16, 4]
    windows = [layer.attention.self.one_sided_attn_window_size for layer in student.longformer.encoder.layer]
    assert windows == [8, 2]
    reloaded = LongformerForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(logits_of(reloaded, inputs), logits_of(student, inputs))


def test_deberta_config_list_as_long_as_the_teacher_is_deep_is_not_cut():
    teacher = TINY_CLASSIFIERS["deberta-v2"](2, NUM_LABELS)
    assert len(teacher.config.pos_att_type) == num_layers(teacher)
    assert build_student(teacher, (2,)).config.pos_att_type == ["p2c", "c2p"]


def test_layer_whose_scaling_depends_on_its_position_is_refused_elsewhere():
    config = GPT2Config(
        vocab_size=128, n_embd=32, n_layer=4, n_head=4, scale_attn_by_inverse_layer_idx=True, pad_token_id=0
    )
    teacher = GPT2ForSequenceClassification(config)
    with pytest.raises(UserError, match="layer 3 .* layer 2, .*GPT2.*scaling"):
        build_student(teacher, (1, 3))
    assert num_layers(build_student(teacher, (1, 2))) == 2


# --- errors ---


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((), "at least one layer"),
        ((0, 13), "from 1, .* to 6, .* found 0,13 in 0,13"),
        ((1, 7), "found 7 in 1,7"),
        ((-1, 2), "found -1 in -1,2"),
        ((1, 3, 3), "found 3 more than once in 1,3,3"),
    ],
)
def test_list_that_does_not_fit_the_teacher_is_an_error(layers, message, make_teacher):
    with pytest.raises(UserError, match=f"--layers .*{message}"):
        build_student(make_teacher(), layers)


@pytest.mark.parametrize(
    "make_layers",
    [
        lambda: np.array([1, 3]),
        lambda: torch.tensor([1, 3]),
        lambda: (n for n in (1, 3)),
        lambda: dict.fromkeys((1, 3)),
    ],
    ids=["array", "tensor", "generator", "dict"],
)
def test_layers_may_be_whatever_yields_them_in_an_order(make_layers, make_teacher):
    teacher = make_teacher()
    assert_same_tensors(
        build_student(teacher, make_layers()).state_dict(), build_student(teacher, (1, 3)).state_dict()
    )


@pytest.mark.parametrize(
    "layers", ["1,3", {1, 3}, np.array([1.0, 2.5]), torch.tensor([1.0, 3.0]), [1, None], 3, None], ids=str
)
def test_layers_that_are_no_sequence_of_whole_numbers_are_an_error(layers, make_teacher):
    with pytest.raises(UserError, match=f"`layers` .* such as .*, found {re.escape(repr(layers))}"):
        build_student(make_teacher(), layers)


@pytest.mark.parametrize(
    ("build_teacher", "message"),
    [
        pytest.param(
            lambda: AlbertForSequenceClassification(AlbertConfig(**SMALL, embedding_size=16)),
            "num_hidden_layers = 4, but AlbertForSequenceClassification has none.*shared",
            id="albert",
        ),
        pytest.param(
            lambda: BartForSequenceClassification(
                BartConfig(vocab_size=128, d_model=32, encoder_layers=2, decoder_layers=4, encoder_ffn_dim=64)
            ),
            "an encoder and a decoder",
            id="bart",
        ),
        pytest.param(
            lambda: XLMForSequenceClassification(XLMConfig(vocab_size=128, emb_dim=32, n_layers=4, n_heads=4)),
            r"has several: transformer\.attentions, transformer\.",
            id="xlm",
        ),
    ],
)
def test_teacher_without_one_list_of_layers_is_an_error(build_teacher, message):
    teacher = build_teacher()
    for function in (num_layers, lambda model: build_student(model, (1,)), build_random_student):
        with pytest.raises(UserError, match=message):
            function(teacher)


def test_a_list_that_has_as_many_entries_by_chance_is_no_list_of_layers():
    """ALBERT runs the layers of a group again and again, as often as its depth says."""
    teacher = tiny_classifier("albert", "", inner_group_num=NUM_LAYERS)
    with pytest.raises(UserError, match=r"albert_layer_groups\.0\.albert_layers .* 6 .* depth 3; .*another teacher"):
        build_student(teacher, (1, 3, 5))


def test_a_teacher_class_that_needs_more_than_a_config_is_refused_by_name(make_teacher):
    class NeedsMore(BertForSequenceClassification):
        def __init__(self, config, dropout):
            super().__init__(config)

    teacher = NeedsMore(make_teacher("bert").config, 0.1)
    with pytest.raises(UserError, match="`NeedsMore` needs dropout"):
        build_student(teacher, (1, 2))


# --- teachers that were changed after they were built ---


def changed_activations(teacher):
    for layer in teacher.bert.encoder.layer:
        layer.intermediate.intermediate_act_fn = nn.ReLU()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed_activations, r"layer\.0\.intermediate\.intermediate_act_fn: GELUActivation, ReLU; .* 4 more"),
        (lambda teacher: setattr(teacher.bert.pooler, "activation", nn.Identity()), "activation: Tanh, Identity"),
        (lambda teacher: setattr(teacher, "classifier", nn.Sequential(nn.Linear(32, 3))), "Linear, Sequential"),
        (lambda teacher: setattr(teacher, "classifier", nn.Linear(32, 6)), r"\(3, 32\), \(6, 32\)"),
        (lambda teacher: setattr(teacher.classifier, "bias", None), r"classifier\.bias: \(3,\), none"),
        (lambda teacher: nn.utils.parametrizations.weight_norm(teacher.classifier), "Linear, ParametrizedLinear"),
    ],
    ids=["activations", "pooler", "head", "labels", "bias", "weight norm"],
)
def test_a_teacher_with_other_modules_than_its_config_builds_is_refused(change, message, make_teacher):
    teacher = make_teacher("bert")
    change(teacher)
    with pytest.raises(UserError, match=message):
        build_student(teacher, (1, 2))


def test_what_does_not_change_the_answers_of_a_teacher_is_copied_or_left_out(make_teacher, inputs):
    teacher = make_teacher("bert")
    teacher.dropout = nn.Identity()
    teacher.bert.embeddings.dropout = nn.AlphaDropout(0.1)
    teacher.register_buffer("class_weights", torch.ones(3))
    teacher.probe = nn.Linear(32, 2)
    teacher.resize_token_embeddings(130)
    teacher.set_attn_implementation("eager")
    teacher.activation_checkpointing_enable()
    teacher.bert.register_forward_hook(lambda *_: None)
    student = build_student(teacher.eval(), range(1, NUM_LAYERS + 1))
    assert torch.equal(logits_of(student, inputs), logits_of(teacher, inputs))


# --- teachers with adapters ---


def teacher_with_adapters(make_teacher, config):
    torch.manual_seed(0)
    return get_peft_model(make_teacher("bert"), config).eval()


def test_student_of_a_peft_teacher_has_its_adapters_merged(make_teacher, inputs):
    config = LoraConfig(
        task_type="SEQ_CLS", target_modules=["query", "value"], modules_to_save=["classifier"], init_lora_weights=False
    )
    teacher = teacher_with_adapters(make_teacher, config)
    before = logits_of(teacher, inputs)
    student = build_student(teacher, range(1, num_layers(teacher) + 1))
    assert not any("lora" in name for name in student.state_dict())
    torch.testing.assert_close(logits_of(student, inputs), before, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits_of(teacher, inputs), before, rtol=0, atol=0)


def test_adapters_on_a_base_in_half_precision_are_merged_in_float32(make_teacher, inputs):
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"])
    torch.manual_seed(0)
    teacher = get_peft_model(make_teacher("bert").to(torch.bfloat16), config).eval()
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.001)  # a change of a weight that bfloat16 does not hold
    student = build_student(teacher, range(1, NUM_LAYERS + 1))
    torch.testing.assert_close(
        logits_of(student, inputs), logits_of(deepcopy(teacher).float(), inputs), rtol=0, atol=1e-5
    )


def test_adapters_of_several_kinds_are_merged(make_teacher, inputs):
    torch.manual_seed(0)
    lora = LoraConfig(target_modules=["query"], init_lora_weights=False)
    teacher = get_peft_model(make_teacher("bert"), lora, mixed=True)
    teacher.add_adapter("second", LoHaConfig(target_modules=["key"], init_weights=False))
    teacher.set_adapter(["default", "second"])
    student = build_student(teacher.eval(), range(1, NUM_LAYERS + 1))
    torch.testing.assert_close(logits_of(student, inputs), logits_of(teacher, inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_merged", [False, True])
def test_adapters_that_are_switched_off_are_left_out(is_merged, make_teacher, inputs):
    config = LoraConfig(
        task_type="SEQ_CLS", target_modules=["query"], modules_to_save=["classifier"], init_lora_weights=False
    )
    teacher = teacher_with_adapters(make_teacher, config)
    with torch.no_grad():
        teacher.base_model.model.classifier.modules_to_save["default"].weight.normal_()
    if is_merged:
        teacher.merge_adapter()
    with teacher.disable_adapter():
        student = build_student(teacher, range(1, NUM_LAYERS + 1))
    expected = logits_of(make_teacher("bert"), inputs)
    torch.testing.assert_close(logits_of(student, inputs), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits_of(teacher, inputs), expected, atol=1e-2)


def test_teachers_with_adapters_that_cannot_be_merged_are_refused(make_teacher):
    classifier = {"task_type": "SEQ_CLS"}
    for config, message in (
        (PromptTuningConfig(**classifier, num_virtual_tokens=2), "PROMPT_TUNING.*LoRA"),
        (LilyConfig(**classifier, target_modules=["query"]), "LILY.*LoRA"),
        # PEFT leaves the trained head wrapped.
        (LNTuningConfig(**classifier, target_modules=["LayerNorm"]), "LN_TUNING.*classifier.*LoRA"),
    ):
        with pytest.raises(UserError, match=message):
            build_student(teacher_with_adapters(make_teacher, config), (1, 2))
    native = make_teacher("bert")
    native.add_adapter(LoraConfig(target_modules=["query", "value"]))
    with pytest.raises(UserError, match="merge_and_unload"):
        build_student(native, (1, 2))


@pytest.mark.parametrize(
    ("model_type", "options"), [("zamba", {}), ("llama", {"layer_replication": [[0, 4], [2, 4]]})]
)
def test_adapters_of_a_weight_that_several_modules_share_are_refused(model_type, options):
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"], init_lora_weights=False, **options)
    with pytest.raises(UserError, match="LORA.*share"):
        build_student(get_peft_model(tiny_classifier(model_type), config), range(1, NUM_LAYERS + 1))


# --- the control without copied layers ---


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_random_student_has_the_architecture_of_the_student_of_the_first_layers(name, make_teacher):
    teacher = make_teacher(name)
    student, copied = build_random_student(teacher, 4), build_student(teacher, (1, 2, 3, 4))
    assert student.config.to_dict() == copied.config.to_dict()
    assert {key: tensor.shape for key, tensor in student.state_dict().items()} == {
        key: tensor.shape for key, tensor in copied.state_dict().items()
    }
    assert not student.training


def test_random_student_has_no_weight_matrix_of_the_teacher(make_teacher):
    teacher = make_teacher()
    for name, parameter in build_random_student(teacher).named_parameters():
        if parameter.dim() == 2:
            assert not torch.equal(parameter, teacher.get_parameter(name)), name


def test_random_student_follows_the_global_seed_and_is_float32(make_teacher):
    teacher = make_teacher().to(torch.bfloat16)
    torch.manual_seed(1)
    first = build_random_student(teacher)
    torch.manual_seed(1)
    second = build_random_student(teacher)
    torch.manual_seed(2)
    other = build_random_student(teacher)
    assert first.dtype == torch.float32
    assert num_layers(first) == NUM_LAYERS // 2
    assert_same_tensors(first.state_dict(), second.state_dict())
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


# --- arguments and log line ---


def test_default_arguments_copy_the_odd_half(make_teacher):
    student, layers = student_from_arguments(make_teacher(), StudentArguments())
    assert layers == (1, 3, 5)
    assert num_layers(student) == 3


def test_explicit_list_keeps_its_order_and_wins_over_strategy_and_depth(make_teacher):
    teacher = make_teacher()
    student_args = StudentArguments(layer_strategy="random", layers="6, 1,3", num_student_layers=2)
    student, layers = student_from_arguments(teacher, student_args)
    assert layers == (6, 1, 3)
    for student_layer, layer in zip(student.bert.encoder.layer, layers):
        assert_same_tensors(student_layer.state_dict(), teacher.bert.encoder.layer[layer - 1].state_dict())


def test_random_strategy_gives_a_fresh_student_of_the_asked_depth(make_teacher):
    teacher = make_teacher()
    student, layers = student_from_arguments(teacher, StudentArguments(layer_strategy="random", num_student_layers=2))
    assert layers == ()
    assert num_layers(student) == 2
    assert not torch.equal(student.classifier.weight, teacher.classifier.weight)


def test_arguments_are_parsed_from_the_command_line():
    (student_args,) = HfArgumentParser(StudentArguments).parse_args_into_dataclasses(
        ["--layer_strategy", "uniform", "--layers", "1,3,5", "--num_student_layers", "3"]
    )
    assert student_args == StudentArguments(layer_strategy="uniform", layers="1,3,5", num_student_layers=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer_strategy": "middle"}, "--layer_strategy .* 'middle'"),
        ({"num_student_layers": 0}, "--num_student_layers .* 0"),
        ({"layers": ""}, "--layers"),
        ({"layers": "1,three"}, "'1,three'"),
        ({"layers": "1,,3"}, "'1,,3'"),
        ({"layers": "0,13"}, "--layers .* 0 in 0,13"),
        ({"layers": "2,2"}, "--layers .* 2 more than once in 2,2"),
        ({"search_budget": 0}, "--search_budget .* 0"),
        ({"search_budget": float("nan")}, "--search_budget .* nan"),
        ({"stages": "3,4"}, "--stages .* 3,4"),
        ({"stages": "3,3"}, "--stages .* 3,3"),
        ({"stages": "3,0"}, "--stages .* 3,0"),
        ({"stages": "3,two"}, "'3,two'"),
        ({"stages": "3,2", "layers": "1,2"}, "--stages 3,2 .* --layers 1,2"),
        ({"stages": "3,2", "num_student_layers": 2}, "--stages 3,2 .* --num_student_layers 2"),
        ({"stages": "3,2", "layer_strategy": "random"}, "--stages .* --layer_strategy random .* uniform"),
        ({"student_name_or_path": "x", "layer_strategy": "even"}, "--student_name_or_path x .* --layer_strategy even"),
        ({"student_name_or_path": "x", "layers": "1"}, "--student_name_or_path x .* --layers 1"),
        ({"student_name_or_path": "x", "num_student_layers": 1}, "--student_name_or_path x .* --num_student_layers 1"),
        ({"student_name_or_path": "x", "stages": "2,1"}, "--student_name_or_path x .* --stages 2,1"),
    ],
)
def test_arguments_that_fit_no_teacher_are_refused_when_parsed(arguments, message):
    with pytest.raises(UserError, match=message):
        StudentArguments(**arguments)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({}, "odd"),
        ({"layers": "1,3"}, "1,3"),
        ({"layer_strategy": "top", "stages": "3,2"}, "top-3,2"),
        ({"student_name_or_path": "models/small"}, "small"),
    ],
)
def test_the_name_for_folders_says_what_the_student_starts_from(arguments, name):
    assert StudentArguments(**arguments).short_name == name


@pytest.mark.parametrize(
    ("strategy", "depth", "stages", "expected"),
    [
        ("odd", 6, "5,4,3", [(1, 3, 4, 5, 6), (1, 3, 5, 6), (1, 3, 5)]),
        ("even", 6, "4,3", [(2, 4, 5, 6), (2, 4, 6)]),
        ("top", 6, "5,3", [(1, 2, 3, 5, 6), (1, 2, 3)]),
        ("uniform", 12, "9,6", [(2, 3, 4, 6, 7, 8, 10, 11, 12), (2, 4, 6, 8, 10, 12)]),
        ("uniform", 4, "1", [(4,)]),
    ],
)
def test_stages_end_with_the_layers_of_the_strategy_and_have_more_on_the_way(strategy, depth, stages, expected):
    kept = tuple(range(1, depth + 1))
    for stage_args, layers in zip(
        StudentArguments(layer_strategy=strategy, stages=stages).per_stage(depth), expected, strict=True
    ):
        kept = tuple(kept[position - 1] for position in parse_layers(stage_args.layers))
        assert kept == layers
    assert kept == select_layers(strategy, depth, len(kept))


def test_by_evidence_every_stage_chooses_again_and_without_stages_there_is_one():
    student_args = StudentArguments(layer_strategy="search", stages="5,3", search_budget=2)
    assert student_args.per_stage(6) == tuple(
        StudentArguments(layer_strategy="search", num_student_layers=depth, search_budget=2) for depth in (5, 3)
    )
    assert StudentArguments().per_stage(6) == (StudentArguments(),)


def test_description_pairs_the_layers():
    assert "1 <- 2, 2 <- 4, 3 <- 6 (3 of 6 layers)" in describe_mapping((2, 4, 6), 6)


def test_description_of_the_control_says_that_nothing_is_copied():
    assert "none copied from the teacher's 12" in describe_mapping((), 12)
