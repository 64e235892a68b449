"""Loads a trained adapter: rebuilds the student from its teacher and puts the adapter on it.

from lora_adapters.loading import load_adapter

model = load_adapter("outputs/my-run")
classifier = model.merge_and_unload()
"""

import json
from pathlib import Path

from peft import LoraConfig, PeftModel
from peft.utils import CONFIG_NAME
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from layer_distillation.errors import UserError
from layer_distillation.fingerprints import fingerprint_model
from layer_distillation.pretrained import from_pretrained, resolve_checkpoint
from layer_distillation.record import RunRecord
from layer_mapping import build_student

# An entry of the adapter's config that explains itself where PEFT warns about it.
ONLY_HERE = (
    "this adapter belongs on some layers of its teacher, where lora_adapters.loading.load_adapter puts it; on any "
    "other model its answers are wrong; run_lora.py --merge_adapter writes a checkpoint that needs neither"
)


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
    # With the student's own config: what a student computes may depend on more than the teacher's weights.
    student = type(teacher)(student_config)
    student.load_state_dict(build_student(teacher, record.student.layers, record.student.neurons).state_dict())
    return attach_adapter(student, folder)


def attach_adapter(student: PreTrainedModel, folder: str | Path) -> PeftModel:
    """Puts the adapter in a folder on the student that it was trained on; the model is in `eval()` mode."""
    settings = json.loads((Path(folder) / CONFIG_NAME).read_text())
    settings.pop(ONLY_HERE, None)
    config = LoraConfig.from_peft_type(**settings)
    return PeftModel.from_pretrained(student, folder, config=config, torch_device=str(student.device)).eval()


def mark_adapter(folder: str | Path) -> None:
    """Has PEFT warn everyone who puts the adapter on a model by `PeftModel.from_pretrained`.

    PEFT compares no weights, so on the teacher the adapter would silently sit on the wrong layers. PEFT lists entries
    of an adapter's config that it does not know, and ignores them.
    """
    file = Path(folder) / CONFIG_NAME
    file.write_text(json.dumps(json.loads(file.read_text()) | {ONLY_HERE: True}, indent=2, sort_keys=True))


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
