"""Loads an adapter again: the student rebuilt from its teacher, the adapter on it."""

from pathlib import Path

from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from layer_distillation.errors import UserError
from layer_distillation.fingerprints import fingerprint_model
from layer_distillation.pretrained import from_pretrained, resolve_checkpoint
from layer_distillation.record import RunRecord
from layer_mapping import build_student


def load_adapter(folder: str | Path, teacher_name_or_path: str | None = None) -> PeftModel:
    """Rebuilds the student of a finished run of `run_lora.py` from its teacher's layers, and adds the adapter.

    Args:
        folder: the run's `--output_dir`.
        teacher_name_or_path: folder or Hub name of the teacher; `None` for where the record says it is.

    Returns:
        The model in float32, on the CPU and in `eval()` mode; `merge_and_unload()` makes a plain classifier of it.

    Raises:
        UserError: the folder holds no finished LoRA run, the teacher is not found, or it is another teacher.
    """
    record = RunRecord.read(folder)
    if record is None or record.student is None or record.student.adapter is None:
        raise UserError(f"{folder} holds no adapter of a finished run of run_lora.py. Name the folder of such a run.")
    if teacher_name_or_path is None:
        teacher_name_or_path = _teacher_of(folder, record)
    path, revision = resolve_checkpoint(teacher_name_or_path), record.settings.get("teacher_revision")
    student_config = AutoConfig.from_pretrained(folder)
    config = from_pretrained(AutoConfig, path, revision)
    # Names of labels may be spelled otherwise in the teacher than in the data.
    for name in ("num_labels", "id2label", "label2id", "problem_type"):
        setattr(config, name, getattr(student_config, name))
    teacher = from_pretrained(AutoModelForSequenceClassification, path, revision, config=config, dtype="float32")
    fingerprint = fingerprint_model(teacher)
    if fingerprint != record.teacher.fingerprint:
        raise UserError(
            f"The adapter in {folder} was trained on layers of another teacher (fingerprint "
            f"{record.teacher.fingerprint[:12]}...) than {teacher_name_or_path} ({fingerprint[:12]}...). Pass "
            "the folder of the right one as teacher_name_or_path."
        )
    return attach_adapter(build_student(teacher, record.student.layers), folder)


def attach_adapter(student: PreTrainedModel, folder: str | Path) -> PeftModel:
    return PeftModel.from_pretrained(student, folder, torch_device=str(student.device)).eval()


def _teacher_of(folder: str | Path, record: RunRecord) -> str:
    if record.teacher_folder is None:
        return record.teacher.name
    teacher = Path(folder) / record.teacher_folder
    if not teacher.is_dir():
        raise UserError(
            f"The adapter in {folder} belongs to the teacher in {teacher}, which does not exist. Pass the folder "
            "where it is now as teacher_name_or_path."
        )
    return str(teacher)
