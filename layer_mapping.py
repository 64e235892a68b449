"""Choose layers of a teacher and build a shallower student from them.

Starting a student from the teacher's own layers is the initialisation of DistilBERT (Sanh et al., 2019,
https://arxiv.org/abs/1910.01108, section 3); which layers to take is what `--layer_strategy` and `--layers` decide.

    teacher = AutoModelForSequenceClassification.from_pretrained(...)
    layers = select_layers("even", num_layers(teacher))  # (2, 4, 6, 8, 10, 12)
    student = build_student(teacher, layers)

    python run_distillation.py --layer_strategy even ...
    python run_distillation.py --layers 1,3,5,7,9,12 ...

Layers are numbered from 1, nearest the embeddings, to N, nearest the head, in everything a person reads or passes.
"""

import copy
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

from accelerate import init_empty_weights
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from layer_distillation.encoder_layers import find_layer_list, num_layers
from layer_distillation.errors import UserError

# These look at what the teacher makes of the training data: `training.layer_search.choose_layers`.
EVIDENCE_STRATEGIES = ("search", "cka", "block_influence")
SYNONYMS = {"first": "top", "last": "bottom"}
STRATEGIES = ("top", "first", "bottom", "last", "odd", "even", "uniform", "random", *EVIDENCE_STRATEGIES)
# Config entries that hold one value a layer. Going by length alone would also cut lists that describe something else,
# such as the two entries of DeBERTa's `pos_att_type` when the teacher has two layers.
PER_LAYER_CONFIG_ENTRIES = (
    "layer_types",
    "mlp_layer_types",
    "layers_block_type",
    "no_rope_layers",
    "attn_layers",
    "attention_window",
)
# Attributes by which a layer only knows its own number. `seed` is BigBird's, used in training only.
LAYER_NUMBER_ATTRIBUTES = ("layer_idx", "layer_id", "seed")


def parse_layers(text: str) -> tuple[int, ...]:
    """Reads a comma-separated list of layer numbers: `"1,3,5"` gives `(1, 3, 5)`.

    Raises:
        UserError: an entry is not a whole number.
    """
    entries = text.split(",") if text.strip() else []
    try:
        return tuple(int(entry) for entry in entries)
    except ValueError:
        raise UserError(
            f"Layers and depths are whole numbers separated by commas, such as 1,3,5. Got {text!r}."
        ) from None


def select_layers(strategy: str, num_teacher_layers: int, num_student_layers: int | None = None) -> tuple[int, ...]:
    """Chooses which of the teacher's layers 1..N the student copies.

    `top`/`first` are layers 1..K, nearest the input; `bottom`/`last` are the last K, nearest the head; `odd` and
    `even` are every second layer. `uniform` takes K different ones as in `spread_evenly`.

    Args:
        strategy: one of `STRATEGIES`.
        num_teacher_layers: the teacher's depth N.
        num_student_layers: the student's depth K; N // 2 when None.

    Returns:
        1-based layer numbers in student order; `()` for `random`, where no layer is copied.

    Raises:
        UserError: the strategy is unknown or needs data, K is not in 1..N, or `odd`/`even` do not have K = N/2.
    """
    check_strategy(strategy)
    depth = student_depth(num_teacher_layers, num_student_layers)
    if strategy in EVIDENCE_STRATEGIES:
        raise UserError(
            f"'{strategy}' chooses layers by what the teacher makes of the training data, and here is only its depth. "
            f"Run run_distillation.py --layer_strategy {strategy}, or without data use "
            "'uniform'."
        )
    if strategy in ("odd", "even") and 2 * depth != num_teacher_layers:
        raise UserError(
            f"'{strategy}' takes every second layer, so it needs an even teacher depth N and K = N/2 student layers, "
            f"got N = {num_teacher_layers} and K = {depth}. Use 'uniform', which spreads any K layers over 1..N."
        )

    every_layer = tuple(range(1, num_teacher_layers + 1))
    match SYNONYMS.get(strategy, strategy):
        case "top":
            return every_layer[:depth]
        case "bottom":
            return every_layer[-depth:]
        case "odd":
            return every_layer[::2]
        case "even":
            return every_layer[1::2]
        case "uniform":
            return spread_evenly(num_teacher_layers, depth)
        case "random":
            return ()


def spread_evenly(num_teacher_layers: int, num_student_layers: int) -> tuple[int, ...]:
    """Returns layer round(i * N / K) of 1..N for i = 1..K, halves rounded up: in increasing order, the last always N.

    A student deeper than its teacher gets some layers repeatedly.
    """
    n, k = num_teacher_layers, num_student_layers
    return tuple(max((2 * i * n + k) // (2 * k), 1) for i in range(1, k + 1))


def shrinking_layers(
    layers: Sequence[int], num_teacher_layers: int, depths: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    """Which teacher layers students have on the way to one of the given layers.

    Each has those and, spread evenly over what the one before has beside them, as many others as its depth asks for.

    Args:
        layers: of the last student, 1-based and in increasing order.
        depths: of all students, decreasing; the last is the number of `layers`.

    Returns:
        1-based layers of the teacher for each depth, in increasing order.
    """
    others = [layer for layer in range(1, num_teacher_layers + 1) if layer not in layers]
    sets = []
    for depth in depths:
        others = [others[position - 1] for position in spread_evenly(len(others), depth - len(layers))]
        sets.append(tuple(sorted((*layers, *others))))
    return tuple(sets)


def student_depth(num_teacher_layers: int, num_student_layers: int | None) -> int:
    """Returns the student's depth K: half of the teacher's depth N, rounded down, when None.

    Raises:
        UserError: K is not in 1..N.
    """
    depth = num_teacher_layers // 2 if num_student_layers is None else num_student_layers
    if not 1 <= depth <= num_teacher_layers:
        raise UserError(
            f"A student has between 1 and {num_teacher_layers} layers, the depth of its teacher, got {depth}: set "
            "--num_student_layers accordingly."
        )
    return depth


def build_student(teacher: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """Builds a student out of the teacher's own layers.

    The student has the teacher's class and its config except for the depth and the per-layer entries. Embeddings,
    pooler, head and the chosen layers are copied bit for bit, dtype included, so a student of layers 1..N gives the
    teacher's logits. What belongs to the encoder and not to a layer keeps its place: the convolution of DeBERTa-v2
    still follows the first layer, whichever that is. The teacher is left unchanged and shares no memory with the
    student.

    Args:
        teacher: an encoder with any head, on any device.
        layers: 1-based layer numbers in the order the student stacks them.

    Returns:
        The student on the teacher's device, in `eval()` mode, with every parameter trainable as in a new model.

    Raises:
        UserError: the list is empty, has duplicates or layers outside 1..N; the model does not hold its layers in one
            `ModuleList` (see `num_layers`); or a layer would not compute the same at its new position. The first layer
            of ModernBERT, for example, has no `attn_norm` and every other has one, so its layer 1 has to stay first.
    """
    layer_list_name = find_layer_list(teacher)
    check_layers(layers, num_layers(teacher))
    indices = [layer - 1 for layer in layers]  # the only change from 1-based to 0-based

    student = _blueprint(teacher, _config_of_layers(teacher.config, indices))
    _check_layers_fit(_blueprint(teacher, copy.deepcopy(teacher.config)), student, indices)

    names = student_to_teacher_names(student.state_dict(), layer_list_name, indices)
    with gathered(teacher):
        teacher_tensors = teacher.state_dict()
        student.load_state_dict(
            {student_name: teacher_tensors[teacher_name].clone() for student_name, teacher_name in names.items()},
            assign=True,
        )
    student.tie_weights()
    return student.to(teacher.device).eval()


def required_layers(teacher: PreTrainedModel) -> tuple[int, ...]:
    """Returns the layers that no student can do without: `(1,)` if the first is built unlike the others, else `()`."""
    if num_layers(teacher) == 1:
        return (1,)
    indices = [1]
    student = _blueprint(teacher, _config_of_layers(teacher.config, indices))
    try:
        _check_layers_fit(_blueprint(teacher, copy.deepcopy(teacher.config)), student, indices)
    except UserError:
        return (1,)
    return ()


def build_random_student(teacher: PreTrainedModel, num_student_layers: int | None = None) -> PreTrainedModel:
    """Builds the control: the student's architecture with fresh weights, embeddings and head included.

    The weights are drawn with torch's global seed. Per-layer config entries are those of the teacher's first K layers.

    Args:
        teacher: gives class, config, dtype and device; none of its weights is used.
        num_student_layers: the student's depth K; half of the teacher's, rounded down, when None.

    Returns:
        The student on the teacher's device, in `eval()` mode.

    Raises:
        UserError: K is not in 1..N, or the model does not hold its layers in one `ModuleList` (see `num_layers`).
    """
    depth = student_depth(num_layers(teacher), num_student_layers)
    config = _config_of_layers(teacher.config, range(depth))
    # Not `_from_config`, which under ZeRO-3 would leave each process a share of every weight.
    config.dtype = teacher.dtype
    return type(teacher)(config).to(teacher.device, teacher.dtype).eval()


def describe_mapping(layers: Sequence[int], num_teacher_layers: int) -> str:
    """Returns one line for the log: which teacher layer (1-based) each student layer is copied from."""
    if not layers:
        return f"Student layers: none copied from the teacher's {num_teacher_layers}, every student weight is fresh"
    pairs = ", ".join(f"{position} <- {layer}" for position, layer in enumerate(layers, start=1))
    return (
        f"Student layer <- teacher layer, from the embeddings to the head: {pairs} "
        f"({len(layers)} of {num_teacher_layers} layers)"
    )


def student_to_teacher_names(
    student_names: Iterable[str], layer_list_name: str, indices: Sequence[int]
) -> dict[str, str]:
    """Maps the name of each student tensor to the name of the teacher tensor it is a copy of.

    Args:
        student_names: names as in `state_dict()`.
        layer_list_name: name of the `ModuleList` of layers, the same in both models, such as `bert.encoder.layer`.
        indices: 0-based teacher layers in student order.
    """
    prefix = f"{layer_list_name}."

    def teacher_name(student_name: str) -> str:
        if not student_name.startswith(prefix):
            return student_name
        position, rest = student_name.removeprefix(prefix).split(".", maxsplit=1)
        return f"{prefix}{indices[int(position)]}.{rest}"

    return {student_name: teacher_name(student_name) for student_name in student_names}


def gathered(model: PreTrainedModel) -> AbstractContextManager:
    """Under DeepSpeed ZeRO-3 each process holds a share of every parameter, and an empty tensor in its place."""
    sharded = [parameter for parameter in model.parameters() if hasattr(parameter, "ds_id")]
    if not sharded:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(sharded)


def check_strategy(strategy: str) -> None:
    if strategy not in STRATEGIES:
        raise UserError(f"The layer strategy is one of {', '.join(STRATEGIES)}, got {strategy!r}.")


def check_layers(layers: Sequence[int], num_teacher_layers: int | None = None) -> None:
    """Checks a list of layers, without its upper bound as long as the teacher's depth is unknown (None)."""
    if not layers:
        raise UserError("The list of layers is empty: name at least one layer, such as 1,3,5.")
    last = num_teacher_layers or "N"
    outside = [layer for layer in layers if layer < 1 or (num_teacher_layers and layer > num_teacher_layers)]
    if outside:
        raise UserError(
            f"Layers are 1..{last} (1-based: layer 1 is nearest the embeddings, layer {last} nearest the head), got "
            f"{join_layers(outside)} in {join_layers(layers)}."
        )
    duplicates = sorted({layer for layer in layers if layers.count(layer) > 1})
    if duplicates:
        raise UserError(
            f"Each layer can be copied once, got {join_layers(duplicates)} more than once in {join_layers(layers)}."
        )


def join_layers(layers: Sequence[int]) -> str:
    return ",".join(str(layer) for layer in layers)


def _config_of_layers(config: PretrainedConfig, indices: Sequence[int]) -> PretrainedConfig:
    """Returns a copy of the teacher's config for a student of the layers at these 0-based indices."""
    student_config = copy.deepcopy(config)
    for entry in PER_LAYER_CONFIG_ENTRIES:
        values = getattr(config, entry, None)
        if isinstance(values, (list, tuple)):
            setattr(student_config, entry, [values[index] for index in indices])
    student_config.num_hidden_layers = len(indices)
    return student_config


def _blueprint(teacher: PreTrainedModel, config: PretrainedConfig) -> PreTrainedModel:
    """Builds the teacher's class without memory or random numbers for parameters, but with its buffers."""
    with init_empty_weights():
        return type(teacher)(config)


def _check_layers_fit(teacher: PreTrainedModel, student: PreTrainedModel, indices: Sequence[int]) -> None:
    """Checks that the student's config makes each layer compute what it computes in the teacher.

    Both models are as their config builds them: that is what a reloaded student is, and it leaves out what a caller
    has changed on the teacher since, such as gradient checkpointing.
    """
    teacher_layers = teacher.get_submodule(find_layer_list(teacher))
    student_layers = student.get_submodule(find_layer_list(student))
    for position, index in enumerate(indices):
        differences = _structure(teacher_layers[index]).items() ^ _structure(student_layers[position]).items()
        if differences:
            names = ", ".join(sorted({name for name, _ in differences}))
            raise UserError(
                f"The teacher's layer {index + 1} cannot be the student's layer {position + 1}: "
                f"{type(teacher).__name__} builds the two differently ({names}). Keep the teacher's layer 1 first: "
                "use the strategy 'top' or 'odd', or a list that starts with 1, such as --layers 1,3,5."
            )


def _structure(layer: nn.Module) -> dict[str, object]:
    """Returns what decides a layer's computation besides its weights: shapes, module classes and plain attributes."""
    structure = {name: tensor.shape for name, tensor in layer.state_dict().items()}
    for path, module in layer.named_modules():
        structure[path] = type(module).__name__
        for name, value in vars(module).items():
            if isinstance(value, (bool, int, float, str)) and name not in LAYER_NUMBER_ATTRIBUTES:
                structure[f"{path}.{name}"] = value
    return structure
