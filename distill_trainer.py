"""`DistillationTrainer`: a `Trainer` whose loss mixes the hard labels with what a teacher says about each example.

    from distill_trainer import DistillationTrainer, DistillationTrainingArguments

    args = DistillationTrainingArguments(output_dir="student", kl_weight=0.5, temperature=2.0)
    trainer = DistillationTrainer(model=student, teacher_model=teacher, args=args, train_dataset=tokenized,
                                  processing_class=tokenizer)
    trainer.train()

The teacher's logits may also come precomputed, as a `teacher_logits` column of the data set: then no teacher is
needed. With `kl_weight=0, cosine_weight=0` this is plain fine-tuning with the same handling of batches: use it for
baselines.
"""

import ctypes
import inspect
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch import nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.trainer_utils import has_length, unwrap_peft_model

from distill_losses import cosine_loss, infer_problem_type, kl_divergence_loss, task_loss
from engines import choose_fsdp_units, shard_for_inference


def bf16_in_hardware(use_cpu: bool = False) -> bool:
    """Whether the training device multiplies bfloat16 natively; emulation is slower than float32."""
    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


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


@dataclass
class DistillationTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the weights of the loss

        ce_weight * CE(labels) + kl_weight * T^2 * KL(teacher || student, T) + cosine_weight * (1 - cos(logits))

    and with defaults that suit the distillation of encoders. The formulas are in `distill_losses.py`.
    """

    ce_weight: float = field(
        default=0.5, metadata={"help": "Weight of the hard-label loss (cross-entropy or its form for the task); >= 0."}
    )
    kl_weight: float = field(
        default=0.5,
        metadata={
            "help": "Weight of T^2 * KL(teacher || student) of the softened predictions (multi-label: one Bernoulli "
            "distribution per label; regression: squared error to the teacher); >= 0."
        },
    )
    cosine_weight: float = field(
        default=0.0, metadata={"help": "Weight of 1 - cosine(student_logits, teacher_logits); >= 0."}
    )
    temperature: float = field(
        default=2.0, metadata={"help": "T > 0, which softens both predictions before KL; 1 leaves them as they are."}
    )
    teacher_dtype: str | None = field(
        default=None,
        metadata={
            "help": "Precision of the weights of a teacher that runs in every step: 'bfloat16' halves their memory. "
            "Unset: as it was loaded. Stored teacher outputs do not depend on it.",
            "choices": ["float32", "bfloat16", "float16"],
        },
    )
    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of the student; > 0."})
    num_train_epochs: float = field(default=3.0, metadata={"help": "Passes over the training data; > 0."})
    per_device_train_batch_size: int = field(
        default=32, metadata={"help": "Training examples of one forward pass on each device."}
    )
    per_device_eval_batch_size: int = field(
        default=64, metadata={"help": "Examples of one forward pass without gradients on each device."}
    )
    warmup_steps: float = field(
        default=0.06,
        metadata={"help": "Optimizer steps of linear warm-up; below 1, as a share of all steps."},
    )
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW's weight decay; >= 0."})
    save_total_limit: int | None = field(
        default=2,
        metadata={
            "help": "Checkpoints to keep, the newest ones: with 2 or more, one is complete while another is written."
        },
    )
    bf16: bool | None = field(
        default=None,
        metadata={
            "nargs": "?",
            "const": True,
            "help": "Compute in bfloat16 with float32 weights. Unset: where the processor or GPU has it in hardware "
            "and fp16 is off. Turn it off with `--bf16 false`.",
        },
    )
    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={
            "help": "Order of the training examples: 'group_by_length' (random, but a batch holds texts of similar "
            "length, so less padding), 'random' or 'sequential'.",
            "choices": ["random", "sequential", "group_by_length"],
        },
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={
            "help": "Leave NaN and infinite losses out of the logged loss. Off: the check waits for the device at "
            "every step, and a diverged run should look diverged."
        },
    )

    def __post_init__(self):
        for name in ("ce_weight", "kl_weight", "cosine_weight"):
            weight = getattr(self, name)
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"`{name}` must be a finite number >= 0, found {weight}. Use 0 to leave a loss out.")
        if self.ce_weight == self.kl_weight == self.cosine_weight == 0:
            raise ValueError(
                "`ce_weight`, `kl_weight` and `cosine_weight` are all 0, so there is no loss to train on. Give at "
                "least one of them a positive weight."
            )
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(
                f"`temperature` must be a finite number > 0, found {self.temperature}. Use 1 to leave the predictions "
                "unsoftened."
            )
        if self.train_sampling_strategy == "batch_rebalance":
            raise ValueError(
                "`train_sampling_strategy='batch_rebalance'` gives every process batches of another size, so the loss "
                "would depend on the number of processes. Use 'group_by_length', which saves padding too."
            )
        if not torch.accelerator.is_available():
            # Without it `TrainingArguments` refuses bfloat16 on a machine that has nothing but its processor.
            self.use_cpu = True
        if self.bf16 is None:
            launched_with = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
            hardware_decides = launched_with == "no" and not self.fp16
            self.bf16 = launched_with == "bf16" or (hardware_decides and bf16_in_hardware(self.use_cpu))
        super().__post_init__()

    @property
    def needs_teacher(self) -> bool:
        """Whether a loss with a positive weight compares the student with a teacher."""
        return self.kl_weight > 0 or self.cosine_weight > 0

    def check_number_of_labels(self, num_labels: int) -> None:
        """Raises a `ValueError` if the losses cannot work on that many outputs."""
        if num_labels == 1 and self.cosine_weight > 0:
            raise ValueError(
                "`cosine_weight` is positive, but the model has a single output and the cosine of two numbers is +-1. "
                "Set `cosine_weight` to 0 for regression."
            )


class EpochShuffleSampler(Sampler):
    """Shuffles differently in every epoch, the same way on every process and after every resume.

    The order depends on `(seed, epoch)` alone. `LengthGroupedSampler` draws from the global random state instead,
    which dropout advances by different amounts on processes whose batches differ in length: on CPU they would
    disagree about the order from the second epoch on, and share examples.

    Args:
        num_examples: length of the data set.
        seed: of the shuffle.
        epoch: returns the current epoch, counted from 0.
        lengths: in tokens, one an example, to group examples of similar length; `None` for a plain shuffle.
        batch_size: examples of one optimizer step over all processes: the group whose lengths should be similar.
    """

    def __init__(
        self,
        num_examples: int,
        seed: int,
        epoch: Callable[[], int],
        lengths: list[int] | None = None,
        batch_size: int = 1,
    ):
        self.num_examples = num_examples
        self.seed = seed
        self.epoch = epoch
        self.lengths = lengths
        self.batch_size = batch_size

    def __len__(self) -> int:
        return self.num_examples

    def __iter__(self) -> Iterator[int]:
        # A large odd stride keeps (seed 0, epoch 1) and (seed 1, epoch 0) apart.
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch())
        if self.lengths is None:
            return iter(torch.randperm(self.num_examples, generator=generator).tolist())
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))


class DistillationTrainer(Trainer):
    """`Trainer` with a distillation loss.

    Args:
        model: the student. Its `config.problem_type` chooses the form of the losses; unset, the teacher's
            does; with neither, it is inferred as the `transformers` heads do.
        args: the loss weights, the temperature and everything `TrainingArguments` has.
        teacher_model: a classifier with the same labels and vocabulary. It is frozen, put in `eval()` and takes no
            part in evaluation, in the optimizer or in checkpoints. `None` when the data set has a `teacher_logits`
            column (float, `(num_labels,)` an example), which a teacher would not replace, or when only `ce_weight`
            is positive.
        **kwargs: as for `Trainer`.

    Evaluation reports the plain task loss as `eval_loss`, never the mixture, so that it can be compared between runs
    with other weights, with LoRA and with plain fine-tuning. The components of the training loss are logged as
    `loss_ce`, `loss_kl` and `loss_cosine`, before their weights.

    Raises:
        ValueError: the teacher's labels or vocabulary are not the student's, `compute_loss_func` is given, or the
            `teacher_logits` column holds NaN or infinity.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: DistillationTrainingArguments | None = None,
        *,
        teacher_model: PreTrainedModel | None = None,
        **kwargs,
    ):
        if kwargs.get("compute_loss_func") is not None:
            raise ValueError(
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
        self.teacher_model = None if teacher_model is None else self._prepare_teacher(teacher_model)
        if self.args.needs_teacher:
            _check_finite(self.train_dataset)
        self._student_columns = forward_columns(self.model)
        self._teacher_columns = set() if teacher_model is None else forward_columns(teacher_model)
        self._component_sums: dict[str, torch.Tensor | float] = {}  # since the last log, of this process
        self._component_totals: dict[str, float] = {}  # since training began, mean over processes

    def _prepare_teacher(self, teacher_model: PreTrainedModel) -> PreTrainedModel:
        student_config, teacher_config = unwrap_peft_model(self.model).config, teacher_model.config
        if teacher_config.num_labels != student_config.num_labels:
            raise ValueError(
                f"The teacher has {teacher_config.num_labels} labels and the student {student_config.num_labels}. "
                "Build the student from this teacher, or load it with the teacher's `num_labels` and `id2label`."
            )
        if teacher_config.id2label != student_config.id2label:
            raise ValueError(
                f"The teacher's labels are {teacher_config.id2label} and the student's {student_config.id2label}. "
                "Logits are compared by position: give both the same names in the same order."
            )
        if teacher_config.vocab_size != student_config.vocab_size:
            raise ValueError(
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
        return super().train(*args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The weighted sum of the losses, each a mean over the examples of the whole batch.

        In training, `num_items_in_batch` is the number of examples in all processes and accumulation steps of this
        optimizer step. Each call returns its share of the mean over them, times the number of processes, because
        gradients and logged losses are averaged over processes: the result does not depend on how the batch is split.
        """
        outputs = model(**{name: inputs[name] for name in inputs if name in self._student_columns})
        student_logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
        labels = inputs.get("labels")
        problem_type = self._problem_type(student_logits, labels)
        num_real = self._num_real_examples(len(student_logits))

        if not model.training:
            # At least one example, so that a process with nothing but repeated ones gives a number (dropped later).
            loss = task_loss(student_logits, labels, problem_type)[: max(num_real, 1)].mean()
            return (loss, {"logits": student_logits}) if return_outputs else loss

        components = {}
        if labels is not None:
            components["ce"] = task_loss(student_logits, labels, problem_type, self.args.label_smoothing_factor)
        elif self.args.ce_weight > 0:
            raise ValueError("`ce_weight` is positive, but the batch has no `labels`. Set it to 0 to train without.")
        if self.args.needs_teacher:
            teacher_logits = self._teacher_logits(inputs)
            if teacher_logits.shape != student_logits.shape:
                # Broadcasting would take (batch,) and (batch, 1) for a table of all pairs of examples.
                raise ValueError(
                    f"`teacher_logits` have the shape {tuple(teacher_logits.shape)}, the student's logits "
                    f"{tuple(student_logits.shape)}. Store a list of `num_labels` numbers for every example."
                )
        if self.args.kl_weight > 0:
            temperature = self.args.temperature
            components["kl"] = kl_divergence_loss(student_logits, teacher_logits, temperature, problem_type)
        if self.args.cosine_weight > 0:
            components["cosine"] = cosine_loss(student_logits, teacher_logits)

        share = self.args.world_size / (num_items_in_batch or len(student_logits) * self.args.world_size)
        components = {name: share * losses[:num_real].sum() for name, losses in components.items()}
        self._add_to_log({name: component.detach() for name, component in components.items()}, share * num_real)
        loss = sum(getattr(self.args, f"{name}_weight") * component for name, component in components.items())
        return (loss, {"logits": student_logits}) if return_outputs else loss

    def _teacher_logits(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        if "teacher_logits" in inputs:
            return inputs["teacher_logits"]
        if self.teacher_model is None:
            raise ValueError(
                "`kl_weight` or `cosine_weight` is positive, but there is neither a `teacher_model` nor a "
                "`teacher_logits` column in the training data. Pass one of them, or set both weights to 0 for plain "
                "fine-tuning."
            )
        teacher_inputs = {name: inputs[name] for name in inputs if name in self._teacher_columns}
        # Accelerate casts only the models it has prepared: without `autocast` the teacher would run in float32.
        with torch.no_grad(), self.accelerator.autocast():
            return self.teacher_model(**teacher_inputs)["logits"]

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
        loss = sum(getattr(self.args, f"{name}_weight") * mean for name, mean in means.items())
        return {prefix: loss, **{f"{prefix}_{name}": mean for name, mean in means.items()}}

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

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Saves the sums of the losses too, so that a run goes on as if it had not been interrupted."""
        super()._save_optimizer_and_scheduler(output_dir)
        sums = {name: float(value) for name, value in self._component_sums.items()}
        Path(output_dir).mkdir(parents=True, exist_ok=True)  # the main process may not have come to it yet
        Path(output_dir, self._loss_sums_file).write_text(json.dumps([sums, self._component_totals]))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and Path(checkpoint, self._loss_sums_file).is_file():
            sums = json.loads(Path(checkpoint, self._loss_sums_file).read_text())
            self._component_sums, self._component_totals = sums

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
        if not self.accelerator.gradient_state.sync_gradients:
            return batch_size
        num_real = batch_size * self.args.world_size - self._num_repeated_examples(batch_size)
        return min(max(num_real - batch_size * self.args.process_index, 0), batch_size)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> int | None:
        """Number of examples in one optimizer step, over all processes, without communication."""
        if not batch_samples:
            return None
        sizes = [len(next(iter(batch.values()))) for batch in batch_samples]
        return sum(sizes) * self.args.world_size - self._num_repeated_examples(sizes[-1])

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
            lengths=_lengths(dataset) if strategy == "group_by_length" else None,
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
        self._signature_columns = list({*self._signature_columns, *self._teacher_columns, "teacher_logits"})


def _check_finite(dataset) -> None:
    """Raises a `ValueError` if a `teacher_logits` column holds NaN or infinity, which would ruin the student at once.

    Once, before the training: a look at every batch would wait for the device in every step.
    """
    if not isinstance(dataset, Dataset) or "teacher_logits" not in dataset.column_names:
        return
    num_bad = 0
    for table in dataset.select_columns("teacher_logits").with_format("arrow").iter(batch_size=10_000):
        values = table["teacher_logits"].combine_chunks()
        values = values.flatten() if pa.types.is_nested(values.type) else values
        num_bad += np.count_nonzero(~np.isfinite(values.to_numpy(zero_copy_only=False)))
    if num_bad:
        raise ValueError(
            f"{num_bad:,} numbers of the `teacher_logits` column are missing, NaN or infinite, and the loss would be "
            "too. Compute them again, with a teacher in float32 whose own predictions are sound."
        )


def _lengths(dataset) -> list[int]:
    is_table = isinstance(dataset, Dataset)  # gives a column without decoding the others
    return [len(ids) for ids in (dataset["input_ids"] if is_table else (row["input_ids"] for row in dataset))]


def forward_columns(model: nn.Module) -> set[str]:
    """Names of the inputs of `model.forward`, labels left out: the losses are computed here, once."""
    return set(inspect.signature(unwrap_peft_model(model).forward).parameters) - {"labels", "kwargs"}
