"""The losses by name: formulas, and what they compare.

    from layer_distillation.loss_table import LAYER_LOSSES, LOSSES

    LOSSES                                  # ("ce", "kl", "cosine", "hidden", "attention", "relation")
    LAYER_LOSSES["hidden"].formula          # hidden_state_loss

The argument `NAME_weight` is the weight of the loss NAME. Its values are logged as `loss_NAME`.

A new loss on layers is a formula in `losses.py`, an entry in `LAYER_LOSSES`, and two arguments in `arguments.py`: its
weight, and the option that says how the formula compares.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from layer_distillation.layer_outputs import ATTENTIONS, HIDDEN_STATES, QUERY_KEY_VALUE
from layer_distillation.losses import attention_loss, hidden_state_loss, relation_loss


@dataclass(frozen=True)
class LayerLoss:
    """A loss that compares layers of the student with layers of the teacher.

    Attributes:
        title: in figures and tables.
        formula: takes one output of a student layer, the same output of a teacher layer, the attention mask and the
            value of `option`; returns `(batch,)`. The loss is the mean over the layers and the compared outputs.
        compares: the kinds of outputs (see `layer_outputs.py`).
        layers: "all" pairs every student layer with the teacher layer in `teacher_layers`; "last" compares the last
            layers of both.
        option: the argument that says how the formula compares.
    """

    title: str
    formula: Callable[..., torch.Tensor]
    compares: tuple[str, ...]
    layers: Literal["all", "last"]
    option: str

    @property
    def can_be_stored(self) -> bool:
        """Whether `teacher_outputs.py` stores what the loss compares."""
        return self.compares == (HIDDEN_STATES,)

    @property
    def needs_hooks(self) -> bool:
        """Whether the compared outputs are read by hooks, because the model does not return them."""
        return not {*self.compares} <= {HIDDEN_STATES, ATTENTIONS}


# The losses on predictions, computed from logits, and their titles.
PREDICTION_LOSSES = {
    "ce": "labels",
    "kl": "KL to the teacher",
    "cosine": "cosine to the teacher",
}
LAYER_LOSSES = {
    "hidden": LayerLoss(
        title="hidden states",
        formula=hidden_state_loss,
        compares=(HIDDEN_STATES,),
        layers="all",
        option="hidden_tokens",
    ),
    "attention": LayerLoss(
        title="attention",
        formula=attention_loss,
        compares=(ATTENTIONS,),
        layers="all",
        option="attention_divergence",
    ),
    "relation": LayerLoss(
        title="relations",
        formula=relation_loss,
        compares=QUERY_KEY_VALUE,
        layers="last",
        option="relation_heads",
    ),
}
LOSSES = (*PREDICTION_LOSSES, *LAYER_LOSSES)
WEIGHTS = tuple(f"{name}_weight" for name in LOSSES)
TITLES = PREDICTION_LOSSES | {name: loss.title for name, loss in LAYER_LOSSES.items()}
