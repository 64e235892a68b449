"""`DistillationTrainer`: a `Trainer` whose loss mixes the labels with what a teacher computes for each example.

    from distill_trainer import DistillationTrainer, DistillationTrainingArguments

    args = DistillationTrainingArguments(output_dir="student", kl_weight=0.5, temperature=2.0)
    trainer = DistillationTrainer(model=student, teacher_model=teacher, args=args, train_dataset=tokenized,
                                  processing_class=tokenizer)
    trainer.train()

A `teacher_logits` column of the data set replaces the teacher: see `layer_distillation/teacher_outputs.py`. With
`kl_weight=0` the trainer fine-tunes without a teacher and handles batches as in distillation: use that for baselines.
Layers of the student can be compared with layers of the teacher (`hidden_weight`, `attention_weight`,
`relation_weight`). The weights and the temperature can change during the training (`linear_to`).
"""

import json
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
from layer_distillation.layer_outputs import LayerOutputs, logits_of
from layer_distillation.losses import cosine_loss, kl_divergence_loss, task_loss
from layer_distillation.model_outputs import forward_columns
from layer_distillation.problem_types import SINGLE_LABEL, infer_problem_type
from layer_distillation.teacher_outputs import check_finite, stored_width
from layer_distillation.vocabularies import check_vocabulary

IGNORED_LABEL = -100
# Name of the projection (see `layer_losses.py`) within the student while both are trained.
PROJECTION = "distillation_projection"
PROJECTION_FILE = f"{PROJECTION}.pt"


class DistillationTrainer(Trainer):
    """`Trainer` with a distillation loss.

    The model has a label for every example or, as in token classification, for every token. With a label a token, the
    losses on logits are means over the tokens whose label is not -100, and the teacher runs in every step.

    Evaluation reports the plain task loss as `eval_loss`, never the mixture, so that runs with other weights, LoRA and
    plain fine-tuning can be compared. The components of the training loss are logged without their weights, as
    `loss_ce`, `loss_kl` and so on.

    If student and teacher differ in width, a linear map between their hidden states is trained with the student. It is
    not saved as a part of the student.

    Args:
        model: the student. Its `config.problem_type` chooses the form of the losses. If it is unset, the teacher's
            counts; if both are unset, it is inferred as the `transformers` heads infer it.
        args: the weights of the losses, the temperature and everything that `TrainingArguments` has.
        teacher_model: a classifier with the same labels and vocabulary. It is frozen, put into `eval()` mode, and
            takes no part in evaluation, in the optimizer or in checkpoints. It may be `None` if only `ce_weight` is
            positive, or if the data set has its outputs: a `teacher_logits` column (float, `(num_labels,)` an example)
            and, for `hidden_weight`, a `teacher_hidden_states_K` column for each layer K in `teacher_layers` (float,
            `(length, width)` an example). Such columns are used even if a teacher is given.
        teacher_layers: for each student layer, the 1-based number of the teacher layer that `hidden_weight` and
            `attention_weight` compare it with: usually the layer that it was copied from.
        **kwargs: as for `Trainer`.

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
                "`compute_loss` to add another loss."
            )
        args = args if args is not None else DistillationTrainingArguments()
        super().__init__(model, args, **kwargs)
        # BERT-like heads accept **kwargs, so Trainer would believe that they divide the loss by `num_items_in_batch`.
        # They do not, and the loss would grow with accumulation steps and processes. `compute_loss` divides instead.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = True
        if self.is_fsdp_enabled:
            choose_fsdp_units(unwrap_peft_model(self.model), self.accelerator)
        if self.args.uses("kl", "cosine"):
            check_finite(self.train_dataset)
        self._student_columns = forward_columns(self.model)
        self._teacher_columns = set() if teacher_model is None else forward_columns(teacher_model)
        width = stored_width(self.train_dataset, teacher_layers)
        self._layers = LayerLosses(self.args, self.model, teacher_model, teacher_layers, width)
        self.teacher_model = None if teacher_model is None else self._prepare_teacher(teacher_model)
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
        check_vocabulary(teacher_model, unwrap_peft_model(self.model), self.processing_class)
        if student_config.problem_type is None:
            student_config.problem_type = teacher_config.problem_type
        if self.args.teacher_dtype is not None:
            teacher_model = teacher_model.to(getattr(torch, self.args.teacher_dtype))
        return shard_for_inference(teacher_model.requires_grad_(False).eval(), self.accelerator)

    def train(self, *args, **kwargs):
        """Trains as `Trainer` does, also after an `evaluate` or `predict` in several processes."""
        # Evaluation marks the model as prepared without wrapping it, and accelerate then leaves it as it is: without
        # DDP, each process would silently train its own student.
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled) and self.model_wrapped is self.model:
            self.model._is_accelerate_prepared = False
        self._component_sums, self._component_totals = {}, {}
        if self._layers.projection is None:
            return super().train(*args, **kwargs)
        # Within the student, the optimizer and the engines find the projection. They need it only while they train.
        self.model.add_module(PROJECTION, self._layers.projection.to(self.args.device))
        try:
            return super().train(*args, **kwargs)
        finally:
            delattr(self.model, PROJECTION)

    # ---- the loss ----

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Returns the weighted sum of the losses, each a mean over the examples of the whole batch.

        In training, `num_items_in_batch` is the number of examples (or of labeled tokens) in all processes and
        accumulation steps of this optimizer step. Each call returns its share of the mean over all of them, times the
        number of processes, because gradients and logged losses are averaged over processes. So the result does not
        depend on how the batch is split.
        """
        labels = inputs.get("labels")
        student_inputs = {name: inputs[name] for name in inputs if name in self._student_columns}
        if not model.training:
            logits = logits_of(model(**student_inputs))
            loss = self._mean_task_loss(logits, labels)
            return (loss, {"logits": logits}) if return_outputs else loss

        teacher = self._teacher_outputs(inputs) if self.args.needs_teacher else None
        student_logits, layer_losses = self._layers.forward(model, student_inputs, teacher)
        num_real = self._num_real_examples(len(student_logits))
        counted = _counted(student_logits, labels, num_real)
        teacher_logits = None if teacher is None else teacher.logits
        prediction_losses = self._prediction_losses(student_logits, teacher_logits, labels, counted)

        if num_items_in_batch is None:
            weight_per_prediction, weight_per_example = 1 / len(student_logits[counted]), 1 / len(student_logits)
        else:
            weight_per_prediction = self.args.world_size / num_items_in_batch
            weight_per_example = self.args.world_size / self._num_examples_in_step
        components = {name: weight_per_prediction * losses.sum() for name, losses in prediction_losses.items()}
        components |= {name: weight_per_example * losses[:num_real].sum() for name, losses in layer_losses.items()}
        loss = sum(self._now(f"{name}_weight") * component for name, component in components.items())
        self._add_to_log({**components, "total": loss}, weight_per_example * num_real)
        return (loss, {"logits": student_logits}) if return_outputs else loss

    def _teacher_outputs(self, inputs: dict[str, torch.Tensor]) -> LayerOutputs:
        """Returns what the losses need of the teacher: from the columns of the batch, or computed."""
        stored = self._layers.stored_outputs(inputs)
        if stored is not None:
            return stored
        if self.teacher_model is None:
            missing = ", ".join(f"`{name}`" for name in self._layers.stored_columns if name not in inputs)
            raise UserError(
                "The loss compares the student with a teacher, but there is no `teacher_model`, and the training data "
                f"lack {missing}. Pass one of them, or set all weights but --ce_weight to 0 for plain fine-tuning."
            )
        teacher_inputs = {name: inputs[name] for name in inputs if name in self._teacher_columns}
        # Accelerate casts only the models it has prepared: without `autocast` the teacher would run in float32.
        with torch.no_grad(), self.accelerator.autocast():
            return self._layers.teacher_outputs(self.teacher_model, teacher_inputs)

    def _prediction_losses(
        self,
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor | None,
        labels: torch.Tensor | None,
        counted: slice | torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Returns the losses on the counted predictions by name, one value for each prediction."""
        args, losses = self.args, {}
        problem_type = self._problem_type(student_logits, labels)
        student = student_logits[counted]
        if labels is not None:
            losses["ce"] = task_loss(student, labels[counted], problem_type, args.label_smoothing_factor)
        elif args.uses("ce"):
            raise UserError("--ce_weight is positive, but the batch has no `labels`. --ce_weight 0 trains without.")
        if args.uses("kl", "cosine"):
            if teacher_logits.shape != student_logits.shape:
                # Broadcasting would take (batch,) and (batch, 1) for a table of all pairs of examples.
                raise UserError(
                    f"`teacher_logits` have the shape {tuple(teacher_logits.shape)}, the student's logits "
                    f"{tuple(student_logits.shape)}. Store a list of `num_labels` numbers for every example."
                )
            teacher = teacher_logits[counted]
        if args.uses("kl"):
            losses["kl"] = kl_divergence_loss(student, teacher, self._now("temperature"), problem_type)
        if args.uses("cosine"):
            losses["cosine"] = cosine_loss(student, teacher)
        return losses

    def _mean_task_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Returns the loss of an evaluation batch."""
        # At least one example, so that a process with nothing but repeated ones returns a number, which is dropped.
        counted = _counted(logits, labels, max(self._num_real_examples(len(logits)), 1))
        return task_loss(logits[counted], labels[counted], self._problem_type(logits, labels)).mean()

    def _now(self, name: str) -> float:
        """Returns the value of a weight or of the temperature in this step."""
        return self.args.at_progress(name, min(self.state.global_step / max(self.state.max_steps - 1, 1), 1))

    def _problem_type(self, logits: torch.Tensor, labels: torch.Tensor | None) -> str:
        config = unwrap_peft_model(self.model).config
        if config.problem_type is None:
            # Kept, as the heads of `transformers` keep it, so that a pipeline will know it too.
            config.problem_type = infer_problem_type(logits.shape[-1], labels)
        self.args.check_number_of_labels(logits.shape[-1])
        return config.problem_type

    # ---- evaluation ----

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Predicts as `Trainer` does, from the columns that the student reads: no teacher runs in evaluation."""
        columns = {*self._student_columns, *self.label_names}
        inputs = {name: inputs[name] for name in inputs if name in columns}
        # Without labels Trainer calls the model itself and would gather its hidden states as predictions.
        ignore_keys = ignore_keys or ["hidden_states", "attentions"]
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    # ---- logging ----

    def _add_to_log(self, components: dict[str, torch.Tensor], steps: float) -> None:
        """Adds this process's share of the components and of an optimizer step to the sums since the last log."""
        shares = {name: component.detach() for name, component in components.items()}
        for name, share in {**shares, "steps": steps}.items():
            self._component_sums[name] = self._component_sums.get(name, 0.0) + share

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs as `Trainer` does, and adds the mean of each component of the loss over all processes.

        `loss_ce` is the mean since the last log, like `loss`. `train_loss_ce` is the mean over the whole training,
        like `train_loss`. `loss` and `train_loss` become the weighted sums of their components: the `train_loss` of
        Trainer counts neither the steps before an interruption nor, after the last log, the other processes.
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
        """Returns the means over the processes of the sums since the last log, and moves them into the totals."""
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
        """Saves the student without the projection."""
        if self._layers.projection is not None:
            state_dict = self.model.state_dict() if state_dict is None else state_dict
            state_dict = {name: tensor for name, tensor in state_dict.items() if not name.startswith(PROJECTION)}
        super()._save(output_dir, state_dict)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Saves also the sums of the losses and the projection, so that a resumed run equals an uninterrupted one."""
        super()._save_optimizer_and_scheduler(output_dir)
        sums = {name: float(value) for name, value in self._component_sums.items()}
        Path(output_dir).mkdir(parents=True, exist_ok=True)  # the main process may not have made it yet
        Path(output_dir, self._loss_sums_file).write_text(json.dumps([sums, self._component_totals]))
        if self._saves_projection and self.args.should_save:
            torch.save(self._layers.projection.state_dict(), Path(output_dir, PROJECTION_FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and Path(checkpoint, self._loss_sums_file).is_file():
            sums = json.loads(Path(checkpoint, self._loss_sums_file).read_text())
            self._component_sums, self._component_totals = sums
        if checkpoint is not None and self._saves_projection:
            weights = torch.load(Path(checkpoint, PROJECTION_FILE), map_location=self.args.device, weights_only=True)
            self._layers.projection.load_state_dict(weights)

    def _issue_warnings_after_load(self, load_result) -> None:
        """Raises a `UserError` where `Trainer` would only warn that weights of a checkpoint were not loaded.

        Trainer reads the names in the file as they are, but transformers saves some architectures under other names.
        """
        names = [name for name in load_result.unexpected_keys if not name.startswith(PROJECTION)]
        if names:
            raise UserError(
                f"The checkpoint cannot be continued from, because `Trainer` does not find {len(names)} of its "
                f"weights in a {type(self.model).__name__}, for example {names[0]}. Train from the start, in another "
                "--output_dir, and without --load_best_model_at_end."
            )
        super()._issue_warnings_after_load(load_result)

    @property
    def _saves_projection(self) -> bool:
        # The engines save and load all weights that they hold, the projection among them.
        in_engine = self.is_deepspeed_enabled or self.is_fsdp_enabled
        return self._layers.projection is not None and not in_engine

    @property
    def _loss_sums_file(self) -> str:
        return f"loss_sums_{self.args.process_index}.json"

    # ---- batches ----

    def _num_repeated_examples(self, batch_size: int) -> int:
        """Returns how many examples in the current batches of all processes only fill up the last batch.

        Accelerate repeats examples from the start of the data set until every process has a full last batch. The
        repeated examples come last in the order of the processes. Counted twice, they would shift loss and gradient.
        """
        state = self.accelerator.gradient_state
        if self.args.world_size == 1 or self.args.dataloader_drop_last or not state.end_of_dataloader:
            return 0
        dataset = state.active_dataloader.dataset
        return -len(dataset) % (batch_size * self.args.world_size) if has_length(dataset) else 0

    def _num_real_examples(self, batch_size: int) -> int:
        """Returns how many examples at the start of this process's batch are not repeated ones."""
        # All batches of an optimizer step are fetched before the first is used. Only the last one is filled up.
        return self._num_real_in_last(batch_size) if self.accelerator.gradient_state.sync_gradients else batch_size

    def _num_real_in_last(self, batch_size: int) -> int:
        num_real = batch_size * self.args.world_size - self._num_repeated_examples(batch_size)
        return min(max(num_real - batch_size * self.args.process_index, 0), batch_size)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> int | None:
        """Returns the number of labels in one optimizer step, over all processes.

        With one label an example, the processes need not communicate to know it.
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
        return max(int(self.accelerator.reduce(number, "sum")), 1)  # a step without labels has the loss 0

    def _is_a_label_a_token(self, labels: torch.Tensor | None) -> bool:
        """Returns whether labels are classes of tokens. Multi-label targets have two dimensions too."""
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
        # `Trainer` would group evaluation examples by length too, and `predict` would return them in that order.
        if eval_dataset is None or not has_length(eval_dataset):
            return None
        return SequentialSampler(eval_dataset)

    def _set_signature_columns_if_needed(self) -> None:
        # Trainer keeps only the student's columns: the teacher's inputs and its stored outputs would be dropped.
        super()._set_signature_columns_if_needed()
        stored = self._layers.stored_columns
        self._signature_columns = list({*self._signature_columns, *self._teacher_columns, *stored})


def _counted(logits: torch.Tensor, labels: torch.Tensor | None, num_real: int) -> slice | torch.Tensor:
    """Returns an index of the predictions that count: of real examples or, with a label a token, of labeled tokens."""
    if logits.dim() == 2:
        return slice(num_real)
    if labels is None:
        raise UserError(
            "A model that predicts a label for every token needs `labels`: -100 marks the tokens that do not count."
        )
    counted = labels != IGNORED_LABEL
    counted[num_real:] = False
    return counted
