"""Tests of `layer_mapping`: which layers are chosen, and that the student is made of exactly those."""

from copy import deepcopy

import pytest
import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
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

from layer_distillation.encoder_layers import num_layers
from layer_mapping import (
    EVIDENCE_STRATEGIES,
    STRATEGIES,
    build_random_student,
    build_student,
    describe_mapping,
    parse_layers,
    required_layers,
    select_layers,
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
# ModernBERT's layer 1 has to stay first, so every architecture takes the first three and all but ModernBERT the rest.
LAYERS_STARTING_WITH_1 = [(1, 3, 5), (1, 6, 2, 4), (1,)]
LAYERS_STARTING_ELSEWHERE = [(2, 4, 6), (6, 1, 3), (4,)]
CASES = [(name, layers) for name in TINY_CLASSIFIERS for layers in LAYERS_STARTING_WITH_1] + [
    (name, layers) for name in TINY_CLASSIFIERS if name != "modernbert" for layers in LAYERS_STARTING_ELSEWHERE
]


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


@pytest.mark.parametrize(("strategy", "synonym"), [("top", "first"), ("bottom", "last")])
@pytest.mark.parametrize("depth", range(1, 13))
def test_synonyms_select_the_same_layers(strategy, synonym, depth):
    assert select_layers(strategy, 12, depth) == select_layers(synonym, 12, depth)


def test_top_and_bottom_select_the_asked_number_of_layers():
    assert select_layers("top", 12, 4) == (1, 2, 3, 4)
    assert select_layers("bottom", 12, 4) == (9, 10, 11, 12)


@pytest.mark.parametrize(("depth", "layers"), [(1, (12,)), (3, (4, 8, 12)), (5, (2, 5, 7, 10, 12)), (8, None)])
def test_uniform_spreads_layers_evenly(depth, layers):
    assert select_layers("uniform", 12, depth) == (layers or (2, 3, 5, 6, 8, 9, 11, 12))


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
@pytest.mark.parametrize(("num_teacher_layers", "depth"), [(7, None), (7, 3), (12, 4), (12, 7)])
def test_every_second_layer_without_an_exact_half_names_uniform(strategy, num_teacher_layers, depth):
    with pytest.raises(ValueError, match=rf"'{strategy}'.*N = {num_teacher_layers} and K = .*'uniform'"):
        select_layers(strategy, num_teacher_layers, depth)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("depth", [-1, 0, 13])
def test_depth_outside_the_teacher_is_an_error(strategy, depth):
    with pytest.raises(ValueError, match=rf"between 1 and 12 layers.*got {depth}.*--num_student_layers"):
        select_layers(strategy, 12, depth)


@pytest.mark.parametrize("strategy", EVIDENCE_STRATEGIES)
def test_a_strategy_that_needs_data_says_where_it_can_be_used(strategy):
    message = f"'{strategy}' chooses layers by what .* run_distillation.py --layer_strategy {strategy}, or .*'uniform'"
    with pytest.raises(ValueError, match=message):
        select_layers(strategy, 12)


def test_unknown_strategy_error_lists_the_strategies():
    with pytest.raises(ValueError, match="top, first, bottom, last, odd, .* block_influence, got 'middle'"):
        select_layers("middle", 12)


# --- what the student is made of ---


@pytest.mark.parametrize(("name", "layers"), CASES)
def test_every_student_tensor_equals_the_teacher_tensor_it_is_copied_from(name, layers, make_teacher):
    teacher, layer_list = make_teacher(name), LAYER_LISTS[name]

    student = build_student(teacher, layers)

    assert type(student) is type(teacher)
    student_layers, teacher_layers = student.get_submodule(layer_list), teacher.get_submodule(layer_list)
    assert len(student_layers) == student.config.num_hidden_layers == num_layers(student) == len(layers)
    for student_layer, layer in zip(student_layers, layers):
        assert_same_tensors(student_layer.state_dict(), teacher_layers[layer - 1].state_dict())

    def outside_the_layers(model):
        tensors = model.state_dict() | dict(model.named_buffers())
        return {key: tensor for key, tensor in tensors.items() if not key.startswith(layer_list)}

    expected = outside_the_layers(teacher)
    if name == "modernbert" and layers == (1,):  # no sliding-window layer is left to use this buffer
        expected = {key: tensor for key, tensor in expected.items() if "sliding_attention" not in key}
    assert_same_tensors(outside_the_layers(student), expected)


@pytest.mark.parametrize(("name", "layers"), CASES)
def test_student_computes_what_the_teachers_own_layers_compute_also_when_reloaded(
    name, layers, make_teacher, inputs, tmp_path
):
    teacher = make_teacher(name)
    expected = logits_of(compose_by_hand(teacher, LAYER_LISTS[name], layers), inputs)
    assert not torch.allclose(expected, logits_of(teacher, inputs), atol=1e-2)

    student = build_student(teacher, layers)
    student.save_pretrained(tmp_path)
    reloaded = type(student).from_pretrained(tmp_path)

    assert torch.equal(logits_of(student, inputs), expected)
    assert torch.equal(logits_of(reloaded, inputs), expected)


@pytest.mark.parametrize("name", TINY_CLASSIFIERS)
def test_student_of_all_layers_gives_the_teachers_logits(name, make_teacher, inputs):
    teacher = make_teacher(name)
    student = build_student(teacher, range(1, NUM_LAYERS + 1))
    assert torch.equal(logits_of(student, inputs), logits_of(teacher, inputs))
    assert student.config.to_dict() == teacher.config.to_dict()


@pytest.mark.parametrize("name", TINY_CLASSIFIERS)
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_student_keeps_the_teachers_dtypes(name, dtype, make_teacher):
    teacher = make_teacher(name).to(dtype)
    teacher.classifier.float()
    student = build_student(teacher, (1, 2))
    assert student.dtype == dtype
    assert student.classifier.weight.dtype == torch.float32


def test_student_keeps_labels_problem_type_and_attention_implementation():
    teacher = tiny_bert(
        id2label={0: "good", 1: "bad"},
        label2id={"good": 0, "bad": 1},
        problem_type="multi_label_classification",
        attn_implementation="eager",
    )
    student = build_student(teacher, (1, 3))
    assert student.config.id2label == {0: "good", 1: "bad"}
    assert student.config.label2id == {"good": 0, "bad": 1}
    assert student.config.problem_type == "multi_label_classification"
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


@pytest.mark.parametrize(
    ("layers", "layer", "position"), [((2, 4, 6), 2, 1), ((6, 1, 3), 6, 1), ((4,), 4, 1), ((2, 1), 2, 1)]
)
def test_modernbert_without_layer_1_in_first_place_is_an_error_that_says_so(layers, layer, position, make_teacher):
    message = rf"layer {layer} cannot be the student's layer {position}: ModernBert.*attn_norm.*layer 1 first.*'odd'"
    with pytest.raises(ValueError, match=message):
        build_student(make_teacher("modernbert"), layers)


@pytest.mark.parametrize("strategy", ["top", "odd"])
def test_modernbert_accepts_the_strategies_that_its_error_names(strategy, make_teacher):
    assert num_layers(build_student(make_teacher("modernbert"), select_layers(strategy, NUM_LAYERS))) == 3


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
    with pytest.raises(ValueError, match="layer 3 cannot be the student's layer 2: GPT2.*scaling"):
        build_student(teacher, (1, 3))
    assert num_layers(build_student(teacher, (1, 2))) == 2


# --- errors ---


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((), "empty"),
        ((0, 13), r"1\.\.6 \(1-based.*got 0,13 in 0,13"),
        ((1, 7), r"1\.\.6 \(1-based.*got 7 in 1,7"),
        ((-1, 2), r"1\.\.6 \(1-based.*got -1 in -1,2"),
        ((1, 3, 3), "got 3 more than once in 1,3,3"),
    ],
)
def test_list_that_does_not_fit_the_teacher_is_an_error(layers, message, make_teacher):
    with pytest.raises(ValueError, match=message):
        build_student(make_teacher(), layers)


@pytest.mark.parametrize(
    ("build_teacher", "message"),
    [
        pytest.param(
            lambda: AlbertForSequenceClassification(AlbertConfig(**SMALL, embedding_size=16)),
            "num_hidden_layers = 4, and AlbertForSequenceClassification has none.*shared",
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
@pytest.mark.parametrize("function", [num_layers, lambda teacher: build_student(teacher, (1,)), build_random_student])
def test_teacher_without_one_list_of_layers_is_an_error(function, build_teacher, message):
    with pytest.raises(ValueError, match=message):
        function(build_teacher())


# --- the control without copied layers ---


@pytest.mark.parametrize("name", TINY_CLASSIFIERS)
def test_random_student_has_the_architecture_of_the_student_of_the_first_layers(name, make_teacher):
    teacher = make_teacher(name)
    student, copied = build_random_student(teacher, 4), build_student(teacher, (1, 2, 3, 4))
    assert student.config.to_dict() == copied.config.to_dict() | {"dtype": "float32"}
    assert {key: tensor.shape for key, tensor in student.state_dict().items()} == {
        key: tensor.shape for key, tensor in copied.state_dict().items()
    }
    assert not student.training


def test_random_student_has_no_weight_matrix_of_the_teacher(make_teacher):
    teacher = make_teacher()
    for name, parameter in build_random_student(teacher).named_parameters():
        if parameter.dim() == 2:
            assert not torch.equal(parameter, teacher.get_parameter(name)), name


def test_random_student_follows_the_global_seed_and_the_teachers_dtype(make_teacher):
    teacher = make_teacher().to(torch.bfloat16)
    torch.manual_seed(1)
    first = build_random_student(teacher)
    torch.manual_seed(1)
    second = build_random_student(teacher)
    torch.manual_seed(2)
    other = build_random_student(teacher)
    assert first.dtype == torch.bfloat16
    assert num_layers(first) == NUM_LAYERS // 2
    assert_same_tensors(first.state_dict(), second.state_dict())
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


@pytest.mark.parametrize("name", TINY_CLASSIFIERS)
def test_the_layers_that_are_required_are_those_without_which_no_student_can_be_built(make_teacher, name):
    teacher = make_teacher(name)
    assert required_layers(teacher) == ((1,) if name == "modernbert" else ())
    if name == "modernbert":
        with pytest.raises(ValueError, match="Keep the teacher's layer 1 first"):
            build_student(teacher, (2,))
    else:
        build_student(teacher, (2,))


# --- arguments and log line ---


def test_default_arguments_copy_the_even_half(make_teacher):
    student, layers = student_from_arguments(make_teacher(), StudentArguments())
    assert layers == (2, 4, 6)
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
        ({"layer_strategy": "middle"}, "got 'middle'"),
        ({"num_student_layers": 0}, "--num_student_layers 0"),
        ({"layers": ""}, "empty"),
        ({"layers": "1,three"}, "whole numbers separated by commas.*'1,three'"),
        ({"layers": "1,,3"}, "whole numbers separated by commas.*'1,,3'"),
        ({"layers": "0,13"}, r"1\.\.N \(1-based.*got 0 in 0,13"),
        ({"layers": "2,2"}, "got 2 more than once in 2,2"),
        ({"search_budget": 0}, "--search_budget is a number > 0 .* got 0; try 0.5"),
        ({"search_budget": float("nan")}, "--search_budget is a number > 0 .* got nan"),
        ({"stages": "3,4"}, "each smaller than the one before, such as 5,4,3, got --stages 3,4"),
        ({"stages": "3,3"}, "each smaller than the one before, .* got --stages 3,3"),
        ({"stages": "3,0"}, "depths of at least 1, .* got --stages 3,0"),
        ({"stages": "3,two"}, "whole numbers separated by commas.*'3,two'"),
        ({"stages": "3,2", "layers": "1,2"}, "--stages 3,2 says how deep .* cannot go with --layers, got 1,2"),
        ({"stages": "3,2", "num_student_layers": 2}, "--stages 3,2 .* cannot go with --num_student_layers, got 2"),
        ({"stages": "3,2", "layer_strategy": "random"}, "--layer_strategy random copies nothing. Use 'uniform'"),
        ({"student_name_or_path": "x", "layer_strategy": "even"}, "cannot go with --layer_strategy, found even"),
        ({"student_name_or_path": "x", "layers": "1"}, "cannot go with --layers, found 1"),
        ({"student_name_or_path": "x", "num_student_layers": 1}, "cannot go with --num_student_layers, found 1"),
        ({"student_name_or_path": "x", "stages": "2,1"}, "cannot go with --stages, found 2,1"),
    ],
)
def test_arguments_that_fit_no_teacher_are_refused_when_parsed(arguments, message):
    with pytest.raises(ValueError, match=message):
        StudentArguments(**arguments)


def test_layer_beyond_the_teacher_is_an_error_that_gives_its_range(make_teacher):
    with pytest.raises(ValueError, match=r"1\.\.6 \(1-based.*layer 6 nearest the head.*got 13 in 1,13"):
        student_from_arguments(make_teacher(), StudentArguments(layers="1,13"))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({}, "even"),
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


def test_by_evidence_every_stage_chooses_anew_and_without_stages_there_is_one():
    student_args = StudentArguments(layer_strategy="search", stages="5,3", search_budget=2)
    assert student_args.per_stage(6) == tuple(
        StudentArguments(layer_strategy="search", num_student_layers=depth, search_budget=2) for depth in (5, 3)
    )
    assert StudentArguments().per_stage(6) == (StudentArguments(),)


def test_description_pairs_the_layers_and_says_the_direction():
    assert describe_mapping((2, 4, 6), 6) == (
        "Student layer <- teacher layer, from the embeddings to the head: 1 <- 2, 2 <- 4, 3 <- 6 (3 of 6 layers)"
    )


def test_description_of_the_control_says_that_nothing_is_copied():
    assert describe_mapping((), 12) == (
        "Student layers: none copied from the teacher's 12, every student weight is fresh"
    )
