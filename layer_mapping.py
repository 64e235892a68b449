"""Chooses layers of a teacher and builds a shallower student from them.

    from layer_mapping import build_student, num_layers, select_layers

    teacher = AutoModelForSequenceClassification.from_pretrained(...)
    layers = select_layers("even", num_layers(teacher))  # (2, 4, 6, 8, 10, 12)
    student = build_student(teacher, layers)

    python run_distillation.py --layer_strategy even ...
    python run_distillation.py --layers 1,3,5,7,9,12 ...

Layers are numbered from 1, nearest the embeddings, to N, nearest the head, in everything a person reads or passes.
Starting a student from layers of its teacher is the initialization of DistilBERT (Sanh et al., 2019,
https://arxiv.org/abs/1910.01108, section 3). A new strategy by position is a `case` in `select_layers` and a name in
`BY_POSITION` and `STRATEGIES`; one by data is a name in `EVIDENCE_STRATEGIES` and a choice in
`training/layer_search.py`. Both need a phrase in the help of `layer_strategy` (`training/arguments.py`) and an entry
in `comparison/styles.py`.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from layer_distillation.encoder_layers import blueprint, find_layer_list, layer_numbers, num_layers
from layer_distillation.errors import UserError
from layer_distillation.first_norm import fold_first_norm, lacks_first_norm
from layer_distillation.inner_neurons import keep_neurons
from layer_distillation.layer_structure import (
    ADAPTER_LISTS,
    Misfit,
    check_readable,
    check_structure,
    check_unchanged,
    config_in_use,
)
from layer_distillation.merging import merged
from layer_distillation.precision import in_float32, is_quantized, set_float32
from layer_distillation.student_config import config_of_layers
from layer_distillation.whole_weights import gathered, whole_weights

logger = logging.getLogger(__name__)

# Strategies that look at the training data: `training.layer_search.choose_layers`.
EVIDENCE_STRATEGIES = ("search", "cka", "block_influence")
# Strategies that choose fewer layers by their place in the teacher, and which of them need K = N/2.
BY_POSITION = ("top", "bottom", "uniform", "odd", "even")
EVERY_SECOND = ("odd", "even")
SYNONYMS = {"first": "top", "last": "bottom"}
STRATEGIES = ("top", "first", "bottom", "last", "odd", "even", "uniform", "random", "narrow", *EVIDENCE_STRATEGIES)


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
            f"Layers and depths must be whole numbers separated by commas, found {text!r}. An example is 1,3,5."
        ) from None


def select_layers(strategy: str, num_teacher_layers: int, num_student_layers: int | None = None) -> tuple[int, ...]:
    """Chooses which of the teacher's layers 1..N the student copies.

    `top`/`first` are layers 1..K, nearest the input. `bottom`/`last` are the last K, nearest the head. `odd` and
    `even` are every second layer. `uniform` spreads K layers evenly over 1..N (see `spread_evenly`). `narrow` keeps
    all layers; it leaves out inner neurons instead (see `build_student`).

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
    depth, every_layer = student_depth(num_teacher_layers, num_student_layers), tuple(range(1, num_teacher_layers + 1))
    if strategy == "narrow":
        if num_student_layers not in (None, num_teacher_layers):
            raise UserError(
                f"--layer_strategy narrow keeps all {num_teacher_layers} layers of the teacher, found "
                f"{num_student_layers}. Leave --num_student_layers and --stages out, or use uniform."
            )
        return every_layer
    if strategy in EVIDENCE_STRATEGIES:
        raise UserError(
            f"The strategy {strategy} needs the training data, but `select_layers` knows only the teacher's depth. "
            f"Run run_distillation.py --layer_strategy {strategy}, or use uniform, which needs no data."
        )
    if strategy in EVERY_SECOND and 2 * depth != num_teacher_layers:
        raise UserError(
            f"--layer_strategy {strategy} takes every second layer, so N must be even and K must be N/2, found a "
            f"teacher of N = {num_teacher_layers} layers and a student of K = {depth}. Use uniform, which spreads any "
            "K layers over 1..N."
        )

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


def selections_by_position(num_teacher_layers: int, num_student_layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields the strategies by position that can choose so many layers, each with its layers, 1-based."""
    for strategy in BY_POSITION:
        if strategy not in EVERY_SECOND or 2 * num_student_layers == num_teacher_layers:
            yield strategy, select_layers(strategy, num_teacher_layers, num_student_layers)


def spread_evenly(num_teacher_layers: int, num_student_layers: int) -> tuple[int, ...]:
    """Returns the layers round(i * N / K) for i = 1..K, halves rounded up.

    The layers increase, and the last is always N. For K > N, some layers come repeatedly, none before layer 1.
    """
    n, k = num_teacher_layers, num_student_layers
    return tuple(max((2 * i * n + k) // (2 * k), 1) for i in range(1, k + 1))


def shrinking_layers(
    layers: Sequence[int], num_teacher_layers: int, depths: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    """Chooses the teacher layers of several students of decreasing depth, the last of which has the given layers.

    Every student has the layers of the last student, plus enough others for its depth: spread evenly over the others
    of the student before.

    Args:
        layers: of the last student, 1-based and increasing.
        depths: of all students, decreasing; the last depth is the number of `layers`.

    Returns:
        For each student its teacher layers, 1-based and increasing.
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
            f"--num_student_layers must be from 1 to {num_teacher_layers}, the depth of the teacher, found {depth}."
        )
    return depth


def build_student(
    teacher: PreTrainedModel, layers: Iterable[int], neurons: Sequence[Sequence[int]] = ()
) -> PreTrainedModel:
    """Builds a student from layers of the teacher.

    The student has the teacher's class, and its config except for the depth and the entries about single layers.
    Embeddings, pooler, head and the chosen layers are copied bit for bit, half precision as float32 (see `precision`),
    so a student of layers 1..N gives the teacher's logits. The one exception is logged: a first layer of ModernBERT
    (see `first_norm`). Parts of the encoder that belong to no layer keep their place: the convolution of DeBERTa-v2
    follows the student's first layer. The teacher stays unchanged and shares no memory with the student.

    Args:
        teacher: an encoder with any head, on any device. The adapters of a `PeftModel` are merged into the student.
        layers: 1-based layer numbers in the order the student stacks them.
        neurons: for each of these layers, the inner neurons that the student keeps (see `keep_neurons`); `()` for all.

    Returns:
        The student on the teacher's device, in `eval()` mode, with every parameter trainable as in a new model.

    Raises:
        UserError: the layers are no sequence of whole numbers; the list is empty, has duplicates or layers outside
            1..N; the model does not hold its layers in one `ModuleList` (see `num_layers`), or was changed after it
            was built from its config; or a layer would not compute the same at its new position.
    """
    teacher, layers = merged(teacher), layer_numbers("layers", layers)
    depth = num_layers(teacher)
    check_layers(layers, depth)
    indices = [layer - 1 for layer in layers]  # the only change from 1-based to 0-based

    try:
        student = _blueprint_of_layers(teacher, indices)
    except Misfit as misfit:
        raise UserError(f"{misfit}; {_advice(teacher, layers)}.") from None

    names = _student_to_teacher_names(teacher, student, indices)
    shapes = {name: tensor.shape for name, tensor in student.state_dict().items()}
    with gathered(teacher):
        check_unchanged(teacher)
        teacher_tensors = teacher.state_dict()
        student.load_state_dict(
            {
                student_name: _parts_of_layers(
                    teacher_tensors[teacher_name], shapes[student_name], indices, depth
                ).clone()
                for student_name, teacher_name in names.items()
            },
            assign=True,
        )
        student = in_float32(student.to(teacher.device)).eval()
        first = teacher.get_submodule(find_layer_list(teacher))[indices[0]]
        if lacks_first_norm(student, first):
            logger.warning(
                f"The student's first layer is the teacher's layer {layers[0]}. {type(teacher).__name__} has no norm "
                "before the attention there, so the layer's norm is folded into its projections: close, but not exact."
            )
            fold_first_norm(student, first)
    student.tie_weights()
    return keep_neurons(student, neurons) if neurons else student


def build_random_student(teacher: PreTrainedModel, num_student_layers: int | None = None) -> PreTrainedModel:
    """Builds the control: the student's architecture with fresh weights everywhere, also in embeddings and head.

    The weights are drawn with torch's global seed. Config entries with one value a layer keep their first K values.

    Args:
        teacher: gives class, config and device; none of its weights is used.
        num_student_layers: the student's depth K; half of the teacher's, rounded down, when None.

    Returns:
        The student on the teacher's device, in `eval()` mode.

    Raises:
        UserError: K is not in 1..N, the model does not hold its layers in one `ModuleList` (see `num_layers`), or its
            class cannot be built with K layers.
    """
    depth = student_depth(num_layers(teacher), num_student_layers)
    config = config_of_layers(teacher.config, range(depth))
    set_float32(config)
    try:
        check_readable(config, range(depth))
        with whole_weights(), _told_about_ties(teacher, range(depth)):
            student = type(teacher)(config)
    except Misfit as misfit:
        raise UserError(f"{misfit}; choose another --num_student_layers.") from None
    return student.to(teacher.device, torch.float32).eval()


def describe_mapping(layers: Sequence[int], num_teacher_layers: int) -> str:
    """Returns one line for the log that says which teacher layer (1-based) each student layer is copied from."""
    if not layers:
        return f"Student layers: none copied from the teacher's {num_teacher_layers}, every student weight is fresh"
    pairs = ", ".join(f"{position} <- {layer}" for position, layer in enumerate(layers, start=1))
    return (
        f"Student layer <- teacher layer, from the embeddings to the head: {pairs} "
        f"({len(layers)} of {num_teacher_layers} layers)"
    )


def _student_to_teacher_names(
    teacher: PreTrainedModel, student: PreTrainedModel, indices: Sequence[int]
) -> dict[str, str]:
    """Returns, for the name of each student tensor, the name of the teacher tensor that it is a copy of.

    Args:
        indices: 0-based teacher layers in student order.
    """
    prefix = f"{find_layer_list(teacher)}."
    teacher_hybrids = getattr(teacher.config, "hybrid_layer_ids", None)

    def teacher_name(student_name: str) -> str:
        if not student_name.startswith(prefix):
            return student_name
        position, rest = student_name.removeprefix(prefix).split(".", maxsplit=1)
        index = indices[int(position)]
        if ADAPTER_LISTS in rest:
            path, adapter = rest.split(ADAPTER_LISTS)
            number, weight = adapter.split(".", maxsplit=1)
            index = indices[student.config.hybrid_layer_ids[int(number)]]
            rest = f"{path}{ADAPTER_LISTS}{teacher_hybrids.index(index)}.{weight}"
        return f"{prefix}{index}.{rest}"

    return {student_name: teacher_name(student_name) for student_name in student.state_dict()}


def _parts_of_layers(tensor: torch.Tensor, shape: torch.Size, indices: Sequence[int], depth: int) -> torch.Tensor:
    """Cuts a tensor that holds an equal part for each teacher layer, such as ESM's contact head, to the shape given.

    Args:
        indices: 0-based teacher layers in student order.
        depth: the teacher's.
    """
    for dim, (size, student_size) in enumerate(zip(tensor.shape, shape, strict=True)):
        if size != student_size:
            parts = tensor.unflatten(dim, (depth, size // depth))
            tensor = parts.index_select(dim, torch.tensor(indices, device=tensor.device)).flatten(dim, dim + 1)
    return tensor


def check_strategy(strategy: str) -> None:
    """Raises a `UserError` for an unknown strategy."""
    if strategy not in STRATEGIES:
        raise UserError(f"--layer_strategy must be one of {', '.join(STRATEGIES)}, found {strategy!r}.")


def check_layers(layers: Sequence[int], num_teacher_layers: int | None = None) -> None:
    """Raises a `UserError` for a list of layers that is empty, has duplicates or layers outside 1..N.

    Args:
        num_teacher_layers: N; `None` while the teacher is unknown, which checks no upper bound.
    """
    if not layers:
        raise UserError("--layers must name at least one layer, found none. An example is 1,3,5.")
    last = num_teacher_layers or "N"
    outside = [layer for layer in layers if layer < 1 or (num_teacher_layers and layer > num_teacher_layers)]
    if outside:
        raise UserError(
            f"--layers must be from 1, nearest the embeddings, to {last}, nearest the head, found "
            f"{join_layers(outside)} in {join_layers(layers)}."
        )
    duplicates = sorted({layer for layer in layers if layers.count(layer) > 1})
    if duplicates:
        raise UserError(
            f"--layers must name each layer once, found {join_layers(duplicates)} more than once in "
            f"{join_layers(layers)}."
        )


def join_layers(layers: Sequence[int]) -> str:
    """Returns layer numbers as `parse_layers` reads them: `(1, 3, 5)` gives `"1,3,5"`."""
    return ",".join(str(layer) for layer in layers)


def _blueprint_of_layers(teacher: PreTrainedModel, indices: Sequence[int]) -> PreTrainedModel:
    """Builds the student without weights, and checks that its layers would compute what they compute in the teacher.

    Args:
        indices: 0-based teacher layers in student order.

    Raises:
        UserError: as `config_of_layers`.
        Misfit: a layer would be built differently at its place in the student, or tied to another weight.
    """
    student_config = config_of_layers(config_in_use(teacher), indices)
    check_readable(student_config, indices)
    if not is_quantized(teacher):
        set_float32(student_config)
    with _told_about_ties(teacher, indices):
        student = blueprint(teacher, student_config)
    check_structure(teacher, student, indices)
    _check_ties(teacher, student, indices)
    return student


@contextmanager
def _told_about_ties(teacher: PreTrainedModel, indices: Sequence[int]) -> Iterator[None]:
    """Raises a `Misfit` where transformers refuses to build a student because of the weights that layers share.

    Zamba's hybrid layers share one block, and transformers builds no hybrid layer without another.
    """
    try:
        yield
    except ValueError as error:
        if "tie_weights_keys" not in str(error):
            raise
        raise Misfit(
            f"{type(teacher).__name__} cannot be built from the layers {join_layers([i + 1 for i in indices])}, "
            "because only one of them has weights that layers share, and transformers expects a second to share them "
            "with"
        ) from None


def _check_ties(teacher: PreTrainedModel, student: PreTrainedModel, indices: Sequence[int]) -> None:
    """Raises a `Misfit` if the student shares a weight where the teacher has two."""
    names, ties = _student_to_teacher_names(teacher, student, indices), teacher.all_tied_weights_keys
    for tied, source in student.all_tied_weights_keys.items():
        weights = {ties.get(names[name], names[name]) for name in (tied, source) if name in names}
        if len(weights) > 1:
            raise Misfit(
                f"{type(teacher).__name__} shares weights among layers by their order, so the student would share a "
                f"weight where the teacher has two ({' and '.join(sorted(weights))})"
            )


def _advice(teacher: PreTrainedModel, layers: Sequence[int]) -> str:
    """Returns which other lists of as many layers fit."""
    num_teacher_layers, depth = num_layers(teacher), len(layers)
    options: dict[tuple[int, ...], str] = {}
    of_depth = "" if depth == num_teacher_layers // 2 else f" --num_student_layers {depth}"
    for strategy, chosen in selections_by_position(num_teacher_layers, depth):
        options.setdefault(chosen, f"--layer_strategy {strategy}{of_depth}")
    others = [layer for layer in layers if layer != 1]
    for chosen in (tuple(sorted(layers)), (1, *others)[:depth]):
        options.setdefault(chosen, f"--layers {join_layers(chosen)}")
    fitting = [option for chosen, option in options.items() if _fits(teacher, chosen)]
    if not fitting:
        return f"no usual choice of {depth} layers fits, so choose another teacher"
    return f"use {' or '.join(fitting[:3])}"


def _fits(teacher: PreTrainedModel, layers: Sequence[int]) -> bool:
    try:
        _blueprint_of_layers(teacher, [layer - 1 for layer in layers])
    except (Misfit, UserError):
        return False
    return True
