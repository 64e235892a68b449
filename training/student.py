"""What a student starts from: chosen layers of the teacher, layers of a larger student, or a checkpoint of its own.

    check_student(teacher_model, student_args, teacher_args, training_args, inputs)  # before anything is written
    student, origin = start_student(teacher, student_args, training_args, inputs, record)

With `--stages 5,4,3` the students of 5 and 4 layers are trained first, each from the one before, as complete runs in
OUTPUT_DIR/stages/5 and OUTPUT_DIR/stages/4. Started again, a finished stage is used as it is, and one that was
interrupted goes on from its last checkpoint.
"""

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import PreTrainedModel, set_seed

from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.encoder_layers import num_layers
from layer_distillation.engines import release_engine, renew_engine_config
from layer_distillation.errors import UserError
from layer_distillation.fingerprints import fingerprint_model
from layer_distillation.pretrained import hub_name, resolve_checkpoint
from layer_mapping import build_random_student, build_student, describe_mapping, parse_layers, select_layers
from training.arguments import StudentArguments, TeacherArguments
from training.checkpoints import load_classifier, load_for_labels, load_tokenizer
from training.inputs import Inputs
from training.layer_search import choose_layers
from training.output_folder import earlier_records
from training.run import build_trainer, check_losses, open_run, train_and_finish
from training.search_plan import Layers, plan_search
from training.tables import format_layers
from training.teacher import Teacher

logger = logging.getLogger(__name__)

Prepare = Callable[[PreTrainedModel], PreTrainedModel]


@dataclass(frozen=True)
class Source:
    """What a student's layers are copied from: the teacher, or the student of the stage before.

    Attributes:
        layers: teacher layers (1-based) that its own were copied from, straight or through stages.
        strategy: what chooses the student's, as records name it.
        stages: what the records of the stages so far say about their students.
    """

    model: PreTrainedModel
    layers: Layers
    strategy: str
    stages: tuple[dict, ...] = ()


def check_student(
    teacher: PreTrainedModel,
    student_args: StudentArguments,
    teacher_args: TeacherArguments,
    training_args: DistillationTrainingArguments,
    inputs: Inputs,
) -> None:
    """Raises a `UserError` for a student that could not be built, chosen or compared with its teacher.

    Args:
        teacher: of the architecture that the teacher will have; its weights do not matter.
    """
    if student_args.student_name_or_path is not None:
        student = _load_pretrained(student_args.student_name_or_path, training_args, inputs)
        check_losses(student, teacher, teacher_args, training_args, inputs)
        return
    source = teacher
    for stage_args in student_args.per_stage(num_layers(teacher)):
        if stage_args.needs_evidence and stage_args.layer_strategy == "search":
            plan_search(source, stage_args, training_args, len(inputs.tokenized["train"]))
        source = stand_in(source, stage_args)
        check_losses(source, teacher, teacher_args, training_args, inputs)


def stand_in(teacher: PreTrainedModel, student_args: StudentArguments) -> PreTrainedModel:
    """A student as the arguments ask for; where evidence chooses its layers, one of the same size."""
    if student_args.needs_evidence:
        student_args = replace(student_args, layer_strategy="top")
    student, _ = student_from_arguments(teacher, student_args)
    return student


def student_from_arguments(
    teacher: PreTrainedModel, student_args: StudentArguments
) -> tuple[PreTrainedModel, tuple[int, ...]]:
    """Builds the student that the arguments ask for.

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
    return build_student(teacher, layers), layers


def start_student(
    teacher: Teacher,
    student_args: StudentArguments,
    training_args: DistillationTrainingArguments,
    inputs: Inputs,
    record: dict,
    prepare: Prepare = lambda student: student,
) -> tuple[PreTrainedModel, dict]:
    """Makes the student that the arguments ask for, ready to be trained; the stages before it are trained here.

    Args:
        record: of the run, as `begin_run` returns it.
        prepare: what will be done to the student before it is trained, such as `add_lora`; for the trials of a search.

    Returns:
        The student, and what the record says about where its first weights come from: `layers` are those of the
        teacher, 1-based, none for a `pretrained` student; with the `layer_strategy`, the evidence for the
        `layer_choice` and the `stages` if there are any.

    Raises:
        UserError: as `check_student`.
    """
    teacher_model = teacher.load(training_args.device)
    if student_args.student_name_or_path is not None:
        name = student_args.student_name_or_path
        student = _load_pretrained(name, training_args, inputs)
        pretrained = {"name": name, "hub_name": hub_name(name)}
        origin = {"layer_strategy": "pretrained", "layers": (), "pretrained": pretrained}
        logger.info(f"The student starts from the weights of {name}, not from layers of the teacher")
    else:
        every_layer = tuple(range(1, num_layers(teacher_model) + 1))
        source = Source(teacher_model, every_layer, student_args.strategy_name)
        *before, last = student_args.per_stage(num_layers(teacher_model))
        for stage_args in before:
            source = _finish_stage(source, stage_args, teacher, training_args, inputs, record)
        student, origin = _copy_layers(source, last, teacher, training_args, inputs, record, prepare)
        logger.info(describe_mapping(origin["layers"], num_layers(teacher_model)))
    logger.info(f"Parameters: teacher {teacher_model.num_parameters():,}, student {student.num_parameters():,}")
    return student, origin


def _copy_layers(
    source: Source,
    student_args: StudentArguments,
    teacher: Teacher,
    training_args: DistillationTrainingArguments,
    inputs: Inputs,
    record: dict,
    prepare: Prepare,
) -> tuple[PreTrainedModel, dict]:
    """A student of layers of the source, with what `start_student` returns beside it."""
    origin = {"layer_strategy": source.strategy}
    if student_args.needs_evidence:
        chosen, origin["layer_choice"] = choose_layers(
            source.model, student_args, teacher, training_args, inputs, record, prepare
        )
        student_args = replace(student_args, layers=format_layers(chosen))
    set_seed(training_args.seed)
    student, layers = student_from_arguments(source.model, student_args)
    origin["layers"] = tuple(source.layers[layer - 1] for layer in layers)
    if source.stages:
        origin |= {"layers_of_stage_before": layers, "stages": source.stages}
    return student, origin


# ---- Stages ----


def _finish_stage(
    source: Source,
    stage_args: StudentArguments,
    teacher: Teacher,
    training_args: DistillationTrainingArguments,
    inputs: Inputs,
    record: dict,
) -> Source:
    """Trains the student of a stage in a folder of its own, if that is not done yet, for the next to be built from."""
    args = copy.copy(training_args)
    depth = stage_args.num_student_layers
    args.output_dir, args.resume_from_checkpoint = str(Path(args.output_dir) / "stages" / str(depth)), None
    renew_engine_config(args)
    record = record | {"name": f"{record['name']}/stages/{depth}", "built_from": fingerprint_model(source.model)}
    finished = _finished_record(record, args)
    if finished is None:
        logger.info(f"Stage of {depth} layers, in {args.output_dir}:")
        checkpoint = open_run(record, args)
        student, origin = _copy_layers(source, stage_args, teacher, args, inputs, record, lambda student: student)
        trainer = build_trainer(student, inputs, args, teacher, origin["layers"])
        finished, _ = train_and_finish(trainer, checkpoint, record, origin, teacher, inputs)
        trainer.accelerator.wait_for_everyone()
        release_engine()
        (finished,) = broadcast_object_list([finished])
    else:
        logger.info(f"The stage of {depth} layers is finished and read from {args.output_dir}.")
    # As others will load it: engines cast, shard or wrap the model that they train.
    model, _ = load_classifier(args.output_dir, inputs.data.labels, TeacherArguments())
    stage = {name: value for name, value in finished["student"].items() if name != "stages"}
    return Source(model.to(args.device), tuple(stage["layers"]), source.strategy, (*source.stages, stage))


def _finished_record(record: dict, args: DistillationTrainingArguments) -> dict | None:
    """The record of the stage if an earlier run has finished it from the same weights; the main process decides."""
    finished, unfinished = earlier_records(args.output_dir, record)
    is_this = finished is not None and unfinished is None and finished["built_from"] == record["built_from"]
    (finished,) = broadcast_object_list([finished if is_this else None])
    return finished


# ---- Pretrained students ----


def _load_pretrained(name: str, training_args: DistillationTrainingArguments, inputs: Inputs) -> PreTrainedModel:
    """Loads the checkpoint that is to be the student, with a head for the labels of the data.

    Raises:
        UserError: it cannot be read, has another vocabulary than the teacher, or is made for shorter texts.
    """
    path = resolve_checkpoint(name)
    tokenizer = load_tokenizer(path, TeacherArguments())
    if tokenizer.get_vocab() != inputs.tokenizer.get_vocab():
        raise UserError(
            f"The vocabulary of --student_name_or_path {name} ({len(tokenizer)} tokens) is not that of the teacher "
            f"({len(inputs.tokenizer)} tokens), but both read the same `input_ids`. Choose a student with the "
            "teacher's tokenizer."
        )
    student, _ = load_for_labels(path, inputs.data.labels, training_args.seed)
    limit = _max_length(student)
    longest = max(len(ids) for split in inputs.tokenized.values() for ids in split["input_ids"])
    if limit is not None and longest > limit:
        raise UserError(
            f"--student_name_or_path {name} reads texts of up to {limit} tokens, but the longest one here has "
            f"{longest}. Cut them with --max_seq_length {limit}, or choose another student."
        )
    return student


def _max_length(model: PreTrainedModel) -> int | None:
    """Number of tokens that the model has positions for, `None` where positions are relative and so have no end."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa and its kin count from the padding token's id on.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return None
