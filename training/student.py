"""What a student starts from: chosen layers of the teacher, layers of a larger student, or a checkpoint of its own.

    check_student(start, student_args, training_args, inputs)    # before anything is written
    student, origin = start_student(run, student_args)

With `--stages 5,4,3` the students of 5 and 4 layers are trained first, each from the one before, as complete runs in
OUTPUT_DIR/stages/5 and OUTPUT_DIR/stages/4. When the command is started again, a finished stage is used as it is, and
an interrupted stage continues from its last checkpoint.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedModel, set_seed

from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.encoder_layers import num_layers
from layer_distillation.engines import release_engine
from layer_distillation.fingerprints import fingerprint_model
from layer_distillation.pretrained import hub_name, resolve_checkpoint
from layer_distillation.processes import on_main_process
from layer_distillation.record import Origin, RunRecord, StudentRecord
from layer_mapping import build_random_student, build_student, describe_mapping, parse_layers, select_layers
from text_data.labels import LabelMap
from training.arguments import StudentArguments
from training.checkpoints import load_classifier, load_for_labels
from training.inputs import Inputs
from training.layer_search import choose_layers
from training.logit_adjustment import check_can_be_adjusted
from training.neuron_choice import choose_neurons, kept_width
from training.output_folder import earlier_records
from training.run import Run, build_trainer, open_run, train_and_finish
from training.search_plan import Layers, plan_search
from training.stored_or_live import check_losses
from training.tables import format_layers
from training.teacher import TeacherStart

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """What a student's layers are copied from: the teacher, or the student of the stage before.

    Attributes:
        layers: teacher layers (1-based) that the source's layers were copied from, straight or through stages.
        stages: the students of the stages so far, the deepest first.
    """

    model: PreTrainedModel
    layers: Layers
    stages: tuple[StudentRecord, ...] = ()


def load_pretrained(student_args: StudentArguments, labels: LabelMap, seed: int) -> PreTrainedModel | None:
    """Returns the checkpoint that is to be the student, `None` for a student that is built from the teacher.

    Raises:
        UserError: it cannot be read.
    """
    if student_args.student_name_or_path is None:
        return None
    student, _ = load_for_labels(resolve_checkpoint(student_args.student_name_or_path), labels, seed)
    return student


def check_student(
    start: TeacherStart,
    student_args: StudentArguments,
    training_args: DistillationTrainingArguments,
    inputs: Inputs,
    pretrained: PreTrainedModel | None = None,
) -> None:
    """Raises a `UserError` for a student that could not be built, chosen or compared with its teacher.

    Args:
        start: of the architecture that the teacher will have; its weights do not matter.
        pretrained: as `load_pretrained` returns it.
    """
    if pretrained is not None:
        check_losses(inputs.read_by(pretrained), (), start, inputs, training_args)
        if student_args.logit_adjustment:
            check_can_be_adjusted(pretrained, inputs, training_args)
        return
    if student_args.logit_adjustment:
        check_can_be_adjusted(start.model, inputs, training_args)
    source, layers = inputs.read_by(start.model), range(1, num_layers(start.model) + 1)
    for stage_args in student_args.per_stage(num_layers(start.model)):
        if stage_args.needs_evidence and stage_args.layer_strategy == "search":
            plan_search(source, stage_args, training_args, len(inputs.tokenized["train"]))
        source, kept = stand_in(source, stage_args)
        layers = [layers[layer - 1] for layer in kept]
        check_losses(source, layers, start, inputs, training_args)


def starting_weights(start: TeacherStart, pretrained: PreTrainedModel | None) -> dict[str, str]:
    """Returns fingerprints of the checkpoints that a run starts from, before any training."""
    students = {} if pretrained is None else {"student": fingerprint_model(pretrained)}
    return {"teacher": start.fingerprint} | students


def stand_in(teacher: PreTrainedModel, student_args: StudentArguments) -> tuple[PreTrainedModel, tuple[int, ...]]:
    """Returns a student as `student_from_arguments`; where evidence chooses its parts, one of the same size."""
    if student_args.needs_evidence:
        student_args = replace(student_args, layer_strategy="top")
    neurons = ()
    if student_args.is_narrow:
        neurons = [range(kept_width(teacher, student_args))] * num_layers(teacher)
    return student_from_arguments(teacher, student_args, neurons)


def student_from_arguments(
    teacher: PreTrainedModel, student_args: StudentArguments, neurons: Sequence[Sequence[int]] = ()
) -> tuple[PreTrainedModel, tuple[int, ...]]:
    """Builds the student that the arguments ask for.

    Args:
        neurons: as for `build_student`.

    Returns:
        The student and the 1-based teacher layers it was copied from, `()` for the strategy `random`.

    Raises:
        UserError: the arguments do not fit this teacher (see `select_layers` and `build_student`).
    """
    if student_args.layers is not None:
        layers = parse_layers(student_args.layers)
    else:
        layers = select_layers(student_args.layer_strategy, num_layers(teacher), student_args.num_student_layers)
        if not layers:
            return build_random_student(teacher, student_args.num_student_layers), layers
    return build_student(teacher, layers, neurons), layers


def start_student(run: Run, student_args: StudentArguments) -> tuple[PreTrainedModel, Origin]:
    """Makes the student that the arguments ask for, without adapters; the stages before it are trained here.

    Raises:
        UserError: as `check_student`.
    """
    teacher = run.teacher.load(run.args.device)
    if student_args.student_name_or_path is not None:
        student, origin = start_pretrained(student_args.student_name_or_path, run)
    else:
        source = Source(run.inputs.read_by(teacher), tuple(range(1, num_layers(teacher) + 1)))
        *before, last = student_args.per_stage(num_layers(teacher))
        for stage_args in before:
            source = _finish_stage(source, stage_args, student_args.strategy_name, run)
        student, origin = _copy_layers(source, last, student_args.strategy_name, run)
        logger.info(describe_mapping(origin.layers, num_layers(teacher)))
    logger.info(f"Parameters: teacher {teacher.num_parameters():,}, student {student.num_parameters():,}")
    return student, origin


def _copy_layers(
    source: Source, student_args: StudentArguments, strategy_name: str, run: Run
) -> tuple[PreTrainedModel, Origin]:
    """Returns a student of layers of the source.

    Args:
        strategy_name: for the record; stages list the layers that the strategy of the last one asks for.
    """
    evidence, neurons = None, ()
    if student_args.is_narrow:
        neurons, evidence = choose_neurons(source.model, student_args, run)
    if student_args.needs_evidence:
        chosen, evidence = choose_layers(source.model, student_args, run)
        student_args = replace(student_args, layers=format_layers(chosen))
    set_seed(run.args.seed)
    student, layers = student_from_arguments(source.model, student_args, neurons)
    return student, Origin(
        layer_strategy=strategy_name,
        layers=tuple(source.layers[layer - 1] for layer in layers),
        neurons=neurons,
        vocabulary=run.inputs.vocabulary_summary,
        layer_choice=evidence,
        layers_of_stage_before=layers if source.stages else (),
        stages=source.stages,
    )


# ---- Stages ----


def _finish_stage(source: Source, stage_args: StudentArguments, strategy_name: str, run: Run) -> Source:
    """Trains the student of a stage in a folder of its own, if it is not trained yet, as source of the next stage."""
    depth = stage_args.num_student_layers
    args = run.args.derived(
        output_dir=str(Path(run.args.output_dir) / "stages" / str(depth)), resume_from_checkpoint=None
    )
    record = replace(run.record, name=f"{run.record.name}/stages/{depth}", built_from=fingerprint_model(source.model))
    finished = _finished_stage(record, args, run.overwrite)
    if finished is None:
        logger.info(f"Stage of {depth} layers, in {args.output_dir}:")
        stage = replace(
            run, args=args, record=record, checkpoint=open_run(record, run.inputs, args, run.overwrite), lora_args=None
        )
        student, origin = _copy_layers(source, stage_args, strategy_name, stage)
        trainer = build_trainer(student, run.inputs, args, run.teacher, origin.layers)
        finished = train_and_finish(stage, trainer, origin)
        trainer.accelerator.wait_for_everyone()
        release_engine()
    else:
        logger.info(f"The stage of {depth} layers is finished and read from {args.output_dir}.")
    # As others will load it: engines cast, shard or wrap the model that they train.
    model, _ = load_classifier(args.output_dir, run.inputs.data.labels)
    stage_student = replace(finished.student, stages=())
    return Source(model.to(args.device), stage_student.layers, (*source.stages, stage_student))


def _finished_stage(record: RunRecord, args: DistillationTrainingArguments, overwrite: bool) -> RunRecord | None:
    """Returns the record of the stage if an earlier run has finished it from the same weights."""
    finished, unfinished = on_main_process(lambda: earlier_records(args.output_dir, record, overwrite))
    is_this = finished is not None and unfinished is None and finished.built_from == record.built_from
    return finished if is_this else None


# ---- Pretrained students ----


def start_pretrained(name: str, run: Run) -> tuple[PreTrainedModel, Origin]:
    """Returns the checkpoint that is to be the student, with a head for the labels of the data.

    Raises:
        UserError: it cannot be read, or its vocabulary cannot be trimmed.
    """
    student, _ = load_for_labels(resolve_checkpoint(name), run.inputs.data.labels, run.args.seed)
    logger.info(f"The student starts from the weights of {name}, not from layers of the teacher")
    return run.inputs.read_by(student), Origin(
        layer_strategy="pretrained",
        layers=(),
        pretrained={"name": name, "hub_name": hub_name(name)},
        vocabulary=run.inputs.vocabulary_summary,
    )
