"""The losses that compare a student's layers with a teacher's: which layers, how wide, and their values for a batch.

`DistillationTrainer` uses it as

    losses = LayerLosses(args, student, teacher, teacher_layers=(2, 4, 6))
    student_outputs = losses.student_reader.run(model, **student_inputs)
    teacher_outputs = losses.teacher_reader.run(teacher, **teacher_inputs)
    components = losses.compute(student_outputs, teacher_outputs, attention_mask)    # {"hidden": (batch,), ...}
"""

from collections.abc import Iterable, Sequence

import torch
from torch import nn
from transformers import PreTrainedModel, TrainingArguments
from transformers.trainer_utils import unwrap_peft_model

from layer_distillation.encoder_layers import num_layers
from layer_distillation.errors import UserError
from layer_distillation.layer_outputs import KINDS, LayerOutputReader, LayerOutputs, WantedOutputs
from layer_distillation.losses import attention_loss, hidden_state_loss, relation_loss


class LayerLosses:
    """What `hidden_weight`, `attention_weight` and `relation_weight` need of both models.

    Args:
        args: `DistillationTrainingArguments`.
        student: before it is wrapped for several processes, as is the teacher.
        teacher: `None` if its outputs are stored, which only hidden states can be.
        teacher_layers: the teacher's layer, from 1, that each of the student's is compared with.
        stored_width: of stored hidden states.

    Attributes:
        student_reader, teacher_reader: run the models so that what is compared comes with the logits.
        projection: from the student's width to the teacher's, `None` where they are the same.
        are_used: whether one of the weights is positive.
        storable: whether stored outputs can take the place of a teacher's.
        teacher_layers: those whose hidden states are compared.

    Raises:
        UserError: the models do not have what the losses compare.
    """

    def __init__(
        self,
        args: TrainingArguments,
        student: nn.Module,
        teacher: PreTrainedModel | None,
        teacher_layers: Sequence[int] | None,
        stored_width: int | None = None,
    ):
        self._args = args
        self._pairs: list[tuple[int, int]] = []
        self.projection = None
        of_student, of_teacher = {}, {}
        if args.uses("hidden", "attention"):
            self._pairs = _pairs(num_layers(unwrap_peft_model(student)), teacher_layers, teacher)
        if args.uses("attention", "relation") and teacher is None:
            raise UserError(
                "`attention_weight` and `relation_weight` compare what is not stored: give a `teacher_model` "
                "(`--no_teacher_cache`), or set both to 0."
            )
        if teacher is not None:
            check_shapes(args, unwrap_peft_model(student), teacher)
        config = unwrap_peft_model(student).config
        own_layers = tuple(own for own, _ in self._pairs)
        its_layers = tuple(sorted({its for _, its in self._pairs}))
        if args.uses("hidden"):
            of_student["hidden_states"], of_teacher["hidden_states"] = own_layers, its_layers
            width = stored_width if teacher is None else teacher.config.hidden_size
            if width not in (None, config.hidden_size):
                if args.n_gpu > 1:  # `DataParallel` copies the student, but not what belongs to the loss
                    raise UserError(
                        "`hidden_weight` for a student of another width than its teacher works with one GPU a "
                        f"process, but this process would use {args.n_gpu}. Start it with `accelerate launch` or "
                        "`torchrun`, which run a process for each, or show it one GPU with CUDA_VISIBLE_DEVICES."
                    )
                self.projection = nn.Linear(config.hidden_size, width, bias=False)
        if args.uses("attention"):
            of_student["attentions"], of_teacher["attentions"] = own_layers, its_layers
        if args.uses("relation"):
            self._relation_heads = _relation_heads(args, teacher)
            self._last_student, self._last_teacher = num_layers(unwrap_peft_model(student)), num_layers(teacher)
            of_student["relations"], of_teacher["relations"] = (self._last_student,), (self._last_teacher,)
        self.student_reader = LayerOutputReader(student, WantedOutputs(**of_student), self.projection)
        self.teacher_reader = None if teacher is None else LayerOutputReader(teacher, WantedOutputs(**of_teacher))
        self.are_used = bool(of_teacher)
        self.storable = of_teacher.keys() <= {"hidden_states"}
        self.teacher_layers = of_teacher.get("hidden_states", ())

    def compute(
        self, student: LayerOutputs, teacher: LayerOutputs, attention_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The losses with a positive weight by name, `(batch,)` each: means over the layers.

        Args:
            attention_mask: `(batch, length)`.
        """
        losses = {}
        if self._args.uses("hidden"):
            token_mask = attention_mask
            if self._args.hidden_tokens == "first":
                token_mask = attention_mask * (attention_mask.cumsum(dim=-1) == 1)
            losses["hidden"] = _mean(
                hidden_state_loss(student.hidden_states[own], teacher.hidden_states[its], token_mask)
                for own, its in self._pairs
            )
        if self._args.uses("attention"):
            losses["attention"] = _mean(
                attention_loss(
                    *(student.attentions[own], teacher.attentions[its]),
                    *(attention_mask, self._args.attention_divergence),
                )
                for own, its in self._pairs
            )
        if self._args.uses("relation"):
            own, its = student.relations[self._last_student], teacher.relations[self._last_teacher]
            losses["relation"] = _mean(
                relation_loss(own[kind], its[kind], attention_mask, self._relation_heads) for kind in KINDS
            )
        return losses


def _mean(losses: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(losses)).mean(dim=0)


def _pairs(
    num_student_layers: int, teacher_layers: Sequence[int] | None, teacher: PreTrainedModel | None
) -> list[tuple[int, int]]:
    if teacher_layers is None or len(teacher_layers) != num_student_layers:
        raise UserError(
            "`hidden_weight` and `attention_weight` compare every layer of the student with one of the teacher's: "
            f"`teacher_layers` must name {num_student_layers} layers, found {teacher_layers}. Pass the layers that "
            "the student was built from."
        )
    depth = None if teacher is None else num_layers(teacher)
    if min(teacher_layers) < 1 or (depth is not None and max(teacher_layers) > depth):
        raise UserError(f"`teacher_layers` are numbers from 1 to {depth or 'N'}, found {tuple(teacher_layers)}.")
    return list(enumerate(teacher_layers, start=1))


def check_shapes(args: TrainingArguments, student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Raises a `UserError` if heads or widths of the two do not fit the losses that are used."""
    own, its = student.config, teacher.config
    if args.uses("attention") and own.num_attention_heads != its.num_attention_heads:
        raise UserError(
            f"`attention_weight` compares heads one by one, but the student has {own.num_attention_heads} and the "
            f"teacher {its.num_attention_heads}. Use `relation_weight`, for which they may differ."
        )
    heads = _relation_heads(args, teacher)
    if args.uses("relation") and (own.hidden_size % heads or its.hidden_size % heads):
        raise UserError(
            f"`relation_heads` must divide the widths of student and teacher, {own.hidden_size} and "
            f"{its.hidden_size}, found {heads}."
        )


def _relation_heads(args: TrainingArguments, teacher: PreTrainedModel) -> int:
    return args.relation_heads or teacher.config.num_attention_heads
