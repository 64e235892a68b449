"""The inner neurons of feed-forward parts: where they are, and models that keep some of them.

    from layer_distillation.inner_neurons import inner_projections, keep_neurons

    inner_projections(model)                  # for each layer, the linear map that reads the inner neurons
    keep_neurons(model, [(0, 5, 7), ...])     # for each layer, the neurons that stay

Which weights belong to inner neurons is found by comparing the model with one of the same class and a narrower config,
not by a list of names.
"""

import copy
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from layer_distillation.encoder_layers import blueprint, find_layer_list
from layer_distillation.errors import UserError
from layer_distillation.student_config import encoder_config

# What configs call the number of inner neurons.
WIDTH_ENTRIES = ("intermediate_size", "hidden_dim", "n_inner", "ffn_dim")


def keep_neurons(model: PreTrainedModel, neurons: Sequence[Sequence[int]]) -> PreTrainedModel:
    """Returns a model like the given one, each of whose layers has some of the inner neurons.

    The weights that belong to the kept neurons, and all weights that belong to none, are copied bit for bit. So the
    model computes what the given one computes when the outputs of all other inner neurons are set to zero.

    Args:
        model: with one feed-forward part a layer; unchanged.
        neurons: for each layer, equally many 0-based numbers of inner neurons, increasing.

    Returns:
        The model on the same device, in `eval()` mode, with every parameter trainable.

    Raises:
        UserError: as `inner_projections`.
    """
    width = len(neurons[0])
    projections = inner_projections(model)
    narrow = blueprint(model, _config_of_width(model, width))
    shapes, prefix = {name: tensor.shape for name, tensor in narrow.state_dict().items()}, f"{find_layer_list(model)}."
    tensors = {}
    for name, tensor in model.state_dict().items():
        if tensor.shape != shapes[name]:
            layer = int(name.removeprefix(prefix).split(".")[0])
            tensor = _part(tensor, shapes[name], neurons[layer], _width_read_by(projections[layer]))
        tensors[name] = tensor.clone()
    narrow.load_state_dict(tensors, assign=True)
    narrow.tie_weights()
    return narrow.to(model.device).eval()


def inner_projections(model: PreTrainedModel) -> list[nn.Module]:
    """Returns, for each layer, the linear map that reads the inner neurons: a `Linear` or a `Conv1D`.

    Raises:
        UserError: the model does not have one feed-forward part a layer, made of linear maps alone, whose width its
            config sets.
    """
    # Not the shapes of the model's own tensors, which are empty where ZeRO-3 has shared them out.
    wide = blueprint(model, copy.deepcopy(model.config)).state_dict()
    narrow = blueprint(model, _config_of_width(model, 1)).state_dict()
    layers, reading = find_layer_list(model), {}
    for name, tensor in wide.items():
        if tensor.shape == narrow[name].shape:
            continue
        owner, kind = name.rsplit(".", maxsplit=1)
        module = model.get_submodule(owner)
        if not name.startswith(f"{layers}.") or not isinstance(module, (nn.Linear, Conv1D)):
            raise _unknown_structure(model, f"{name} depends on their number")
        layer = name.removeprefix(f"{layers}.").split(".")[0]
        reads = 0 if isinstance(module, Conv1D) else 1
        if kind == "weight" and tensor.shape[reads] != narrow[name].shape[reads]:
            reading.setdefault(layer, []).append(module)
    depth = len(model.get_submodule(layers))
    projections = [module for layer in range(depth) for module in reading.get(str(layer), [])]
    if len(projections) != depth or len(reading) != depth:
        raise _unknown_structure(model, f"{len(projections)} linear maps in {depth} layers read them")
    return projections


def inner_width(model: PreTrainedModel) -> int:
    """Returns the number of inner neurons of each layer.

    Raises:
        UserError: as `inner_projections`.
    """
    return _width_read_by(inner_projections(model)[0])


def _width_read_by(projection: nn.Module) -> int:
    return projection.weight.shape[0 if isinstance(projection, Conv1D) else 1]


def _config_of_width(model: PreTrainedModel, width: int) -> PretrainedConfig:
    config = copy.deepcopy(model.config)
    entries = encoder_config(config)
    for entry in WIDTH_ENTRIES:
        if isinstance(getattr(entries, entry, ()), int | None):
            setattr(entries, entry, width)
            return config
    raise _unknown_structure(model, f"its config has no number among {', '.join(WIDTH_ENTRIES)}")


def _part(tensor: torch.Tensor, shape: torch.Size, neurons: Sequence[int], width: int) -> torch.Tensor:
    """Cuts a weight or a bias to the kept neurons. A map to several values a neuron, as in gates, holds them in turn.

    Args:
        shape: of the narrow model's tensor.
        width: number of inner neurons before.
    """
    (dim,) = [dim for dim, sizes in enumerate(zip(tensor.shape, shape, strict=True)) if sizes[0] != sizes[1]]
    kept = torch.tensor(neurons, device=tensor.device)
    parts = [kept + start for start in range(0, tensor.shape[dim], width)]
    return tensor.index_select(dim, torch.cat(parts))


def _unknown_structure(model: PreTrainedModel, reason: str) -> UserError:
    return UserError(
        f"--layer_strategy narrow leaves out inner neurons, but how {type(model).__name__} uses them is not known: "
        f"{reason}. Use a strategy that leaves out layers, such as odd."
    )
