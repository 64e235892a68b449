"""Compares the layers of a student with the layers of a teacher: which layers, at which width, and the losses.

`DistillationTrainer` uses it as

    layers = LayerLosses(args, student, teacher, teacher_layers=(2, 4, 6))
    teacher_outputs = layers.stored_outputs(batch) or layers.teacher_outputs(teacher, teacher_inputs)
    student_outputs, losses = layers.forward(model, student_inputs, teacher_outputs)    # {"hidden": (batch,)}

The losses themselves are named in `loss_table.py`. What a model computes in its layers is read by `layer_outputs.py`.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.columns import Columns
from layer_distillation.encoder_layers import num_layers
from layer_distillation.errors import UserError
from layer_distillation.layer_outputs import HIDDEN_STATES, LayerOutputReader, LayerOutputs, token_mask
from layer_distillation.loss_table import LAYER_LOSSES
from layer_distillation.model_outputs import plain_model
from layer_distillation.stored_columns import TEACHER_HIDDEN_STATES, TEACHER_LOGITS
from layer_distillation.student_config import encoder_config


class LayerLosses:
    """The losses on layers that the arguments give a weight, for one student and one teacher.

    Args:
        args: the weights, and how each loss compares.
        student, teacher: before they are wrapped for several processes. The teacher is `None` if its outputs are
            stored in the data set.
        teacher_layers: for each student layer, the 1-based number of the teacher layer that it is compared with.
        stored_width: the width of stored hidden states, if there are any.

    Attributes:
        projection: a linear map from the student's width to the teacher's, to be trained with the student. `None` if
            the widths are equal or no hidden states are compared.
        stored_columns: the columns of a data set that can replace a teacher.

    Raises:
        UserError: the models lack what a loss compares.
    """

    def __init__(
        self,
        args: DistillationTrainingArguments,
        student: nn.Module,
        teacher: PreTrainedModel | None,
        teacher_layers: Sequence[int] | None,
        stored_width: int | None = None,
    ):
        encoder = plain_model(student)
        teacher = None if teacher is None else plain_model(teacher)
        self._losses = {name: loss for name, loss in LAYER_LOSSES.items() if args.uses(name)}
        compared, pairs = {loss.layers for loss in self._losses.values()}, {}
        for model in (encoder, teacher):
            if self._losses and not isinstance(model, PreTrainedModel | None):
                raise UserError(
                    f"{' and '.join(f'--{name}_weight' for name in self._losses)} compare layers, which only a "
                    f"`PreTrainedModel` tells, found {type(model).__name__}. Set the weight to 0."
                )
        if "all" in compared:
            pairs["all"] = _pairs(num_layers(encoder), teacher_layers, teacher)
        if teacher is None and args.needs_running_teacher:
            weights = [f"--{name}_weight" for name, loss in self._losses.items() if not loss.can_be_stored]
            raise UserError(
                f"{' and '.join(weights)} compare what is not stored. Pass a `teacher_model` (--no_teacher_cache), or "
                "set the weight to 0."
            )
        if teacher is not None and self._losses:
            _check_heads(args, encoder, teacher)
        if "last" in compared:
            pairs["last"] = [(num_layers(encoder), num_layers(teacher))]
        self._pairs = {name: pairs[loss.layers] for name, loss in self._losses.items()}
        self._how = {kind: getattr(args, loss.option) for loss in self._losses.values() for kind in loss.compares}
        if "relation" in self._losses and args.relation_heads is None:
            self._how |= _heads(encoder_config(teacher.config))

        of_student, of_teacher = defaultdict(set), defaultdict(set)
        for name, loss in self._losses.items():
            for kind in loss.compares:
                of_student[kind] |= {student_layer for student_layer, _ in self._pairs[name]}
                of_teacher[kind] |= {teacher_layer for _, teacher_layer in self._pairs[name]}
        self.projection = None
        if HIDDEN_STATES in of_student:
            teacher_width = stored_width if teacher is None else encoder_config(teacher.config).hidden_size
            self.projection = _projection(args, encoder_config(encoder.config).hidden_size, teacher_width)
        self._student_reader = LayerOutputReader(student, _sorted(of_student), self.projection)
        self._teacher_reader = None if teacher is None else LayerOutputReader(teacher, _sorted(of_teacher))

        self._hidden_state_columns = {
            layer: TEACHER_HIDDEN_STATES.format(layer=layer) for layer in sorted(of_teacher.get(HIDDEN_STATES, ()))
        }
        logits_column = [TEACHER_LOGITS] if args.uses("kl", "cosine") else []
        self.stored_columns = (*logits_column, *self._hidden_state_columns.values())
        self._can_be_stored = not args.needs_running_teacher

    @contextmanager
    def readable(self) -> Iterator[None]:
        """Has both models compute what is compared so that it can be read, and restores them at the end."""
        of_teacher = nullcontext() if self._teacher_reader is None else self._teacher_reader.readable()
        with self._student_reader.readable(), of_teacher:
            yield

    def forward(
        self, model: nn.Module, student_inputs: Mapping[str, torch.Tensor], teacher: LayerOutputs | None
    ) -> tuple[LayerOutputs, dict[str, torch.Tensor]]:
        """Runs the student and compares its layers with the teacher's.

        Args:
            model: the student, possibly wrapped for several processes.
            student_inputs: `input_ids` `(batch, length)` and what else the student reads.
            teacher: the teacher's outputs for the same examples; `None` if no loss needs them.

        Returns:
            The student's outputs, and by name the losses on layers with a positive weight, `(batch,)` each.
        """
        student = self._student_reader.run(model, **student_inputs)
        if not self._losses:
            return student, {}
        attention_mask, losses = token_mask(student_inputs), {}
        for name, loss in self._losses.items():
            values = [
                loss.formula(
                    student.layers[kind][student_layer],
                    teacher.layers[kind][teacher_layer],
                    attention_mask,
                    self._how[kind],
                )
                for student_layer, teacher_layer in self._pairs[name]
                for kind in loss.compares
            ]
            losses[name] = torch.stack(values).mean(dim=0)
        return student, losses

    def teacher_outputs(self, teacher: nn.Module, teacher_inputs: Mapping[str, torch.Tensor]) -> LayerOutputs:
        """Runs the teacher, possibly wrapped by now, and returns its logits and what the losses compare.

        A teacher in half precision is not autocast: on a processor, its norms would not take numbers of another type.
        """
        if any(parameter.dtype == torch.float32 for parameter in teacher.parameters()):
            return self._teacher_reader.run(teacher, **teacher_inputs)
        with torch.autocast(next(iter(teacher_inputs.values())).device.type, enabled=False):
            return self._teacher_reader.run(teacher, **teacher_inputs)

    def stored_outputs(self, batch: Mapping[str, torch.Tensor]) -> LayerOutputs | None:
        """Returns the teacher's outputs from the columns of a batch, `None` if it lacks one or a teacher must run."""
        if not (self._can_be_stored and self.stored_columns and batch.keys() >= {*self.stored_columns}):
            return None
        hidden_states = {layer: batch[column] for layer, column in self._hidden_state_columns.items()}
        return LayerOutputs(batch.get(TEACHER_LOGITS), {HIDDEN_STATES: hidden_states})


def _check_heads(args: DistillationTrainingArguments, student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Checks that both models have equally many attention heads if these are compared.

    Raises:
        UserError: they do not fit.
    """
    student_config, teacher_config = encoder_config(student.config), encoder_config(teacher.config)
    if args.uses("attention") and student_config.num_attention_heads != teacher_config.num_attention_heads:
        raise UserError(
            "--attention_weight compares attention heads one by one, but the student has "
            f"{student_config.num_attention_heads} and the teacher {teacher_config.num_attention_heads}. Use "
            "--relation_weight, for which the numbers may differ."
        )


def try_layer_losses(
    args: DistillationTrainingArguments,
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    teacher_layers: Sequence[int],
    batch: Mapping[str, torch.Tensor],
) -> None:
    """Computes the losses on layers once, without training.

    Args:
        student, teacher: stay as they are: what reads attention changes copies.
        teacher_layers: as for `LayerLosses`.
        batch: columns that both models read.

    Raises:
        UserError: the models lack what a loss compares.
    """
    columns = Columns(student, teacher, remove_unused_columns=True)
    student, teacher = deepcopy(student).train(), deepcopy(teacher).eval()
    losses = LayerLosses(args, student, teacher, teacher_layers)
    with torch.no_grad():
        teacher_outputs = losses.teacher_outputs(teacher, columns.of_teacher(batch, without=()))
        losses.forward(student, columns.of_student(batch), teacher_outputs)


def _heads(config: PretrainedConfig) -> dict[str, int]:
    """Returns how many heads a model has, by kind: grouped queries share heads of keys and values."""
    heads = config.num_attention_heads
    shared = getattr(config, "num_key_value_heads", None) or heads  # configs without grouped queries lack the entry
    return {"query": heads, "key": shared, "value": shared}


def _pairs(
    num_student_layers: int, teacher_layers: Sequence[int] | None, teacher: PreTrainedModel | None
) -> list[tuple[int, int]]:
    """Returns the pairs of a student layer and the teacher layer that it is compared with, 1-based."""
    if teacher_layers is None or len(teacher_layers) != num_student_layers:
        raise UserError(
            "--hidden_weight and --attention_weight compare every student layer with a teacher layer: "
            f"`teacher_layers` must name {num_student_layers} layers, found {teacher_layers}. Pass the layers that "
            "the student was built from."
        )
    depth = None if teacher is None else num_layers(teacher)
    if min(teacher_layers) < 1 or (depth is not None and max(teacher_layers) > depth):
        raise UserError(
            f"`teacher_layers` are numbers from 1 to {depth or 'the depth of the teacher'}, found "
            f"{tuple(teacher_layers)}."
        )
    return list(enumerate(teacher_layers, start=1))


def _projection(
    args: DistillationTrainingArguments, student_width: int, teacher_width: int | None
) -> nn.Linear | None:
    """Returns a new linear map between two widths, `None` if they are equal or the teacher's is unknown."""
    if teacher_width in (None, student_width):
        return None
    if args.n_gpu > 1:  # `DataParallel` copies the student to each GPU, but not the projection
        raise UserError(
            "--hidden_weight for a student of another width than its teacher works with one GPU a process, but this "
            f"process would use {args.n_gpu}. Start it with `accelerate launch` or `torchrun`, which run a process "
            "for each, or show it one GPU with CUDA_VISIBLE_DEVICES."
        )
    return nn.Linear(student_width, teacher_width, bias=False)


def _sorted(wanted: Mapping[str, set[int]]) -> dict[str, tuple[int, ...]]:
    return {kind: tuple(sorted(layers)) for kind, layers in wanted.items()}
