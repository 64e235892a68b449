"""Tests of students of every mechanism by which a layer's number or the depth enters the computation."""

import re
from copy import deepcopy

import pytest
import torch

from layer_distillation.encoder_layers import find_layer_list, num_layers
from layer_distillation.errors import UserError
from layer_mapping import build_student, parse_layers, required_layers, select_layers
from tests.tiny_architectures import MECHANISMS, tiny

LISTS = ((2, 4, 6), (1, 3, 5), (4, 5, 6), (6, 1, 3, 2), (3,))
# Lists that the config of a student cannot describe, or whose layers transformers cannot stack.
REFUSED = {
    "two shared blocks in turn": ((6, 1, 3, 2),),
    "one shared block": ((3,),),
    "padding by the kinds of layers": ((2, 4, 6), (1, 3, 5), (3,)),
    "attention scaled by the number of a layer": LISTS,
    "differences weighted by the number of a layer": LISTS,
    "outputs divided by the depth": LISTS,
    "blocks that shorten the text": LISTS,
    "dense layers first": ((6, 1, 3, 2),),
    "depth in the text config of ModernVBERT": ((2, 4, 6), (4, 5, 6), (6, 1, 3, 2), (3,)),
}


@pytest.fixture(scope="module")
def inputs():
    attention_mask = torch.ones(2, 24, dtype=torch.long)
    attention_mask[1, 15:] = 0
    input_ids = torch.randint(5, 30, (2, 24), generator=torch.Generator().manual_seed(0))
    return {"input_ids": input_ids * attention_mask, "attention_mask": attention_mask}


@torch.no_grad()
def logits_of(model, inputs):
    return model(**inputs).logits


def logits_of_kept_layers(teacher, layers, inputs):
    """Returns the logits of the teacher's own forward in which layers that are not kept pass their input on.

    Every layer passes its input on and records its arguments, and the last then runs the kept layers in student order,
    each with the arguments that it got at its own place.
    """
    model = deepcopy(teacher)
    stack = model.get_submodule(find_layer_list(model))
    originals, calls = [layer.forward for layer in stack], []

    def stand_in(*arguments, **options):
        calls.append((arguments, options))
        states = arguments[0]
        if len(calls) == len(stack):
            for layer in layers:
                (_, *rest), options = calls[layer - 1]
                states = states_of(originals[layer - 1](states, *rest, **options))
        return (states,) if returns_tuples else states

    def states_of(output):
        nonlocal returns_tuples
        returns_tuples = isinstance(output, tuple)
        return output[0] if returns_tuples else output

    returns_tuples = False
    hook = stack[0].register_forward_hook(lambda module, arguments, output: (states_of(output), None)[1])
    logits_of(model, inputs)
    hook.remove()
    for layer in stack:
        layer.forward = stand_in
    return logits_of(model, inputs | ({"use_cache": False} if "use_cache" in model.config.to_dict() else {}))


def logits_of_restacked_layers(teacher, layers, inputs):
    """Returns the logits of the teacher with the kept layers in place of all."""
    model = deepcopy(teacher)
    parent, _, name = find_layer_list(model).rpartition(".")
    stack = model.get_submodule(f"{parent}.{name}")
    setattr(model.get_submodule(parent), name, torch.nn.ModuleList([stack[layer - 1] for layer in layers]))
    model.config.use_cache = False  # which would look for the states of the layers that are gone
    return logits_of(model, inputs)


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
        # A layer of Reformer has two streams of states and no place to pass them on.
        is_reversible = teacher.config.model_type == "reformer"
        reference = logits_of_restacked_layers if is_reversible else logits_of_kept_layers
        expected = reference(teacher, layers, inputs)
        assert not torch.allclose(expected, logits_of(teacher, inputs), atol=1e-2)
        student.save_pretrained(tmp_path)
        for model in (student, type(student).from_pretrained(tmp_path)):
            assert num_layers(model) == len(layers)
            assert torch.equal(logits_of(model, inputs), expected), layers


def test_student_of_a_big_bird_that_turned_to_full_attention_has_it_too(tmp_path):
    teacher = tiny("big_bird", num_hidden_layers=2, block_size=4, num_random_blocks=1)
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


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("depth in the text config of ModernVBERT", (1,)),
        ("encoders of characters", ()),
        ("dense layers first", ()),
        ("padding by the kinds of layers", ()),
    ],
)
def test_layer_1_is_required_only_where_no_other_can_come_first(name, layers):
    assert required_layers(MECHANISMS[name]()) == layers
