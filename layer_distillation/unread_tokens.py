"""Leaves out of training steps what nothing reads: results of the last layer for tokens that the head does not read.

    with unread_tokens_left_out(student):
        ...    # training steps

The head of most encoders reads the first token alone, and what follows the attention of the last layer computes each
token by itself. Computed for the first token, it gives the same logits and gradients: a student of three layers of
BERT has a quarter of its matrix products less (docs/PERFORMANCE.md). Exported models leave it out too
(`export/float32.py`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from layer_distillation.encoder_layers import find_layer_list
from layer_distillation.errors import UserError
from layer_distillation.model_outputs import logits_of, plain_model, with_own_modules

# What the module of a layer is called that is the first to read the result of the attention.
AFTER_ATTENTION = (
    *("attention.output", "attention.LayerNorm", "sa_layer_norm", "mlp_norm"),
    *("pre_feedforward_layernorm", "post_attention_layernorm"),
)
# Their backward pass computes the inputs of layers from all their outputs.
REVERSIBLE = ("reformer",)
# Two texts of 16 tokens, of which one ends with padding; the pieces are in every vocabulary.
TRIAL = {
    "input_ids": torch.arange(32).view(2, 16) % 4,
    "attention_mask": (torch.arange(16) < torch.tensor([[9], [16]])).long(),
}
TOLERANCE = 1e-4  # of a logit: a product of another shape rounds otherwise


@contextmanager
def unread_tokens_left_out(model: nn.Module) -> Iterator[None]:
    """Has the training steps of a classifier compute the end of its last layer for the first token alone.

    This is done for classes of transformers, whose losses read the logits alone, where a trial shows that the logits
    stay the same. A step computes everything if hidden states are asked for, if layers are computed again in the
    backward pass (gradient checkpointing), or if forward hooks may read what its modules return. Evaluation is as it
    was.

    Args:
        model: before an engine shares out its weights. It may be in the wrapper of PEFT.
    """
    plain = plain_model(model)
    name = module_after_attention(plain)
    if name is None:
        yield
        return
    choice = _Choice(plain)
    handles = (
        model.register_forward_pre_hook(choice.begin, with_kwargs=True),
        model.register_forward_hook(choice.end),
        plain.get_submodule(name).register_forward_pre_hook(choice.of_first_token),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def module_after_attention(plain: nn.Module) -> str | None:
    """Returns the name of the module from which on the first token is enough; `None` if there is none, or none known.

    It is found by a trial: a copy of the model reads two texts. NaN in all other tokens must reach no logit, and the
    logits must be the same without these tokens.
    """
    name = _known_module(plain)
    if name is None:
        return None

    def logits(change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor | None:
        tried = with_own_modules(plain).eval()  # a copy, because BigBird turns to another attention for good
        tried.get_submodule(name).register_forward_pre_hook(lambda _, args: tuple(map(change, args)))
        return logits_of(tried(**{key: tensor.to(plain.device) for key, tensor in TRIAL.items()}))

    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # BigBird builds new modules
            expected, *others = map(logits, (torch.clone, _nan_in_others, _first_token))
    except Exception:  # Whatever it is, the model then trains as it would without this module.
        return None
    is_same = expected is not None and all(torch.allclose(found, expected, TOLERANCE, TOLERANCE) for found in others)
    return name if is_same else None


def _known_module(plain: nn.Module) -> str | None:
    if not type(plain).__module__.startswith("transformers.") or plain.config.model_type in REVERSIBLE:
        return None
    try:
        layers = find_layer_list(plain)
    except UserError:
        return None
    last = f"{layers}.{len(plain.get_submodule(layers)) - 1}"
    names = {name for name, _ in plain.named_modules()}
    return next((name for part in AFTER_ATTENTION if (name := f"{last}.{part}") in names), None)


class _Choice:
    """Chooses the first token in forward passes of the whole model. A module that is called by itself computes all."""

    def __init__(self, plain: PreTrainedModel):
        self._plain, self._is_on = plain, False

    def begin(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        states_wanted = kwargs.get("output_hidden_states")
        if states_wanted is None:
            states_wanted = self._plain.config.output_hidden_states
        are_others_read = states_wanted or any(map(_needs_all_tokens, self._plain.children()))
        self._is_on = model.training and not are_others_read

    def end(self, *_: Any) -> None:
        self._is_on = False

    def of_first_token(self, module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        return tuple(map(_first_token, args)) if self._is_on else None


def _needs_all_tokens(part: nn.Module) -> bool:
    """Whether modules in it are computed again in the backward pass, or have hooks that may read what they return."""
    return any(
        getattr(module, "gradient_checkpointing", False)
        # The hooks of transformers stay once they are installed, and read nothing unless hidden states are asked for.
        or any(not hook.__module__.startswith("transformers.") for hook in module._forward_hooks.values())
        for module in part.modules()
    )


def _first_token(states: torch.Tensor) -> torch.Tensor:
    """Returns `(batch, 1, width)` of `(batch, tokens, width)`."""
    return states[:, :1]


def _nan_in_others(states: torch.Tensor) -> torch.Tensor:
    return torch.cat((states[:, :1], torch.full_like(states[:, 1:], torch.nan)), dim=1)
