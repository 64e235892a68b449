"""Loads a trained adapter: rebuilds the student from its teacher and puts the adapter on it.

from lora_adapters.loading import load_adapter

model = load_adapter("outputs/my-run")
classifier = model.merge_and_unload()
"""

from pathlib import Path

from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from layer_distillation.errors import UserError
from layer_distillation.fingerprints import fingerprint_model
from layer_distillation.pretrained import from_pretrained, resolve_checkpoint
from layer_distillation.record import RunRecord
from layer_mapping import build_student


def load_adapter(folder: str | Path, teacher_name_or_path: str | None = None) -> PeftModel:
    """Rebuilds the student of a finished `run_lora.py` from layers of its teacher, and puts the adapter on it.

    Args:
        folder: the `--output_dir` of the run.
        teacher_name_or_path: the teacher. `None`: where the run found it, relative to `folder` if it was a folder.

    Returns:
        The model in float32, on the CPU and in `eval()` mode. `merge_and_unload()` makes a plain classifier of it.

    Raises:
        UserError: the folder holds no finished LoRA run, or its teacher is missing or has other weights.
    """
    record = RunRecord.read(folder)
    if record is None or record.student is None or record.student.adapter is None:
        raise UserError(f"{folder} holds no finished run of run_lora.py. Pass the --output_dir of such a run.")
    if teacher_name_or_path is None:
        teacher_name_or_path = _teacher_of(folder, record)
    path, revision = resolve_checkpoint(teacher_name_or_path), record.settings.get("teacher_revision")
    student_config = AutoConfig.from_pretrained(folder)
    config = from_pretrained(AutoConfig, path, revision)
    # The teacher may spell the names of the labels differently from the data.
    for name in ("num_labels", "id2label", "label2id", "problem_type"):
        setattr(config, name, getattr(student_config, name))
    teacher = from_pretrained(AutoModelForSequenceClassification, path, revision, config=config, dtype="float32")
    fingerprint = fingerprint_model(teacher)
    if fingerprint != record.teacher.fingerprint:
        raise UserError(
            f"The adapter in {folder} was trained on layers of another teacher (fingerprint "
            f"{record.teacher.fingerprint[:12]}...) than {teacher_name_or_path} ({fingerprint[:12]}...). Pass "
            "the right teacher as `teacher_name_or_path`."
        )
    return attach_adapter(build_student(teacher, record.student.layers, record.student.neurons), folder)


def attach_adapter(student: PreTrainedModel, folder: str | Path) -> PeftModel:
    """Puts the adapter in a folder on the student that it was trained on; the model is in `eval()` mode."""
    return PeftModel.from_pretrained(student, folder, torch_device=str(student.device)).eval()


def _teacher_of(folder: str | Path, record: RunRecord) -> str:
    """Returns the folder or the name of the teacher of a run."""
    if record.teacher_folder is None:
        return record.teacher.name
    teacher = Path(folder) / record.teacher_folder
    if not teacher.is_dir():
        raise UserError(
            f"The adapter in {folder} belongs to the teacher in {teacher}, which does not exist. Pass the folder that "
            "holds the teacher now as `teacher_name_or_path`."
        )
    return str(teacher)
