"""The steps of a run after its data and its teacher are ready, in the order in which they happen.

record = new_record(settings, inputs, training_args, weights)
record, checkpoint = begin_run(record, inputs, training_args)
run = Run(training_args, inputs, teacher, record, checkpoint)
student, origin = start_student(run, student_args)           # training/student.py
trainer = build_trainer(student, inputs, training_args, teacher, origin.layers)
record = train_and_finish(run, trainer, origin)
"""

import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import IntervalStrategy

from distill_trainer import DistillationTrainer
from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.atomic_files import remove_half_written, replacing
from layer_distillation.fingerprints import fingerprint_model
from layer_distillation.loss_table import LAYER_LOSSES, PREDICTION_LOSSES, WEIGHTS
from layer_distillation.pretrained import hub_name, resolve_checkpoint
from layer_distillation.processes import on_main_process
from layer_distillation.record import DataRecord, Origin, RunRecord, StudentRecord, TeacherRecord, library_versions
from layer_distillation.student_config import encoder_config
from layer_distillation.teacher_outputs import HiddenStatesCollator
from layer_mapping import build_student
from lora_adapters.adapters import add_lora
from lora_adapters.arguments import LoraArguments
from text_data.thresholds import THRESHOLDS_FILE
from training.checkpoints import load_classifier, load_for_labels
from training.command_line import ON_COMMAND_LINE, Settings
from training.evaluation import (
    by_length,
    check_has_converged,
    describe_model,
    evaluate_splits,
    measure_latency,
    predict_splits,
    training_loss,
    write_thresholds,
)
from training.inputs import Inputs
from training.logit_adjustment import adjust_logits
from training.lora import finish_adapter
from training.model_card import CARD_FILE, IDENTITY_SECTION_FILE, card_was_changed, write_model_card
from training.output_folder import (
    CheckpointMarker,
    check_named_checkpoint,
    checkpoint_to_resume,
    closing_run_folder,
    earlier_records,
    open_run_folder,
)
from training.stored_or_live import TeacherSignal, teacher_signal
from training.teacher import Teacher

logger = logging.getLogger(__name__)

ALL_RESULTS_FILE = "all_results.json"
LOSS_SETTINGS = (*(f"{name}_weight" for name in PREDICTION_LOSSES), "temperature")
# Settings that decide what a run does, shown with their source even where they are at their default.
ALWAYS_SHOWN = (
    "teacher_name_or_path",
    "teacher_cache",
    "layer_strategy",
    "layers",
    "output_dir",
    "seed",
    "bf16",
    *LOSS_SETTINGS,
    "learning_rate",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
)


@dataclass(frozen=True)
class Run:
    """What the steps of a run share.

    Attributes:
        args: of the student's training; the folder of the run is `args.output_dir`.
        record: of the run so far.
        checkpoint: to continue from, `None` for a run that starts from the beginning.
        lora_args: `None` where all weights are trained.
        overwrite: whether stages may replace others.
    """

    args: DistillationTrainingArguments
    inputs: Inputs
    teacher: Teacher
    record: RunRecord
    checkpoint: str | None = None
    lora_args: LoraArguments | None = None
    overwrite: bool = False

    def prepared(self, student: PreTrainedModel) -> PreTrainedModel:
        """The student as it is trained: with adapters in a LoRA run, otherwise as it is."""
        if self.lora_args is None:
            return student
        return add_lora(student, self.lora_args, self.inputs.tokenized["train"], self.inputs.collator)


# ---- Beginning ----


def finished_run(record: RunRecord, training_args: DistillationTrainingArguments, overwrite: bool) -> RunRecord | None:
    """Returns the complete record of a run if it is finished already, and may not be overwritten.

    Args:
        record: as `new_record` returns it.

    Raises:
        UserError: the folder holds another run.
    """
    finished, unfinished = on_main_process(lambda: earlier_records(training_args.output_dir, record, overwrite))
    return finished if unfinished is None and not overwrite else None


def begin_run(
    record: RunRecord, inputs: Inputs, training_args: DistillationTrainingArguments, overwrite: bool = False
) -> tuple[RunRecord, str | None]:
    """Opens the output folder, which is claimed, for a run that is not finished.

    Args:
        record: as `new_record` returns it.
        overwrite: whether the run may replace another one in the folder.

    Returns:
        The record of the run, and the checkpoint to continue from if an earlier run was interrupted. The record has a
        student only if the run is finished.

    Raises:
        UserError: the folder holds another run, or `--resume_from_checkpoint` names a checkpoint of one.
    """
    finished = finished_run(record, training_args, overwrite)
    if finished is not None:
        logger.info(
            f"This run is finished, and its results are kept in {training_args.output_dir}. Train it again with "
            "--overwrite_output_dir."
        )
        return finished, None
    return record, open_run(record, inputs, training_args, overwrite)


def open_run(
    record: RunRecord, inputs: Inputs, training_args: DistillationTrainingArguments, overwrite: bool = False
) -> str | None:
    """Opens the output folder for the run of a new record, and returns the checkpoint to continue from."""
    folder = training_args.output_dir

    def open_folder() -> str | None:
        checkpoint = checkpoint_to_resume(folder, record, overwrite)
        if training_args.resume_from_checkpoint:
            checkpoint = training_args.resume_from_checkpoint
            check_named_checkpoint(checkpoint, record, num_steps(training_args, len(inputs.tokenized["train"])))
        open_run_folder(folder, record, keep_checkpoints=checkpoint is not None)
        return checkpoint

    return on_main_process(open_folder)


def new_record(
    settings: Settings, inputs: Inputs, training_args: DistillationTrainingArguments, weights: Mapping[str, str]
) -> RunRecord:
    """Returns the record of a run that begins: what it is asked to do, and on what its result depends.

    Args:
        weights: fingerprints of the teacher, before any training, and of a pretrained student: their folders may hold
            others by now.
    """
    data = DataRecord(
        source=inputs.data.source,
        labels=inputs.data.labels.names,
        fingerprints=inputs.fingerprints,
        split_seed=inputs.data.split_seed,
    )
    return RunRecord(
        name=Path(training_args.output_dir).resolve().name,
        command=settings.command,
        # The number of processes decides on the size of a step, as settings do.
        settings=settings.given() | {"num_processes": training_args.world_size},
        data=data,
        seed=training_args.seed,
        libraries=library_versions(),
        circumstances={"bf16": training_args.bf16, "eval_steps": _eval_steps(training_args), **weights},
    )


def _eval_steps(args: DistillationTrainingArguments) -> float | None:
    """Returns the steps between the evaluations that the best model is chosen by, `None` where none is chosen."""
    return args.eval_steps if args.load_best_model_at_end and args.eval_strategy == IntervalStrategy.STEPS else None


# ---- Training ----


def build_trainer(
    student: PreTrainedModel,
    inputs: Inputs,
    training_args: DistillationTrainingArguments,
    teacher: Teacher | None = None,
    layers: Sequence[int] = (),
    compute_loss_func: Callable | None = None,
) -> DistillationTrainer:
    """Returns the trainer of a student.

    Args:
        teacher: `None` where the losses need none.
        layers: of the teacher that the student was built from, 1-based; `()` for a student that was not.
        compute_loss_func: replaces the loss on the labels, as for `Trainer`.
    """
    signal = TeacherSignal(inputs.tokenized["train"])
    if teacher is not None:
        signal = teacher_signal(teacher, student, layers, inputs, training_args)
    return DistillationTrainer(
        model=student,
        teacher_model=signal.teacher_model,
        teacher_layers=signal.teacher_layers,
        args=training_args,
        train_dataset=signal.train_dataset,
        eval_dataset=by_length(inputs.validation),
        data_collator=HiddenStatesCollator(inputs.collator) if training_args.needs_hidden_states else inputs.collator,
        processing_class=inputs.tokenizer,
        compute_metrics=inputs.compute_metrics,
        compute_loss_func=compute_loss_func,
        callbacks=[CheckpointMarker()],
    )


def num_steps(args: DistillationTrainingArguments, num_examples: int) -> int:
    """Returns the optimizer steps of one run, as `Trainer` counts them."""
    if args.max_steps > 0:
        return args.max_steps
    round_batches = math.floor if args.dataloader_drop_last else math.ceil
    batches = round_batches(round_batches(num_examples / args.train_batch_size) / args.world_size)
    return math.ceil(args.num_train_epochs * max(math.ceil(batches / args.gradient_accumulation_steps), 1))


# ---- Finishing ----


def train_and_finish(
    run: Run, trainer: DistillationTrainer, origin: Origin, adjusts_logits: bool = False
) -> RunRecord:
    """Trains a student, scores it and completes its folder.

    Args:
        origin: where the student's first weights came from, as `start_student` returns it.
        adjusts_logits: whether the trained student is adjusted for rare classes.

    Returns:
        The complete record of the run, on every process.
    """
    record = run.record
    results = trainer.train(resume_from_checkpoint=run.checkpoint).metrics
    if adjusts_logits:
        results |= adjust_logits(trainer, run.inputs)
    results |= training_loss(trainer, run.inputs)
    with closing_run_folder(run.args.output_dir, run.args.distributed_state) as folder:
        trainer.save_model(folder)
        if trainer.is_world_process_zero():
            _write_results(folder, "train", results)
            trainer.state.save_to_json(str(Path(folder) / TRAINER_STATE_NAME))
        results |= score(trainer, run.inputs, folder)
        check_has_converged(results, "student", "Train it again with a lower learning rate.")
        if run.args.do_eval:
            write_thresholds(trainer, run.inputs, folder)
        if trainer.is_world_process_zero():
            record = _complete_record(run, trainer.model, origin, results, folder)
            record.write(folder)
            write_model_card(folder, record)
    (record,) = broadcast_object_list([record])
    return record


def score(trainer: DistillationTrainer, inputs: Inputs, folder: str) -> dict[str, float]:
    """Returns metrics on the validation splits (`--do_eval`) and on the test splits (`--do_predict`).

    They are written to the folder, with the predictions for the test splits.
    """
    args, data, results = trainer.args, inputs.data, {}
    if args.do_eval:
        metrics = evaluate_splits(trainer, inputs, data.validation_splits, "eval")
        results |= metrics
        if trainer.is_world_process_zero():
            _write_results(folder, "eval", metrics)
    if args.do_predict:
        metrics = predict_splits(trainer, inputs, data.test_splits, folder)
        results |= metrics
        if trainer.is_world_process_zero():
            _write_results(folder, "predict", metrics)
        if inputs.reported_split not in data.test_splits:  # or runs could not be compared example by example
            predict_splits(trainer, inputs, [inputs.reported_split], folder)
    return results


def score_again(trainer: DistillationTrainer, inputs: Inputs, settings: Settings) -> None:
    """Scores the student of a finished run as `score` does; its files are replaced once all new ones are written.

    Thresholds may have been changed by hand, so they are replaced only for a rule on the command line. A model card
    that was not changed gets the new ones. The caller has claimed the folder before it loaded the student, so that no
    other run replaces it in between.
    """
    args = trainer.args
    if trainer.is_world_process_zero():
        remove_half_written(args.output_dir)
    with replacing(args.output_dir, args.distributed_state) as folder:
        # New results are added to the first, and the new card has the second.
        for name in (ALL_RESULTS_FILE, IDENTITY_SECTION_FILE):
            earlier = Path(args.output_dir) / name
            if trainer.is_world_process_zero() and earlier.is_file():
                shutil.copy(earlier, folder)
        score(trainer, inputs, folder)
        if args.do_eval:
            kept = Path(args.output_dir) / THRESHOLDS_FILE
            if kept.is_file() and settings.sources.get("threshold_rule") != ON_COMMAND_LINE:
                logger.info(f"{kept} is kept as it is. Add --threshold_rule {inputs.threshold_rule} to replace it.")
            else:
                write_thresholds(trainer, inputs, folder)
                if trainer.is_world_process_zero() and (Path(folder) / THRESHOLDS_FILE).is_file():
                    record = RunRecord.read(args.output_dir)
                    if card_was_changed(args.output_dir, record):
                        logger.info(f"{CARD_FILE} was changed by hand and is kept, with the earlier thresholds.")
                    else:
                        write_model_card(folder, record)


def _write_results(folder: str, stage: str, metrics: Mapping[str, float]) -> None:
    """Writes `{stage}_results.json` and adds to `all_results.json`, as `Trainer.save_metrics` does."""
    (Path(folder) / f"{stage}_results.json").write_text(json.dumps(metrics, indent=4, sort_keys=True))
    file = Path(folder) / ALL_RESULTS_FILE
    earlier = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(earlier | metrics, indent=4, sort_keys=True))


def _complete_record(
    run: Run, trained: PreTrainedModel, origin: Origin, results: Mapping[str, float], folder: str
) -> RunRecord:
    """Returns the complete record of a run that has been trained and scored, from the main process.

    The student is described as others will load it: training leaves autocast around its forward pass.
    """
    args, record, labels = run.args, run.record, run.inputs.data.labels
    adapter, teacher = None, run.teacher.load(args.device)
    if run.lora_args is None:
        student, _ = load_classifier(folder, labels)
    else:
        if origin.pretrained is None:
            untrained = build_student(teacher, origin.layers, origin.neurons)
        else:
            untrained, _ = load_for_labels(resolve_checkpoint(origin.pretrained["name"]), labels, args.seed)
            record = replace(record, built_from=fingerprint_model(untrained))
        student, adapter = finish_adapter(folder, untrained, trained, run.lora_args)
    student = student.to(args.device)
    readings = ((teacher, run.inputs.read_by_teacher), (student, run.inputs))
    teacher_ms, student_ms = measure_latency([(model, inputs.validation) for model, inputs in readings])
    return replace(
        record,
        method=method_of(args, run.lora_args is not None),
        loss=_loss_settings(args),
        training=_training_settings(args),
        teacher=teacher_record(run.teacher, teacher, teacher_ms),
        student=StudentRecord(
            **vars(origin),
            **describe_model(student, student_ms),
            trainable_parameters=adapter["trainable_parameters"] if adapter else student.num_parameters(),
            adapter=adapter,
            results=results,
        ),
    )


def teacher_record(teacher: Teacher, model: PreTrainedModel, latency_ms: float) -> TeacherRecord:
    """Returns what the record of a run says about its teacher."""
    return TeacherRecord(
        name=teacher.args.teacher_name_or_path,
        hub_name=hub_name(teacher.args.teacher_name_or_path),
        fingerprint=fingerprint_model(model),
        layers=tuple(range(1, encoder_config(model.config).num_hidden_layers + 1)),
        **describe_model(model, latency_ms),
        results=teacher.results,
    )


def _loss_settings(args: DistillationTrainingArguments) -> dict[str, float | str]:
    """Returns weights and temperature, those at the last step where they change, and how layers are compared."""
    names = [*LOSS_SETTINGS, *(name for name in WEIGHTS if name not in LOSS_SETTINGS and getattr(args, name))]
    names += [loss.option for name, loss in LAYER_LOSSES.items() if args.uses(name)]
    at_end = {f"{name} at the end": value for name, value in (args.linear_to or {}).items()}
    settings = {name: getattr(args, name) for name in names} | at_end
    return {name: value for name, value in settings.items() if value is not None}


def _training_settings(args: DistillationTrainingArguments) -> dict[str, float]:
    """Returns what is needed beside the loss to train alike; the batch is that of an optimizer step."""
    length = {"max_steps": args.max_steps} if args.max_steps > 0 else {"num_train_epochs": args.num_train_epochs}
    return {"learning_rate": args.learning_rate, **length, "batch_size": args.examples_a_step}


def method_of(training_args: DistillationTrainingArguments, with_lora: bool) -> str:
    """Returns how a student is trained: `distill`, or `finetune` with the labels alone; `lora_distill` or `lora`."""
    if with_lora:
        return "lora_distill" if training_args.needs_teacher else "lora"
    return "distill" if training_args.needs_teacher else "finetune"
