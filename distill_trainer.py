"""`DistillationTrainer`: a `Trainer` whose loss mixes the labels with what a teacher computes for each example.

    from distill_trainer import DistillationTrainer, DistillationTrainingArguments

    args = DistillationTrainingArguments(output_dir="student", kl_weight=0.5, temperature=2.0)
    trainer = DistillationTrainer(student, args, teacher_model=teacher, train_dataset=data, processing_class=tokenizer)
    trainer.train()

A `teacher_logits` column of the data set replaces the teacher: see `layer_distillation/teacher_outputs.py`. With
`ce_weight=1, kl_weight=0` the trainer does what `Trainer` does, without a teacher: use that for baselines. Layers can
be compared too (`hidden_weight`, `attention_weight`, `relation_weight`), with weights that change (`linear_to`).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import has_length

from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.batches import EpochShuffleSampler, check_makes_a_batch, lengths_of
from layer_distillation.columns import Columns
from layer_distillation.dropout import set_dropout
from layer_distillation.encoder_layers import layer_numbers
from layer_distillation.engines import choose_fsdp_units, shard_for_inference, use_precision_of
from layer_distillation.errors import UserError
from layer_distillation.label_loss import LabelLoss, counted_predictions
from layer_distillation.layer_losses import LayerLosses
from layer_distillation.layer_outputs import LayerOutputs
from layer_distillation.loss_log import TOTAL, LossLog
from layer_distillation.losses import cosine_loss, kl_divergence_loss
from layer_distillation.matching import check_apart, check_logits, check_match
from layer_distillation.model_outputs import config_of, in_tuples, no_predictions, plain_model, with_loss
from layer_distillation.precision import in_float32
from layer_distillation.quick_steps import quickest_steps
from layer_distillation.teacher_outputs import check_finite, stored_width

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

    With `ce_weight=1, kl_weight=0` it does what `Trainer` does, whatever the model, the data, the labels and the
    optimizer are: the same losses, gradients, metrics and number of updates. It differs on purpose in these points:

    - The loss is a mean over the whole batch of an optimizer step, however the step is split. `Trainer` multiplies the
      loss of models whose `forward` takes `**kwargs` by the accumulation steps, and gives each micro-batch of other
      models the same weight, whatever it holds.
    - The losses of classifiers are computed in float32, also from outputs in half precision.
    - Evaluation is without label smoothing, of all examples in their order, and hidden states and attentions that a
      model returns are no predictions. Examples all of whose labels are unknown (NaN), and batches without a label
      that counts, are left out of the mean loss.
    - Weights that are trained are float32. A student in half precision is cast: most of its updates would be lost.
    - By default, texts of similar length share a batch, where lengths are known. The order of `"random"` is Trainer's.

    Args:
        model: the student. Its `config.problem_type` chooses the form of the losses. If it is unset, the teacher's
            counts; if both are unset, it is inferred as the `transformers` heads infer it. The loss on the labels is
            what `Trainer` would minimize: what the model returns as its loss, or the result of `compute_loss_func`.
            A module that returns only logits is trained with the loss of the problem type.
        args: the weights of the losses, the temperature and everything that `TrainingArguments` has.
        teacher_model: a classifier with the same labels and vocabulary. It is frozen, put into `eval()` mode, and
            takes no part in evaluation, in the optimizer or in checkpoints. It may be `None` if only `ce_weight` is
            positive, or if the data set has its outputs: a `teacher_logits` column (float, `(num_labels,)` an example)
            and, for `hidden_weight`, a `teacher_hidden_states_K` column for each layer K in `teacher_layers` (float,
            `(length, width)` an example). Such columns are used even if a teacher is given.
        teacher_layers: for each student layer, the 1-based number of the teacher layer that `hidden_weight` and
            `attention_weight` compare it with: usually the layer that it was copied from.
        *more, **kwargs: as for `Trainer`. `compute_loss_func` replaces the loss on the labels, which `ce_weight`
            weighs. A subclass may override `compute_loss` and add terms that are means over their batch.

    Raises:
        UserError: the teacher's labels or vocabulary are not the student's, a loss on layers lacks what it compares,
            or the `teacher_logits` column holds NaN or infinity.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: DistillationTrainingArguments | None = None,
        *more,
        teacher_model: PreTrainedModel | nn.Module | None = None,
        teacher_layers: Iterable[int] | None = None,
        **kwargs,
    ):
        args = args if args is not None else DistillationTrainingArguments()
        if not isinstance(args, DistillationTrainingArguments):
            raise UserError(f"`args` must be DistillationTrainingArguments, found {type(args).__name__}.")
        args = args.for_models(model, teacher_model)
        use_precision_of(args)
        super().__init__(model if model is None else in_float32(model), args, *more, **kwargs)
        # BERT-like heads accept **kwargs, so Trainer would believe that they divide the loss by `num_items_in_batch`.
        # They do not, and the loss would grow with accumulation steps and processes. `compute_loss` returns what
        # Trainer has to divide by the accumulation steps, as it does with the terms that a subclass adds.
        self.model_accepts_loss_kwargs = self.loss_is_scaled_for_ga = False
        self.current_gradient_accumulation_steps = 1
        if not self.label_names and not self.can_return_loss:
            self.label_names = ["labels"]  # of a module that returns only logits
        if self.is_fsdp_enabled:
            choose_fsdp_units(plain_model(self.model), self.accelerator)
        if self.args.uses("kl", "cosine"):
            check_finite(self.train_dataset)
        self._teacher_layers = None if teacher_layers is None else layer_numbers("teacher_layers", teacher_layers)
        self.teacher_model = teacher_model
        self._set_student()
        if teacher_model is not None:
            self.teacher_model = self._prepare_teacher(teacher_model)
        self._num_examples_in_step = 0
        self._components: dict[str, torch.Tensor] = {}  # of the last batch
        self._loss_log, self._evaluation_log = LossLog(), LossLog()

    def _set_student(self) -> None:
        """Reads what depends on the student and on the weights of the losses, which `model_init` may renew."""
        if self.args.student_dropout is not None:
            set_dropout(self.model, self.args.student_dropout)
        smoothing = 0.0 if self.label_smoother is None else self.label_smoother.epsilon
        self._label_loss = LabelLoss(
            self.model, self.teacher_model, self._label_name, self.compute_loss_func, smoothing
        )
        if self.teacher_model is not None:
            check_apart(self.model, self.teacher_model)
            check_match(self.model, self.teacher_model, self.processing_class)
            config, teacher_config = config_of(self.model), config_of(self.teacher_model)
            if config is not None and teacher_config is not None and config.problem_type is None:
                config.problem_type = teacher_config.problem_type
        self._columns = Columns(self.model, self.teacher_model, self.args.remove_unused_columns)
        reads_stored = self.teacher_model is None and self.args.needs_hidden_states
        width = stored_width(self.train_dataset, self._teacher_layers) if reads_stored else None
        self._layers = LayerLosses(self.args, self.model, self.teacher_model, self._teacher_layers, width)
        self._signature_columns = None  # of `Trainer`, which keeps the columns that an earlier student reads

    def _prepare_teacher(self, teacher_model: nn.Module) -> nn.Module:
        if self.args.teacher_dtype is not None:
            teacher_model = teacher_model.to(getattr(torch, self.args.teacher_dtype))
        return shard_for_inference(teacher_model.requires_grad_(False).eval(), self.accelerator)

    def call_model_init(self, trial=None) -> nn.Module:
        """Returns a new model as `Trainer` does, with float32 weights where they are trained."""
        return in_float32(super().call_model_init(trial))

    def _inner_training_loop(self, *args, **kwargs):
        use_precision_of(self.args)
        # Runs again, from the beginning, after each batch size that `auto_find_batch_size` finds too large.
        self._loss_log = LossLog()
        if self.model_init is not None:
            self.args.check_losses()  # a search sets them
            self._set_student()
        # Evaluation marks the model as prepared without wrapping it, and accelerate then leaves it as it is: without
        # DDP, each process would silently train its own student.
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled) and self.model_wrapped is self.model:
            self.model._is_accelerate_prepared = False
        with quickest_steps(self), self._layers.readable():
            if self._layers.projection is None:
                return super()._inner_training_loop(*args, **kwargs)
            # Within the student, the optimizer and the engines find the projection. Only training needs it.
            self.model.add_module(PROJECTION, self._layers.projection.to(self.args.device))
            try:
                return super()._inner_training_loop(*args, **kwargs)
            finally:
                delattr(self.model, PROJECTION)

    def _optimize_projection(self) -> None:
        """Has the optimizer train the projection between widths, also one that a subclass creates."""
        if not self._holds_projection:
            return
        weight, groups = self._layers.projection.weight, self.optimizer.param_groups
        if not any(parameter is weight for group in groups for parameter in group["params"]):
            # Not as a group of its own, which a scheduler that was given with the optimizer would not know.
            groups[-1]["params"].append(weight)

    # ---- the loss ----

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Trains on a batch as `Trainer` does, and keeps for the log the loss that is minimized and its components."""
        self._optimize_projection()
        self._components = {}
        loss = super().training_step(model, inputs, num_items_in_batch)
        losses, share_of_step = {**self._components, TOTAL: loss}, 1 / self.current_gradient_accumulation_steps
        if self.args.logging_nan_inf_filter and not loss.isfinite():
            # Not nothing: the other processes would wait for this one when they log.
            losses, share_of_step = {name: torch.zeros_like(value) for name, value in losses.items()}, 0.0
        self._loss_log.add(losses, share_of_step)
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Returns the weighted sum of the losses, each a mean over the examples of the whole batch.

        In training, `num_items_in_batch` is the number of labels that count, or of examples if the labels are no
        classes, in all processes and accumulation steps of this optimizer step. The mean of what is returned in these
        processes and steps is the loss of the step, which does not depend on how the step is split. Without
        `num_items_in_batch`, the loss of this batch is returned.
        """
        num_real = self._num_real_examples(inputs)
        if not model.training:
            outputs = model(**self._student_inputs(inputs))
            # At least one example: a process with nothing but repeated ones has to return a number, which is dropped.
            loss = self._label_loss.mean(outputs, inputs, max(num_real, 1), is_training=False)
            return (loss, with_loss(outputs, loss)) if return_outputs else loss

        teacher = self._teacher_outputs(inputs) if self.args.needs_teacher else None
        student, layer_losses = self._layers.forward(model, self._student_inputs(inputs), teacher)
        num_items = self._label_loss.num_items(inputs, num_real)
        num_steps = self.current_gradient_accumulation_steps
        if num_items_in_batch is None:
            per_item, per_example = 1 / (num_steps * num_items.clamp_min(1)), 1 / (num_steps * max(num_real, 1))
        else:
            per_item = self.args.world_size / num_items_in_batch
            per_example = self.args.world_size / self._num_examples_in_step

        components = {}
        label_loss = self._label_loss.mean(student.returned, inputs, num_real, is_training=True)
        if label_loss is not None:
            components["ce"] = per_item * num_items * label_loss
        elif self.args.uses("ce"):
            raise UserError(
                f"--ce_weight is positive, but the batch has no `{self._label_name}`. --ce_weight 0 trains without."
            )
        if self.args.uses("kl", "cosine"):
            check_logits(student.logits, teacher.logits)
            self.args.check_number_of_labels(student.logits.shape[-1])
            labels = self._label_loss.labels_of(inputs)
            counted = counted_predictions(student.logits, labels, num_real)
            per_prediction = per_item if student.logits.dim() > 2 else per_example
            problem_type = self._label_loss.set_problem_type(student.returned, labels)
            for name, losses in self._losses_to_teacher(
                student.logits[counted], teacher.logits[counted], problem_type
            ).items():
                components[name] = per_prediction * losses.sum()
        components |= {name: per_example * losses[:num_real].sum() for name, losses in layer_losses.items()}
        self._components = {name: component.detach() for name, component in components.items()}
        loss = num_steps * sum(self._now(f"{name}_weight") * component for name, component in components.items())
        return (loss, with_loss(student.returned, label_loss)) if return_outputs else loss

    def _student_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Returns what the student reads; labels only if it computes its loss."""
        return self._columns.of_student(inputs, without=self._label_loss.withheld(inputs))

    def _teacher_outputs(self, inputs: dict[str, torch.Tensor]) -> LayerOutputs:
        """Returns what the losses need of the teacher: from the columns of the batch, or computed."""
        if (stored := self._layers.stored_outputs(inputs)) is not None:
            return stored
        if self.teacher_model is None:
            missing = ", ".join(f"`{name}`" for name in self._layers.stored_columns if name not in inputs)
            raise UserError(
                "The loss compares the student with a teacher, but there is no `teacher_model`, and the training data "
                f"lack {missing}. Pass one of them, or set all weights but --ce_weight to 0 for plain fine-tuning."
            )
        teacher_inputs = self._columns.of_teacher(inputs, without=("labels", *self.label_names))
        # Accelerate casts only the models it has prepared: without `autocast` the teacher would run in float32.
        with torch.no_grad(), self.accelerator.autocast():
            return self._layers.teacher_outputs(self.teacher_model, teacher_inputs)

    def _losses_to_teacher(
        self, student_logits: torch.Tensor, teacher_logits: torch.Tensor, problem_type: str
    ) -> dict[str, torch.Tensor]:
        """Returns the losses between logits by name, one value for each prediction."""
        losses = {}
        if self.args.uses("kl"):
            losses["kl"] = kl_divergence_loss(student_logits, teacher_logits, self._now("temperature"), problem_type)
        if self.args.uses("cosine"):
            losses["cosine"] = cosine_loss(student_logits, teacher_logits)
        return losses

    def _now(self, name: str) -> float:
        """Returns the value of a weight or of the temperature in this step."""
        return self.args.at_progress(name, min(self.state.global_step / max(self.state.max_steps - 1, 1), 1))

    @property
    def _label_name(self) -> str:
        """The column of the labels of the task, if there are several columns of labels."""
        return self.label_names[0] if self.label_names and "labels" not in self.label_names else "labels"

    # ---- evaluation ----

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        """Evaluates as `Trainer` does; what has no label that counts takes no part in the mean loss."""
        self._evaluation_log = LossLog()
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        output.metrics.update(self._evaluation_log.since_last_log(f"{metric_key_prefix}_loss", self.accelerator))
        return output

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Predicts as `Trainer` does; no teacher runs in evaluation."""
        ignore_keys = no_predictions(self.model) if ignore_keys is None else ignore_keys  # no inner states
        if any(inputs.get(name) is None for name in self.label_names):
            # Trainer calls the model itself. With labels it calls `compute_loss`, which may read other columns.
            model, inputs = in_tuples(model), self._columns.of_student(inputs)
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if loss is not None:
            num_real = self._num_real_examples(inputs)
            weight = self._label_loss.weight_in_evaluation(inputs, num_real).to(loss.device, torch.float32)
            if self.args.logging_nan_inf_filter:
                weight = weight * loss.isfinite()
            self._evaluation_log.add({TOTAL: torch.where(weight > 0, weight * loss, 0.0)}, share_of_step=weight)
        return loss, logits, labels

    # ---- logging ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs as `Trainer` does, and adds the mean of each component of the loss over all processes.

        `loss_ce` is the mean since the last log, like `loss`. `train_loss_ce` is the mean over the whole training,
        like `train_loss`. `loss` and `train_loss` count what is minimized, also in the steps before an interruption
        and, after the last log, in the other processes, which the `train_loss` of Trainer leaves out.
        """
        if "loss" in logs:
            logs.update(self._loss_log.since_last_log("loss", self.accelerator))
        if "train_loss" in logs:
            logs.update(self._loss_log.of_training("train_loss", self.accelerator))
        super().log(logs, start_time)

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
        Path(output_dir).mkdir(parents=True, exist_ok=True)  # the main process may not have made it yet
        self._loss_log.save(Path(output_dir, self._loss_sums_file))
        if self._holds_projection and self.args.should_save:
            torch.save(self._layers.projection.state_dict(), Path(output_dir, PROJECTION_FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        self._optimize_projection()  # whose state the checkpoint has
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._loss_log.load(Path(checkpoint, self._loss_sums_file))
        if checkpoint is not None and self._holds_projection:
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
    def _holds_projection(self) -> bool:
        # The engines optimize, save and load all weights that they hold, the projection among them.
        return self._layers.projection is not None and not (self.is_deepspeed_enabled or self.is_fsdp_enabled)

    @property
    def _loss_sums_file(self) -> str:
        return f"loss_sums_{self.args.process_index}.json"

    # ---- batches ----

    def _num_repeated_examples(self, batch_size: int, is_training: bool) -> int:
        """Returns how many examples in the current batches of all processes only fill up the last batch.

        Accelerate repeats examples from the start of the data set until every process has a full last batch. The
        repeated examples come last in the order of the processes. Counted twice, they would shift loss and gradient.
        """
        state, drops_last = self.accelerator.gradient_state, is_training and self.args.dataloader_drop_last
        if self.args.world_size == 1 or drops_last or not state.end_of_dataloader:
            return 0
        dataset = state.active_dataloader.dataset
        return -len(dataset) % (batch_size * self.args.world_size) if has_length(dataset) else 0

    def _num_real_examples(self, batch: dict[str, Any]) -> int:
        """Returns how many examples at the start of this process's batch are not repeated ones."""
        batch_size = self._label_loss.num_examples(batch)
        # All batches of an optimizer step are fetched before the first is used. Only the last one is filled up.
        is_last = self.accelerator.gradient_state.sync_gradients
        return self._num_real_in_last(batch_size, self.model.training) if is_last else batch_size

    def _num_real_in_last(self, batch_size: int, is_training: bool) -> int:
        num_real = batch_size * self.args.world_size - self._num_repeated_examples(batch_size, is_training)
        return min(max(num_real - batch_size * self.args.process_index, 0), batch_size)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | int | None:
        """Returns the number of labels that count, or of examples, in one optimizer step over all processes."""
        if not batch_samples:
            return None
        sizes = [self._label_loss.num_examples(batch) for batch in batch_samples]
        self._num_examples_in_step = sum(sizes) * self.args.world_size - self._num_repeated_examples(sizes[-1], True)
        num_real = [*sizes[:-1], self._num_real_in_last(sizes[-1], True)]
        number = sum(map(self._label_loss.num_items, batch_samples, num_real)).to(device)
        return self.accelerator.reduce(number, "sum").clamp_min(1)  # a step without labels has the loss 0

    def _get_train_sampler(self, train_dataset=None) -> Sampler | None:
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        check_makes_a_batch(dataset, self.args)
        lengths, strategy = None, self.args.train_sampling_strategy
        if strategy not in ("random", "group_by_length") or dataset is None or not has_length(dataset):
            return super()._get_train_sampler(train_dataset)
        if strategy == "group_by_length":
            names = ["input_ids"] if self.processing_class is None else self.processing_class.model_input_names
            lengths = lengths_of(dataset, (self.args.length_column_name, names[0]))
        return EpochShuffleSampler(
            num_examples=len(dataset),
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            # Trainer's own count: accelerate's `set_epoch` does not reach the sampler of a resumed data loader.
            epoch=lambda: int(self.state.epoch or 0),
            lengths=lengths,
            batch_size=self.args.examples_a_step,
        )

    def _get_eval_sampler(self, eval_dataset) -> Sampler | None:
        # `Trainer` would group evaluation examples by length too, and `predict` would return them in that order.
        return SequentialSampler(eval_dataset) if has_length(eval_dataset) else None

    def _get_dataloader(self, *args, is_training=False, **kwargs) -> DataLoader:
        # With `dataloader_drop_last`, `Trainer` would leave examples out of evaluation and predictions too.
        drops_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drops_last and is_training
        try:
            return super()._get_dataloader(*args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drops_last

    def _set_signature_columns_if_needed(self) -> None:
        # Trainer keeps only the student's columns: the teacher's inputs and its stored outputs would be dropped.
        super()._set_signature_columns_if_needed()
        columns = (*self._signature_columns, *self._columns.of_teacher_by_name, *self._layers.stored_columns)
        self._signature_columns = list(dict.fromkeys(columns))
