"""Loads a trained adapter: rebuilds the student from its teacher and puts the adapter on it.

from lora_adapters.loading import load_adapter

model = load_adapter("outputs/my-run")
classifier = model.merge_and_unload()
"""

import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from peft.utils import CONFIG_NAME
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel

from layer_distillation.errors import UserError
from layer_distillation.fingerprints import fingerprint_model
from layer_distillation.pretrained import from_pretrained, resolve_checkpoint
from layer_distillation.record import RunRecord
from layer_distillation.whole_weights import whole_weights
from layer_mapping import build_student

# An entry of the adapter's config that explains itself where PEFT warns about it.
ONLY_HERE = (
    "this adapter belongs on the student that lora_adapters.loading.load_adapter rebuilds; on any other model its "
    "answers are wrong; run_lora.py --merge_adapter writes a checkpoint that needs neither"
)


def load_adapter(folder: str | Path, teacher_name_or_path: str | None = None) -> PeftModel:
    """Rebuilds the student of a finished `run_lora.py` from layers of its teacher, and puts the adapter on it.

    The method `lora_full` of a comparison has no layers of the teacher: its student is a pretrained checkpoint.

    Args:
        folder: the `--output_dir` of the run.
        teacher_name_or_path: the teacher, or that checkpoint. `None`: where the run found it, relative to `folder` if
            it was a folder.

    Returns:
        The model in float32, on the CPU and in `eval()` mode. `merge_and_unload()` makes a plain classifier of it.

    Raises:
        UserError: the folder holds no finished LoRA run, or the teacher or checkpoint is missing or has other weights.
    """
    record = RunRecord.read(folder)
    if record is None or record.student is None or record.student.adapter is None:
        raise UserError(f"{folder} holds no finished run of run_lora.py. Pass the --output_dir of such a run.")
    if teacher_name_or_path is None:
        teacher_name_or_path = _teacher_of(folder, record)
    student_config = AutoConfig.from_pretrained(folder)
    if record.student.pretrained is not None:
        student = _load_pretrained(teacher_name_or_path, student_config, record.seed)
        _check_weights(student, record.built_from, folder, teacher_name_or_path)
        return attach_adapter(student, folder)
    teacher = _load_teacher(teacher_name_or_path, student_config, record.settings.get("teacher_revision"))
    _check_weights(teacher, record.teacher.fingerprint, folder, teacher_name_or_path)
    # With the student's own config: what a student computes may depend on more than the teacher's weights.
    with whole_weights():
        student = type(teacher)(student_config)
    student.load_state_dict(build_student(teacher, record.student.layers, record.student.neurons).state_dict())
    return attach_adapter(student, folder)


def _load_teacher(name: str, student_config: PretrainedConfig, revision: str | None) -> PreTrainedModel:
    path = resolve_checkpoint(name)
    config = from_pretrained(AutoConfig, path, revision)
    # The teacher may spell the names of the labels differently from the data.
    for entry in ("num_labels", "id2label", "label2id", "problem_type"):
        setattr(config, entry, getattr(student_config, entry))
    return from_pretrained(AutoModelForSequenceClassification, path, revision, config=config, dtype="float32")


def _load_pretrained(name: str, student_config: PretrainedConfig, seed: int) -> PreTrainedModel:
    """Loads the checkpoint that a student started from; the weights that it lacks are drawn as in the run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return from_pretrained(
            AutoModelForSequenceClassification,
            resolve_checkpoint(name),
            None,
            config=student_config,
            dtype="float32",
            ignore_mismatched_sizes=True,
        )


def _check_weights(model: PreTrainedModel, expected: str, folder: str | Path, name: str) -> None:
    fingerprint = fingerprint_model(model)
    if fingerprint != expected:
        raise UserError(
            f"The adapter in {folder} was trained on layers of another model (fingerprint {expected[:12]}...) than "
            f"{name} ({fingerprint[:12]}...). Pass the right one as `teacher_name_or_path`."
        )


def attach_adapter(student: PreTrainedModel, folder: str | Path) -> PeftModel:
    """Puts the adapter in a folder on the student that it was trained on; the model is in `eval()` mode."""
    settings = json.loads((Path(folder) / CONFIG_NAME).read_text())
    # Earlier versions explained it in other words.
    known = {name: value for name, value in settings.items() if "lora_adapters" not in name}
    config = LoraConfig.from_peft_type(**known)
    return PeftModel.from_pretrained(student, folder, config=config, torch_device=str(student.device)).eval()


def mark_adapter(folder: str | Path) -> None:
    """Has PEFT warn everyone who puts the adapter on a model by `PeftModel.from_pretrained`.

    PEFT compares no weights, so on the teacher the adapter would silently sit on the wrong layers. PEFT lists entries
    of an adapter's config that it does not know, and ignores them.
    """
    file = Path(folder) / CONFIG_NAME
    file.write_text(json.dumps(json.loads(file.read_text()) | {ONLY_HERE: True}, indent=2, sort_keys=True))


def _teacher_of(folder: str | Path, record: RunRecord) -> str:
    """Returns the folder or the name of the model that the adapter of a run belongs on."""
    if record.teacher_folder is None:
        return record.student.pretrained["name"] if record.student.pretrained else record.teacher.name
    teacher = Path(folder) / record.teacher_folder
    if not teacher.is_dir():
        raise UserError(
            f"The adapter in {folder} belongs on the model in {teacher}, which does not exist. Pass the folder that "
            "holds this model now as `teacher_name_or_path`."
        )
    return str(teacher)
