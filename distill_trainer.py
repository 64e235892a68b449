"""`DistillationTrainer`: a `Trainer` whose loss mixes the hard labels with what a teacher says about each example.

    from distill_trainer import DistillationTrainer, DistillationTrainingArguments

    args = DistillationTrainingArguments(output_dir="student", kl_weight=0.5, temperature=2.0)
    trainer = DistillationTrainer(model=student, teacher_model=teacher, args=args, train_dataset=tokenized,
                                  processing_class=tokenizer)
    trainer.train()

The teacher's logits may also come precomputed, as a `teacher_logits` column of the data set: then no teacher is
needed. With `kl_weight=0, cosine_weight=0` this is plain fine-tuning with the same handling of batches: use it for
baselines. Beyond logits, the student's layers can be compared with the teacher's (`hidden_weight`, `attention_weight`,
`relation_weight`), and every weight and the temperature can change over the training (`linear_to`).
"""

import ctypes
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import has_length, unwrap_peft_model

from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.batches import EpochShuffleSampler, lengths_of
from layer_distillation.engines import choose_fsdp_units, shard_for_inference
from layer_distillation.errors import UserError
from layer_distillation.layer_losses import LayerLosses
from layer_distillation.layer_outputs import LayerOutputs
from layer_distillation.losses import cosine_loss, kl_divergence_loss, task_loss
from layer_distillation.model_outputs import forward_columns
from layer_distillation.problem_types import SINGLE_LABEL, infer_problem_type
from layer_distillation.teacher_outputs import TEACHER_HIDDEN_STATES, TEACHER_LOGITS, check_finite, stored_width

IGNORED_LABEL = -100
# Name that the student's projection (see `layer_losses.py`) has in it while it is trained.
PROJECTION = "distillation_projection"
PROJECTION_FILE = f"{PROJECTION}.pt"


def keep_freed_memory() -> None:
    """Has this process keep the memory that it frees, for its next allocation, where the C library is glibc.

    By default glibc returns blocks above 32 MB to the system as soon as they are freed and gets them back page by
    page. On a processor the gradient of the word embeddings is such a block, allocated anew in every step: 47 MB for
    BERT's vocabulary at a width of 384. Whoever sets glibc's `MALLOC_...` variables decides differently.
    """
    is_decided = any(name.startswith("MALLOC_") for name in os.environ)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None and not is_decided:
        m_trim_threshold, m_mmap_max = -1, -4  # as in malloc.h
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, -1)


class DistillationTrainer(Trainer):
    """`Trainer` with a distillation loss.

    Args:
        model: the student. Its `config.problem_type` chooses the form of the losses; unset, the teacher's
            does; with neither, it is inferred as the `transformers` heads do.
        args: the loss weights, the temperature and everything `TrainingArguments` has.
        teacher_model: a classifier with the same labels and vocabulary. It is frozen, put in `eval()` and takes no
            part in evaluation, in the optimizer or in checkpoints. `None` when the data set has a `teacher_logits`
            column (float, `(num_labels,)` an example), which a teacher would not replace, or when only `ce_weight`
            is positive. For `hidden_weight` alone a column `teacher_hidden_states_K` for each layer K in
            `teacher_layers` serves too (float, `(length, width)` an example).
        teacher_layers: for each layer of the student the teacher's layer that it is compared with, from 1, usually
            the one it was copied from; for `hidden_weight` and `attention_weight`.
        **kwargs: as for `Trainer`.

    The model may have a label for every example or, as in token classification, for every token: then the losses on
    logits are means over the tokens whose label is not -100, and a teacher runs in every step.

    Evaluation reports the plain task loss as `eval_loss`, never the mixture, so that it can be compared between runs
    with other weights, with LoRA and with plain fine-tuning. The components of the training loss are logged as
    `loss_ce`, `loss_kl` and so on, before their weights.

    Hidden states of another width than the teacher's are compared through a linear map that is trained with the
    student and is no part of it when it is saved.

    Raises:
        UserError: the teacher's labels or vocabulary are not the student's, a loss on layers lacks what it compares,
            `compute_loss_func` is given, or the `teacher_logits` column holds NaN or infinity.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: DistillationTrainingArguments | None = None,
        *,
        teacher_model: PreTrainedModel | None = None,
        teacher_layers: Sequence[int] | None = None,
        **kwargs,
    ):
        if kwargs.get("compute_loss_func") is not None:
            raise UserError(
                "`compute_loss_func` would replace the distillation loss. Subclass `DistillationTrainer` and override "
                "`compute_loss` to add a loss of your own."
            )
        args = args if args is not None else DistillationTrainingArguments()
        super().__init__(model, args, **kwargs)
        # BERT-like heads accept **kwargs, so Trainer would believe that they divide the loss by `num_items_in_batch`.
        # They do not, and the loss would grow with accumulation steps and processes. `compute_loss` divides by itself.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = True
        if self.is_fsdp_enabled:
            choose_fsdp_units(unwrap_peft_model(self.model), self.accelerator)
        if self.args.uses("kl", "cosine"):
            check_finite(self.train_dataset)
        self._student_columns = forward_columns(self.model)
        self._teacher_columns = set() if teacher_model is None else forward_columns(teacher_model)
        width = stored_width(self.train_dataset, teacher_layers)
        self._layer_losses = LayerLosses(self.args, self.model, teacher_model, teacher_layers, width)
        self.teacher_model = None if teacher_model is None else self._prepare_teacher(teacher_model)
        stored_layers = [TEACHER_HIDDEN_STATES.format(layer=layer) for layer in self._layer_losses.teacher_layers]
        self._stored_columns = [*([TEACHER_LOGITS] if self.args.uses("kl", "cosine") else []), *stored_layers]
        self._num_examples_in_step = 0
        self._component_sums: dict[str, torch.Tensor | float] = {}  # since the last log, of this process
        self._component_totals: dict[str, float] = {}  # since training began, mean over processes

    def _prepare_teacher(self, teacher_model: PreTrainedModel) -> PreTrainedModel:
        student_config, teacher_config = unwrap_peft_model(self.model).config, teacher_model.config
        if teacher_config.num_labels != student_config.num_labels:
            raise UserError(
                f"The teacher has {teacher_config.num_labels} labels and the student {student_config.num_labels}. "
                "Build the student from this teacher, or load it with the teacher's `num_labels` and `id2label`."
            )
        if teacher_config.id2label != student_config.id2label:
            raise UserError(
                f"The teacher's labels are {teacher_config.id2label} and the student's {student_config.id2label}. "
                "Logits are compared by position: give both the same names in the same order."
            )
        if teacher_config.vocab_size != student_config.vocab_size:
            raise UserError(
                f"The teacher's vocabulary has {teacher_config.vocab_size} tokens and the student's "
                f"{student_config.vocab_size}, but both read the same `input_ids`. Choose a student with the "
                "teacher's tokenizer."
            )
        if student_config.problem_type is None:
            student_config.problem_type = teacher_config.problem_type
        if self.args.teacher_dtype is not None:
            teacher_model = teacher_model.to(getattr(torch, self.args.teacher_dtype))
        return shard_for_inference(teacher_model.requires_grad_(False).eval(), self.accelerator)

    def train(self, *args, **kwargs):
        """As in `Trainer`, also after an `evaluate` or `predict` in several processes."""
        # Evaluation marks the model as prepared without wrapping it, and accelerate then leaves it as it is: without
        # DDP, each process would silently train a student of its own.
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled) and self.model_wrapped is self.model:
            self.model._is_accelerate_prepared = False
        if self.args.device.type == "cpu":
            keep_freed_memory()
        self._component_sums, self._component_totals = {}, {}
        if self._layer_losses.projection is None:
            return super().train(*args, **kwargs)
        # In the student, so that the optimizer and the engines find it; only for as long as they need it.
        self.model.add_module(PROJECTION, self._layer_losses.projection.to(self.args.device))
        try:
            return super().train(*args, **kwargs)
        finally:
            delattr(self.model, PROJECTION)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The weighted sum of the losses, each a mean over the examples of the whole batch.

        In training, `num_items_in_batch` is the number of examples in all processes and accumulation steps of this
        optimizer step. Each call returns its share of the mean over them, times the number of processes, because
        gradients and logged losses are averaged over processes: the result does not depend on how the batch is split.
        """
        student_inputs = {name: inputs[name] for name in inputs if name in self._student_columns}
        labels = inputs.get("labels")
        if not model.training:
            outputs = model(**student_inputs)
            logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
            # At least one example, so that a process with nothing but repeated ones gives a number (dropped later).
            counted = _counted(logits, labels, max(self._num_real_examples(len(logits)), 1))
            loss = task_loss(logits[counted], labels[counted], self._problem_type(logits, labels)).mean()
            return (loss, {"logits": logits}) if return_outputs else loss

        student = self._layer_losses.student_reader.run(model, **student_inputs)
        teacher = self._teacher_outputs(inputs) if self.args.needs_teacher else None
        num_real = self._num_real_examples(len(student.logits))
        counted = _counted(student.logits, labels, num_real)
        of_labels = self._logit_losses(student.logits, teacher, labels, counted)
        of_examples = {}
        if self._layer_losses.are_used:
            attention_mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
            of_examples = self._layer_losses.compute(student, teacher, attention_mask)

        if num_items_in_batch is None:
            share_of_labels, share_of_examples = 1 / len(student.logits[counted]), 1 / len(student.logits)
        else:
            share_of_labels = self.args.world_size / num_items_in_batch
            share_of_examples = self.args.world_size / self._num_examples_in_step
        components = {name: share_of_labels * losses.sum() for name, losses in of_labels.items()}
        components |= {name: share_of_examples * losses[:num_real].sum() for name, losses in of_examples.items()}
        loss = sum(self._now(f"{name}_weight") * component for name, component in components.items())
        sums = {name: value.detach() for name, value in {**components, "total": loss}.items()}
        self._add_to_log(sums, share_of_examples * num_real)
        return (loss, {"logits": student.logits}) if return_outputs else loss

    def _logit_losses(
        self,
        all_student_logits: torch.Tensor,
        teacher: LayerOutputs | None,
        labels: torch.Tensor | None,
        counted: slice | torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """The losses on the predictions that count, one value each."""
        args, losses = self.args, {}
        problem_type = self._problem_type(all_student_logits, labels)
        student_logits = all_student_logits[counted]
        if labels is not None:
            losses["ce"] = task_loss(student_logits, labels[counted], problem_type, args.label_smoothing_factor)
        elif args.uses("ce"):
            raise UserError("`ce_weight` is positive, but the batch has no `labels`. Set it to 0 to train without.")
        if args.uses("kl", "cosine"):
            if teacher.logits.shape != all_student_logits.shape:
                # Broadcasting would take (batch,) and (batch, 1) for a table of all pairs of examples.
                raise UserError(
                    f"`teacher_logits` have the shape {tuple(teacher.logits.shape)}, the student's logits "
                    f"{tuple(all_student_logits.shape)}. Store a list of `num_labels` numbers for every example."
                )
            teacher_logits = teacher.logits[counted]
        if args.uses("kl"):
            losses["kl"] = kl_divergence_loss(student_logits, teacher_logits, self._now("temperature"), problem_type)
        if args.uses("cosine"):
            losses["cosine"] = cosine_loss(student_logits, teacher_logits)
        return losses

    def _now(self, name: str) -> float:
        """The present value of a weight or the temperature."""
        return self.args.at_progress(name, min(self.state.global_step / max(self.state.max_steps - 1, 1), 1))

    def _teacher_outputs(self, inputs: dict[str, torch.Tensor]) -> LayerOutputs:
        """What the losses need of the teacher: stored in the batch, or computed."""
        stored = {name: inputs[name] for name in self._stored_columns if name in inputs}
        if len(stored) == len(self._stored_columns) > 0 and self._layer_losses.storable:
            hidden_states = {
                layer: stored[TEACHER_HIDDEN_STATES.format(layer=layer)] for layer in self._layer_losses.teacher_layers
            }
            return LayerOutputs(stored.get(TEACHER_LOGITS), hidden_states)
        if self.teacher_model is None:
            raise UserError(
                "The loss compares the student with a teacher, but there is no `teacher_model`, and the training data "
                f"lack {', '.join(f'`{name}`' for name in self._stored_columns if name not in stored)}. Pass one of "
                "them, or set the weights of all losses but `ce_weight` to 0 for plain fine-tuning."
            )
        teacher_inputs = {name: inputs[name] for name in inputs if name in self._teacher_columns}
        # Accelerate casts only the models it has prepared: without `autocast` the teacher would run in float32.
        with torch.no_grad(), self.accelerator.autocast():
            return self._layer_losses.teacher_reader.run(self.teacher_model, **teacher_inputs)

    def _problem_type(self, logits: torch.Tensor, labels: torch.Tensor | None) -> str:
        config = unwrap_peft_model(self.model).config
        if config.problem_type is None:
            # Kept, as the heads of `transformers` do, so that a pipeline will know it too.
            config.problem_type = infer_problem_type(logits.shape[-1], labels)
        self.args.check_number_of_labels(logits.shape[-1])
        return config.problem_type

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """As in `Trainer`, on the columns that the student reads: the teacher takes no part in evaluation."""
        columns = {*self._student_columns, *self.label_names}
        inputs = {name: inputs[name] for name in inputs if name in columns}
        # Without labels Trainer calls the model itself and would gather its hidden states as predictions.
        ignore_keys = ignore_keys or ["hidden_states", "attentions"]
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    # ---- logging ----

    def _add_to_log(self, components: dict[str, torch.Tensor], steps: float) -> None:
        """Adds this process's share of the components, and the share of an optimizer step that it stands for."""
        for name, value in {**components, "steps": steps}.items():
            self._component_sums[name] = self._component_sums.get(name, 0.0) + value

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in `Trainer`, with the mean of each component of the loss over all processes.

        Beside `loss` it is the mean since the last log (`loss_ce`), beside `train_loss` that of the whole training
        (`train_loss_ce`). Both losses are the weighted sums of their components: Trainer's own count neither what
        came before an interruption nor, after the last log, what other processes did.
        """
        if "loss" in logs:
            logs.update(self._mean_losses(self._drain_component_sums(), "loss"))
        if "train_loss" in logs:
            self._drain_component_sums()
            logs.update(self._mean_losses(self._component_totals, "train_loss"))
            self._component_totals = {}
        super().log(logs, start_time)

    def _mean_losses(self, sums: dict[str, float], prefix: str) -> dict[str, float]:
        if not sums:
            return {}
        means = {name: value / sums["steps"] for name, value in sums.items() if name != "steps"}
        return {prefix: means.pop("total"), **{f"{prefix}_{name}": mean for name, mean in means.items()}}

    def _drain_component_sums(self) -> dict[str, float]:
        """Means over the processes of the sums since the last log, which are added to the totals and start anew."""
        if not self._component_sums:
            return {}
        sums = torch.stack([torch.as_tensor(s, device=self.args.device) for s in self._component_sums.values()])
        sums = dict(zip(self._component_sums, self.accelerator.reduce(sums, "mean").tolist(), strict=True))
        self._component_sums = {}
        for name, value in sums.items():
            self._component_totals[name] = self._component_totals.get(name, 0.0) + value
        return sums

    # ---- checkpoints ----

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Saves the student without the projection, which only the checkpoint of an engine has to hold."""
        if hasattr(self.model, PROJECTION):
            state_dict = self.model.state_dict() if state_dict is None else state_dict
            state_dict = {name: tensor for name, tensor in state_dict.items() if not name.startswith(PROJECTION)}
        super()._save(output_dir, state_dict)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Saves what else a run needs to go on as if it had not been interrupted: sums of losses, the projection."""
        super()._save_optimizer_and_scheduler(output_dir)
        sums = {name: float(value) for name, value in self._component_sums.items()}
        Path(output_dir).mkdir(parents=True, exist_ok=True)  # the main process may not have come to it yet
        Path(output_dir, self._loss_sums_file).write_text(json.dumps([sums, self._component_totals]))
        if self._saves_projection and self.args.should_save:
            torch.save(self._layer_losses.projection.state_dict(), Path(output_dir, PROJECTION_FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and Path(checkpoint, self._loss_sums_file).is_file():
            sums = json.loads(Path(checkpoint, self._loss_sums_file).read_text())
            self._component_sums, self._component_totals = sums
        if checkpoint is not None and self._saves_projection:
            weights = torch.load(Path(checkpoint, PROJECTION_FILE), map_location=self.args.device, weights_only=True)
            self._layer_losses.projection.load_state_dict(weights)

    @property
    def _saves_projection(self) -> bool:
        # The engines save and load the weights that they hold by themselves, all of them.
        in_engine = self.is_deepspeed_enabled or self.is_fsdp_enabled
        return self._layer_losses.projection is not None and not in_engine

    @property
    def _loss_sums_file(self) -> str:
        return f"loss_sums_{self.args.process_index}.json"

    # ---- batches ----

    def _num_repeated_examples(self, batch_size: int) -> int:
        """How many examples of the current batches of all processes only fill up the last batch of the data set.

        Accelerate repeats examples from the start until every process has a full last batch; they come last in the
        order of the processes. Counted twice, they would shift the loss and its gradient.
        """
        state = self.accelerator.gradient_state
        if self.args.world_size == 1 or self.args.dataloader_drop_last or not state.end_of_dataloader:
            return 0
        dataset = state.active_dataloader.dataset
        return -len(dataset) % (batch_size * self.args.world_size) if has_length(dataset) else 0

    def _num_real_examples(self, batch_size: int) -> int:
        """How many leading examples of this process's batch are not repeated ones."""
        # All batches of an optimizer step are fetched before the first is used; only the last is filled up.
        return self._num_real_in_last(batch_size) if self.accelerator.gradient_state.sync_gradients else batch_size

    def _num_real_in_last(self, batch_size: int) -> int:
        num_real = batch_size * self.args.world_size - self._num_repeated_examples(batch_size)
        return min(max(num_real - batch_size * self.args.process_index, 0), batch_size)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> int | None:
        """Number of labels in one optimizer step, over all processes.

        Where every example has one label they are counted without communication.
        """
        if not batch_samples:
            return None
        sizes = [len(next(iter(batch.values()))) for batch in batch_samples]
        self._num_examples_in_step = sum(sizes) * self.args.world_size - self._num_repeated_examples(sizes[-1])
        labels = [batch.get("labels") for batch in batch_samples]
        if not self._is_a_label_a_token(labels[-1]):
            return self._num_examples_in_step
        labels[-1] = labels[-1][: self._num_real_in_last(sizes[-1])]
        number = sum((part != IGNORED_LABEL).sum() for part in labels).to(device)
        return max(int(self.accelerator.reduce(number, "sum")), 1)  # of none the loss is 0

    def _is_a_label_a_token(self, labels: torch.Tensor | None) -> bool:
        """Whether labels are classes of tokens. Multi-label targets have two dimensions too."""
        problem_type = unwrap_peft_model(self.model).config.problem_type or infer_problem_type(2, labels)
        return problem_type == SINGLE_LABEL and labels is not None and labels.dim() == 2

    def _get_train_sampler(self, train_dataset=None) -> Sampler | None:
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        strategy = self.args.train_sampling_strategy
        if strategy not in ("random", "group_by_length") or dataset is None or not has_length(dataset):
            return super()._get_train_sampler(train_dataset)
        return EpochShuffleSampler(
            num_examples=len(dataset),
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            # Trainer's own count: accelerate's `set_epoch` does not reach the sampler of a resumed data loader.
            epoch=lambda: int(self.state.epoch or 0),
            lengths=lengths_of(dataset) if strategy == "group_by_length" else None,
            batch_size=self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size,
        )

    def _get_eval_sampler(self, eval_dataset) -> Sampler | None:
        # `Trainer` would group evaluation examples by length too, and `predict` return them in that order.
        if eval_dataset is None or not has_length(eval_dataset):
            return None
        return SequentialSampler(eval_dataset)

    def _set_signature_columns_if_needed(self) -> None:
        # Trainer keeps only the student's columns: the teacher's inputs and its precomputed logits would be dropped.
        super()._set_signature_columns_if_needed()
        self._signature_columns = list({*self._signature_columns, *self._teacher_columns, *self._stored_columns})


def _counted(logits: torch.Tensor, labels: torch.Tensor | None, num_real: int) -> slice | torch.Tensor:
    """Index of the predictions that count: of real examples and, where every token has one, of tokens with a label."""
    if logits.dim() == 2:
        return slice(num_real)
    if labels is None:
        raise UserError(
            "A model with a prediction for every token needs `labels`: -100 marks those that do not count."
        )
    counted = labels != IGNORED_LABEL
    counted[num_real:] = False
    return counted
