"""Tests of students of every mechanism by which a layer's number or the depth enters the computation."""

import re

import pytest
import torch
from transformers import AutoModelForCausalLM

from experiments.kept_layers import logits_of, logits_of_kept_layers
from experiments.tiny_classifiers import tiny_classifier, tiny_config
from layer_distillation.encoder_layers import num_layers
from layer_distillation.errors import UserError
from layer_distillation.student_config import config_of_layers
from layer_mapping import build_random_student, build_student, parse_layers, select_layers
from tests.tiny_architectures import MECHANISMS

LISTS = ((2, 4, 6), (1, 3, 5), (4, 5, 6), (6, 1, 3, 2), (3,))
# Lists that the config of a student cannot describe, or whose layers transformers cannot stack.
REFUSED = {
    "zamba2, two shared blocks in turn": ((6, 1, 3, 2),),
    "zamba, one shared block": ((3,),),
    "reformer, padding by the kinds of layers": ((2, 4, 6), (1, 3, 5), (3,)),
    "gpt2, attention scaled by the number of a layer": LISTS,
    "diffllama, differences weighted by the number of a layer": LISTS,
    "esmc, outputs divided by the depth": LISTS,
    "funnel, blocks that shorten the text": LISTS,
    "deepseek_v3, dense layers first": ((6, 1, 3, 2),),
    "modernbert, no norm in the first layer": ((6, 1, 3, 2),),
    "modernvbert, depth in the text config": ((6, 1, 3, 2),),
}
# Lists whose first layer has a norm that is folded into its projections.
CLOSE = dict.fromkeys(
    ("modernbert, no norm in the first layer", "modernvbert, depth in the text config"), ((2, 4, 6), (4, 5, 6), (3,))
)


@pytest.fixture(scope="module")
def inputs():
    attention_mask = torch.ones(2, 24, dtype=torch.long)
    attention_mask[1, 15:] = 0
    input_ids = torch.randint(5, 30, (2, 24), generator=torch.Generator().manual_seed(0))
    return {"input_ids": input_ids * attention_mask, "attention_mask": attention_mask}


def followed(message, teacher):
    """Returns the lists of layers that a refusal says to use."""
    depth = num_layers(teacher)
    lists = [parse_layers(text) for text in re.findall(r"--layers ([\d,]+\d|\d)", message)]
    for strategy, _, count in re.findall(r"--layer_strategy (\w+)( --num_student_layers (\d+))?", message):
        lists.append(select_layers(strategy, depth, int(count) if count else None))
    return lists


def assert_is_one_sentence(message):
    assert len(message) < 600
    assert ". " not in message.removesuffix(".")


@pytest.mark.parametrize("name", MECHANISMS)
def test_student_computes_what_its_teacher_does_without_the_other_layers_also_when_reloaded(name, inputs, tmp_path):
    teacher = MECHANISMS[name]()
    assert torch.equal(logits_of(build_student(teacher, range(1, 7)), inputs), logits_of(teacher, inputs))
    for layers in LISTS:
        if layers in REFUSED.get(name, ()):
            with pytest.raises(UserError) as error:
                build_student(teacher, layers)
            assert_is_one_sentence(str(error.value))
            for advised in followed(str(error.value), teacher):
                build_student(teacher, advised)
            continue
        student = build_student(teacher, layers)
        tolerance = 0.25 if layers in CLOSE.get(name, ()) else 0
        expected = logits_of_kept_layers(teacher, layers, inputs)
        assert not torch.allclose(expected, logits_of(teacher, inputs), atol=1e-2)
        student.save_pretrained(tmp_path)
        for model in (student, type(student).from_pretrained(tmp_path)):
            assert num_layers(model) == len(layers)
            assert (logits_of(model, inputs) - expected).abs().max() <= tolerance * expected.abs().max(), layers


def test_student_of_a_big_bird_that_turned_to_full_attention_has_it_too(tmp_path):
    teacher = tiny_classifier("big_bird", num_hidden_layers=2)
    inputs = {"input_ids": torch.randint(5, 90, (2, 48), generator=torch.Generator().manual_seed(0))}
    sparse = logits_of(teacher, inputs)
    assert torch.equal(logits_of(build_student(teacher, (1, 2)), inputs), sparse)
    logits_of(teacher, {"input_ids": inputs["input_ids"][:, :8]})
    full = logits_of(teacher, inputs)
    assert not torch.allclose(full, sparse, atol=1e-2)
    student = build_student(teacher, (1, 2))
    student.save_pretrained(tmp_path)
    for model in (student, type(student).from_pretrained(tmp_path)):
        assert torch.equal(logits_of(model, inputs), full)


def test_fresh_layers_that_transformers_cannot_build_are_refused():
    teacher = tiny_classifier("zamba", "one shared block")
    with pytest.raises(UserError, match="--num_student_layers"):
        build_random_student(teacher, 2)  # one hybrid layer
    assert num_layers(build_random_student(teacher, 3)) == 3


@pytest.mark.parametrize(
    ("model_type", "entries", "fitting", "refused"),
    [
        ("gemma4_unified_text", {}, ((2, 4, 6), (6,), (1, 3, 6)), ((1, 2, 3), (6, 1))),
        ("laguna", {"num_attention_heads_per_layer": [2, 4, 2, 4, 4, 2]}, ((2, 4, 6), (1, 3, 5), (6, 1, 2)), ()),
        ("olmo_hybrid", {}, ((2, 4, 6), (4, 5, 6)), ((1, 2, 3), (1, 3, 5))),
        ("recurrent_gemma", {}, ((1, 2, 3),), ((1, 3, 5),)),
        ("llama", {"per_layer_config": {1: {"rms_norm_eps": 0.5}, 4: {"skip": ["mlp"]}}}, ((2, 4, 6), (5, 1)), ()),
    ],
)
def test_the_config_of_a_student_describes_its_layers_when_it_is_loaded(
    model_type, entries, fitting, refused, inputs, tmp_path
):
    config = tiny_config(model_type, **entries)
    config.allow_global_per_layer_attribute_access = True
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        teacher = AutoModelForCausalLM.from_config(config).eval()
        for parameter in teacher.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    for layers in fitting:
        student = build_student(teacher, layers)
        student.save_pretrained(tmp_path)
        expected = logits_of_kept_layers(teacher, layers, inputs)
        for model in (student, type(student).from_pretrained(tmp_path)):
            torch.testing.assert_close(logits_of(model, inputs), expected)
    for layers in refused:
        with pytest.raises(UserError) as error:
            build_student(teacher, layers)
        assert_is_one_sentence(str(error.value))


def test_the_positions_of_a_layer_that_its_model_chooses_by_number_follow_the_layer():
    config = tiny_config("muse_glimmer_text", layer_rope_theta=[1e4, 0, 1e3, 1e4, 0, 1e5])
    assert config_of_layers(config, [5, 1, 2]).layer_rope_theta == [1e5, 0, 1e3]
