"""What a student of some layers must compute: the teacher's own forward, in which the other layers do nothing.

    from experiments.kept_layers import logits_of, logits_of_kept_layers

    student = build_student(teacher, (1, 3, 5))
    assert torch.equal(logits_of(student, inputs), logits_of_kept_layers(teacher, (1, 3, 5), inputs))

The reference builds no student and reads no config entry about layers, so it is independent of `layer_mapping`.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
from torch import nn
from transformers import PreTrainedModel

from layer_distillation.encoder_layers import find_layer_list
from layer_distillation.student_config import encoder_config

# Layers of Reformer and LiLT have two streams of states, those of GPT and SqueezeBERT return lists and dicts. A
# convolution of DeBERTa-v2 lies between its first two layers.
RESTACKED = ("reformer", "lilt", "openai-gpt", "squeezebert", "deberta-v2")


@torch.no_grad()
def logits_of(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Returns the logits of a batch."""
    return model(**inputs).logits


def logits_of_kept_layers(
    teacher: PreTrainedModel, layers: Sequence[int], inputs: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """Returns the logits of the teacher without all layers but some.

    Every layer passes its input on and records its arguments. The last layer then runs the kept layers in the order
    given, each with the arguments that it got at its own place. Where other parts of the model lie between the layers
    or layers return something else than states (`RESTACKED`), the kept layers stand in the place of all.

    Args:
        layers: 1-based.
    """
    model = deepcopy(teacher)
    encoder_config(model.config).use_cache = model.config.use_cache = False
    name = find_layer_list(model)
    stack = model.get_submodule(name)
    if model.config.model_type in RESTACKED:
        parent, _, name = name.rpartition(".")
        setattr(model.get_submodule(parent), name, nn.ModuleList([stack[layer - 1] for layer in layers]))
        return logits_of(model, inputs)

    forwards, calls, num_outputs = [layer.forward for layer in stack], [], []
    hook = stack[0].register_forward_hook(
        lambda module, arguments, output: num_outputs.append(len(output) if isinstance(output, tuple) else None)
    )
    logits_of(model, inputs)
    hook.remove()

    def stand_in(*arguments, **options):
        calls.append((arguments, options))
        states = arguments[0] if arguments else options["hidden_states"]
        if len(calls) == len(stack):
            for layer in layers:
                states = run(layer, states)
        return states if num_outputs[0] is None else (states, *[None] * (num_outputs[0] - 1))

    def run(layer, states):
        arguments, options = calls[layer - 1]
        if arguments:
            output = forwards[layer - 1](states, *arguments[1:], **options)
        else:
            output = forwards[layer - 1](**{**options, "hidden_states": states})
        return output[0] if isinstance(output, tuple) else output

    for layer in stack:
        layer.forward = stand_in
    return logits_of(model, inputs)
