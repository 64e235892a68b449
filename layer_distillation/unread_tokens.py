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
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper
from torch.nn.modules import module as torch_module
from transformers import PreTrainedModel
from transformers.utils import output_capturing

from layer_distillation.encoder_layers import find_layer_list
from layer_distillation.model_outputs import KINDS_OF_HOOKS, logits_of, plain_model, with_own_modules

# What the module of a layer is called that is the first to read the result of the attention.
AFTER_ATTENTION = (
    *("attention.output", "attention.LayerNorm", "sa_layer_norm", "mlp_norm"),
    *("pre_feedforward_layernorm", "post_attention_layernorm"),
)
# Reformer's backward pass computes the inputs of layers from all their outputs. BigBird fills long texts up to
# a multiple of its blocks, and takes away what it has added from the end of what its layers return.
NEED_ALL_TOKENS = ("reformer", "big_bird")
# Packages whose modules do with states what their names say. The modules of others might keep them.
KNOWN_PACKAGES = ("torch", "transformers", "peft")
# Their hooks read no states: those of this module, those of transformers, which stay once they are installed, unless
# hidden states are asked for, and those that count operations by module.
READ_NO_STATES = (__name__, output_capturing.__name__, "torch.utils.module_tracker")
# Two texts of 13 tokens, of which one ends with padding; the pieces are in every vocabulary. An odd number, because
# Longformer fills texts up to a multiple of its window, and reads none of this after the attention.
TRIAL = {
    "input_ids": torch.arange(26).view(2, 13) % 4,
    "attention_mask": (torch.arange(13) < torch.tensor([[9], [13]])).long(),
}
# Shares of the largest logit: a product of another shape rounds otherwise, and in bfloat16 by more.
SAME, SAME_IN_BFLOAT16 = 1e-4, 0.05


@contextmanager
def unread_tokens_left_out(model: nn.Module) -> Iterator[None]:
    """Has the training steps of a classifier compute the end of its last layer for the first token alone.

    This is done for classes of transformers, no subclasses of them, whose losses read the logits alone, where a trial
    shows that the logits stay the same. A step computes everything if hidden states are asked for, if the last layer
    is computed again in the backward pass (gradient checkpointing), or if it or a module that may read it is not of a
    known package, has hooks, as those of FSDP2, or has a `forward` of its own: they might keep what they read.
    Evaluation is as it was.

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
        model.register_forward_hook(choice.end, always_call=True),
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
    try:
        name = _known_module(plain)
        return name if name is not None and _is_enough(plain, name) else None
    except Exception:  # Whatever it is, such as layers that are shared, the model trains as without this module.
        return None


def _is_enough(plain: PreTrainedModel, name: str) -> bool:
    def logits(change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        tried = with_own_modules(plain).eval()
        changed = []
        tried.get_submodule(name).register_forward_pre_hook(
            lambda _, args: changed.append(1) or tuple(map(change, args))
        )
        found = logits_of(tried(**{key: tensor.to(plain.device) for key, tensor in TRIAL.items()}))
        if len(changed) != 1:  # another model has run: a `forward` of the instance may be bound to the original
            raise RuntimeError(f"{name} ran {len(changed)} times.")
        return found.float()

    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        expected, without_others, of_first = map(logits, (torch.clone, _nan_in_others, _first_token))
    largest = expected.abs().max().item()
    return torch.allclose(without_others, expected, 0, SAME * largest) and torch.allclose(
        of_first, expected, 0, SAME_IN_BFLOAT16 * largest
    )


def _known_module(plain: nn.Module) -> str | None:
    """Returns the name of the module in the last layer that reads the attention's result first, if it is known."""
    if not type(plain).__module__.startswith("transformers.") or plain.config.model_type in NEED_ALL_TOKENS:
        return None
    layers = find_layer_list(plain)
    last = f"{layers}.{len(plain.get_submodule(layers)) - 1}"
    names = {name for name, _ in plain.named_modules()}
    return next((name for part in AFTER_ATTENTION if (name := f"{last}.{part}") in names), None)


class _Choice:
    """Chooses the first token in forward passes of the whole model. A module that is called by itself computes all."""

    def __init__(self, plain: PreTrainedModel):
        self._plain, self._is_on = plain, False
        self._layers = plain.get_submodule(find_layer_list(plain))

    def begin(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        states_wanted = kwargs.get("output_hidden_states")
        if states_wanted is None:
            states_wanted = self._plain.config.output_hidden_states
        self._is_on = model.training and not (states_wanted or self._may_be_seen())

    def end(self, *_: Any) -> None:
        self._is_on = False

    def of_first_token(self, module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        return tuple(map(_first_token, args)) if self._is_on else None

    def _may_be_seen(self) -> bool:
        """Whether the last layer's states for all tokens are needed, or may be read by others than the head."""
        # What these give is complete in any case.
        before_last = {self._plain.get_input_embeddings(), *list(self._layers)[:-1]}
        modules = self._plain.named_modules(memo=before_last)
        # The model as a whole returns logits, and mixed precision gives it a `forward` of its own.
        return _has_foreign_hooks(torch_module, "_global") or any(
            _needs_all_tokens(module) for _, module in modules if module is not self._plain
        )


def _needs_all_tokens(module: nn.Module) -> bool:
    """Whether it is computed again in the backward pass, or may show others what it reads or returns."""
    return (
        # Modules that hold layers have this switch, and others none.
        getattr(module, "gradient_checkpointing", False)
        or isinstance(module, CheckpointWrapper)
        or "forward" in vars(module)
        or type(module).__module__.split(".")[0] not in KNOWN_PACKAGES
        or _has_foreign_hooks(module)
    )


def _has_foreign_hooks(owner: Any, prefix: str = "") -> bool:
    hooks = [hook for kind in KINDS_OF_HOOKS for hook in getattr(owner, prefix + kind).values()]
    return any(hook.__module__ not in READ_NO_STATES for hook in hooks)


def _first_token(states: torch.Tensor) -> torch.Tensor:
    """Returns `(batch, 1, width)` of `(batch, tokens, width)`."""
    return states[:, :1]


def _nan_in_others(states: torch.Tensor) -> torch.Tensor:
    return torch.cat((states[:, :1], torch.full_like(states[:, 1:], torch.nan)), dim=1)
