"""Whether a layer would be built the same at its place in a student as at its place in the teacher.

    check_structure(teacher, student, indices)    # the student may be without weights
    check_unchanged(teacher)

Some layers are built by their number or by the depth: with other modules, shapes or factors. A teacher may have
modules that its config does not build.
"""

import copy
import json
from collections.abc import Sequence

from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from layer_distillation.encoder_layers import blueprint, find_layer_list
from layer_distillation.errors import UserError
from layer_distillation.first_norm import FIRST_NORM, lacks_first_norm, loses_bias
from layer_distillation.model_outputs import plain_attributes
from layer_distillation.precision import is_quantized
from layer_distillation.student_config import PER_LAYER_ENTRIES, encoder_config

# Attributes that only tell a layer its number or the depth. BigBird uses `seed` in training only. MiniMax keeps what
# it computes from the depth in buffers, which are copied.
LAYER_NUMBER_ATTRIBUTES = ("layer_idx", "layer_id", "block_id", "seed", "num_hidden_layers", "num_fwd_mem_blocks")
# Zamba2's shared block holds an adapter for each hybrid layer that uses it. Adapters are copied by the number of their
# hybrid layer, not by the place of the block.
ADAPTER_LISTS = "_adapter_list."


class Misfit(Exception):
    """Layers that would not compute in the student what they compute in the teacher; its message is the reason."""


def config_in_use(teacher: PreTrainedModel) -> PretrainedConfig:
    """Returns the config with the kind of attention that the teacher uses now.

    BigBird turns from sparse to full attention for good when it reads a batch of short texts, and its config does not.
    """
    attention_type = getattr(teacher.base_model, "attention_type", None)
    if attention_type is None or attention_type == teacher.config.attention_type:
        return teacher.config
    config = copy.deepcopy(teacher.config)
    config.attention_type = attention_type
    return config


def check_readable(config: PretrainedConfig, indices: Sequence[int]) -> None:
    """Raises a `Misfit` if the config of a student would be refused or changed when its checkpoint is loaded.

    Some configs refuse some lists of layers, such as one without attention. Gemma 4 always has the last layer attend
    to all tokens.

    Args:
        indices: 0-based teacher layers in student order.
    """
    layers = ",".join(str(index + 1) for index in indices)
    try:
        loaded = type(config).from_dict(json.loads(config.to_json_string()))
    except (StrictDataclassError, ValueError) as error:
        reason = str(error).splitlines()[-1].strip().removesuffix(".")
        raise Misfit(f"{type(config).__name__} refuses the layers {layers} ({reason})") from error
    for entry in PER_LAYER_ENTRIES:
        values = [getattr(encoder_config(part), entry, None) for part in (config, loaded)]
        values = [list(value) if isinstance(value, tuple) else value for value in values]  # JSON has no tuples
        if values[0] != values[1]:
            raise Misfit(
                f"{type(config).__name__} has another `{entry}` for the layers {layers} when it is loaded "
                f"({values[0]}, {values[1]})"
            )


def check_structure(teacher: PreTrainedModel, student: PreTrainedModel, indices: Sequence[int]) -> None:
    """Raises a `Misfit` if a layer is built differently in the student, or the list of layers ignores the depth.

    The teacher is compared as its config builds it, like a reloaded student. A teacher in use may differ from its
    config, for example by activation checkpointing.

    Args:
        indices: 0-based teacher layers in student order.
    """
    layer_list_name = find_layer_list(teacher)
    teacher_layers = blueprint(teacher, copy.deepcopy(config_in_use(teacher))).get_submodule(layer_list_name)
    student_layers = student.get_submodule(layer_list_name)
    if len(student_layers) != len(indices):
        raise Misfit(
            f"{type(teacher).__name__} builds {layer_list_name} with {len(student_layers)} entries for the depth "
            f"{len(indices)}"
        )
    for position, (index, layer) in enumerate(zip(indices, student_layers, strict=True)):
        expected, found = structure_of(teacher_layers[index]), structure_of(layer)
        names = sorted({name for name, _ in expected.items() ^ found.items()})
        if names and not (position == 0 and _is_norm_to_fold(names, found)):
            differences = [f"{name}: {expected.get(name, 'none')}, {found.get(name, 'none')}" for name in names[:2]]
            more = [f"{len(names) - 2} more"] if len(names) > 2 else []
            raise Misfit(
                f"The teacher's layer {index + 1} cannot be the student's layer {position + 1}, because "
                f"{type(teacher).__name__} builds a layer by its number or by the depth, and these two differ "
                f"({'; '.join([*differences, *more])})"
            )
    first = teacher.get_submodule(layer_list_name)[indices[0]]
    if lacks_first_norm(student, first) and loses_bias(student, first):
        raise Misfit(
            f"The teacher's layer {indices[0] + 1} cannot be the student's layer 1, because {type(teacher).__name__} "
            f"has no {FIRST_NORM} there, and its bias cannot be folded into projections without one"
        )


def _is_norm_to_fold(names: Sequence[str], found: dict[str, object]) -> bool:
    return {name.split(".")[0] for name in names} == {FIRST_NORM} and found[FIRST_NORM] == nn.Identity.__name__


def check_unchanged(teacher: PreTrainedModel) -> None:
    """Raises a `UserError` if modules of the teacher are not those that its config builds, as a student has them.

    Compared are tensors, and the classes of modules without other modules inside, such as activations. Modules that
    the config does not build at all are no matter, nor is a quantized teacher, which has classes of its own. Classes
    made of other modules may differ by the implementation of attention.
    """
    if is_quantized(teacher):
        return
    built, found = blueprint(teacher, copy.deepcopy(config_in_use(teacher))), _parts_of(teacher)
    expected = _parts_of(built)
    for path, module in built.named_modules(remove_duplicate=False):
        if next(module.children(), None) is not None:
            del expected[path]
    names = [
        name
        for name in {**expected, **found}
        if found.get(name) != expected.get(name) and (name in expected or name.rpartition(".")[0] in expected)
    ]
    if names:
        differences = [f"{name}: {expected.get(name, 'none')}, {found.get(name, 'none')}" for name in names[:2]]
        more = [f"{len(names) - 2} more"] if len(names) > 2 else []
        raise UserError(
            f"The teacher has other modules than {type(teacher).__name__} builds from its config "
            f"({'; '.join([*differences, *more])}), but a student is built from its config alone. Undo the change, or "
            "make it in the `__init__` of a class of your own."
        )


def _parts_of(model: PreTrainedModel) -> dict[str, object]:
    """Returns the shapes of the tensors and the classes of the modules of a model, by name.

    Dropout and `Identity` count as the same: neither changes what a model in `eval()` mode computes.
    """
    parts: dict[str, object] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        name = type(module).__name__
        parts[path] = nn.Identity.__name__ if "Drop" in name else name
    return parts | {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def structure_of(layer: nn.Module) -> dict[str, object]:
    """Returns what decides a layer's computation besides its weights: shapes, module classes and plain attributes."""
    structure = {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}
    for path, module in layer.named_modules():
        structure[path] = type(module).__name__
        for name, value in plain_attributes(module).items():
            if isinstance(value, float):
                value = float(f"{value:.12g}")  # a factor that is computed from another depth may round differently
            if name not in LAYER_NUMBER_ATTRIBUTES:
                structure[f"{path}.{name}".removeprefix(".")] = value
    return {name: value for name, value in structure.items() if ADAPTER_LISTS not in f"{name}."}
