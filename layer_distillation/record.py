"""The record of a run, `distillation.json`: what was asked for, what the student comes from, and how it scores.

    record = RunRecord.read("outputs/toxic_comments-odd")    # None if the folder holds no finished run
    record.student.layers, record.student.results["eval_accuracy"]

A run that is not finished has a record of its own beside it, without teacher and student.
"""

import functools
import json
import platform
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from layer_distillation.atomic_files import to_json, write_json
from layer_distillation.errors import UserError

RECORD_FILE = "distillation.json"
UNFINISHED_RECORD_FILE = "distillation.unfinished.json"
LIBRARIES = (
    "torch",
    "transformers",
    "datasets",
    "evaluate",
    "peft",
    "accelerate",
    "scikit-learn",
    "deepspeed",
    "onnx",
    "onnxruntime",
)


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """The data of a run.

    Attributes:
        source: for example "nyu-mll/glue mnli".
        labels: names in the order of their ids.
        fingerprints: of every tokenized split with its labels.
        split_seed: seed of the validation split, `None` if the data came with one.
    """

    source: str
    labels: tuple[str, ...]
    fingerprints: Mapping[str, str]
    split_seed: int | None


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """A scored model.

    Attributes:
        megabytes: size of the weights when saved, 10^6 bytes.
        latency_ms: median milliseconds of a forward pass on one example.
        results: metrics by name: `eval_...` on validation splits, `predict_...` on test splits, `train_...`.
    """

    num_layers: int
    parameters: int
    megabytes: float
    latency_ms: float
    results: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class TeacherRecord(ModelRecord):
    """The teacher of a run.

    Attributes:
        name: Hub name or folder, as it was given.
        hub_name: `None` for a local folder.
        fingerprint: SHA-256 of its weights.
        layers: 1 to its depth.
    """

    name: str
    hub_name: str | None
    fingerprint: str
    layers: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a student's first weights come from.

    Attributes:
        layer_strategy: what chose the layers, "explicit" where they were listed, "pretrained" for a checkpoint.
        layers: the teacher's, 1-based, in student order; empty for a random or a pretrained student.
        neurons: for each layer, 0-based numbers of the inner neurons that are kept; empty where all are.
        pretrained: `name` and `hub_name` of a student that starts from a checkpoint.
        vocabulary: `summary` of `text_data.trimming.TrimmedVocabulary`, `None` where all pieces are kept.
        layer_choice: what the choice rests on, for strategies by evidence.
        layers_of_stage_before: of the student of the stage before, 1-based.
        stages: the students on the way, the deepest first.
    """

    layer_strategy: str
    layers: tuple[int, ...]
    neurons: tuple[tuple[int, ...], ...] = ()
    pretrained: Mapping[str, str | None] | None = None
    vocabulary: Mapping | None = None
    layer_choice: Mapping | None = None
    layers_of_stage_before: tuple[int, ...] = ()
    stages: "tuple[StudentRecord, ...]" = ()


@dataclass(frozen=True, kw_only=True)
class StudentRecord(Origin, ModelRecord):
    """The student of a run.

    Attributes:
        adapter: settings, parameters and size of the adapter of a LoRA run.
    """

    trainable_parameters: int
    adapter: Mapping | None = None


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run.

    Attributes:
        name: of its folder, or of its repository on the Hub.
        command: as it could be typed again.
        settings: arguments that were given, and the number of processes.
        seed: of the student's training.
        libraries: versions.
        circumstances: what else the run depends on: fingerprints of the teacher, before any training, and of a
            pretrained student, and what settings came to that may not be given. Not in records of earlier versions.
        teacher_folder: LoRA runs only: path from the run's folder to that of the model which the adapter belongs on,
            the teacher or the checkpoint that the student started from; `None` for one on the Hub.
        built_from: fingerprint of the model that a stage's student was built from, or that a pretrained student with
            an adapter started from.
        method: "distill", "finetune" (the labels alone), "lora" or "lora_distill".
        loss: weights and temperature.
        training: what else is needed to train alike.
    """

    name: str
    command: str
    settings: Mapping
    data: DataRecord
    seed: int
    libraries: Mapping[str, str]
    circumstances: Mapping | None = None
    teacher_folder: str | None = None
    built_from: str | None = None
    method: str | None = None
    loss: Mapping[str, float | str] | None = None
    training: Mapping[str, float] | None = None
    teacher: TeacherRecord | None = None
    student: StudentRecord | None = None

    @classmethod
    def read(cls, folder: str | Path, file: str = RECORD_FILE) -> "RunRecord | None":
        """Returns the record in a folder, `None` if there is none.

        Entries that this version does not know are left out.

        Raises:
            UserError: the record lacks an entry that every record of this version has.
        """
        path = Path(folder) / file
        try:
            text = path.read_text()
        except (FileNotFoundError, NotADirectoryError):  # another process may remove it at any time
            return None
        try:
            return _from_json(cls, json.loads(text))
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read ({error}): it is damaged or was written by another version. Choose another "
                "folder, or remove this one."
            ) from error

    def write(self, folder: str | Path, file: str = RECORD_FILE) -> None:
        """Writes the record, in one step."""
        write_json(Path(folder) / file, _plain(self))

    @property
    def request(self) -> dict:
        """What decides the result of the run: `settings`, `data` and `circumstances`, as they are in the file."""
        parts = {"settings": self.settings, "data": _plain(self.data), "circumstances": self.circumstances}
        return json.loads(to_json({part: value for part, value in parts.items() if value is not None}))

    def differences(self, earlier: "RunRecord", without_effect: Collection[str] = ()) -> dict[str, list[str]]:
        """Returns in what the request differs from an earlier one: for each part of it, what changed and how.

        Args:
            without_effect: settings that are not compared. Nor are those whose outcome is in both circumstances.
        """
        changed, request_there = {}, earlier.request
        not_compared = {("settings", name) for name in (*without_effect, *(earlier.circumstances or ()))}
        for part, now in self.request.items():
            there = request_there.get(part, now)
            names = sorted(name for name in now.keys() | there.keys() if now.get(name) != there.get(name))
            if found := [
                f"{name} ({there.get(name, 'not given')} there, {now.get(name, 'not given')} here)"
                for name in names
                if (part, name) not in not_compared
            ]:
                changed[part] = found
        return changed

    @property
    def evaluated_on(self) -> tuple[str, str]:
        """Prefix of the metrics to report and name of their split: test if its labels are known, else validation."""
        has_test = "predict_loss" in self.student.results
        return ("predict", "Test") if has_test else ("eval", "Validation")


# What the entries of the record hold that are classes of their own.
_NESTED = {"data": DataRecord, "teacher": TeacherRecord, "student": StudentRecord}


def _from_json(cls: type, values: Mapping):
    known = {item.name for item in fields(cls)}
    values = {name: value for name, value in values.items() if name in known}
    for name, value in values.items():
        if name in _NESTED and value is not None:
            values[name] = _from_json(_NESTED[name], value)
        elif name == "stages":
            values[name] = tuple(_from_json(StudentRecord, stage) for stage in value)
        elif isinstance(value, list):
            values[name] = tuple(tuple(item) if isinstance(item, list) else item for item in value)
    return cls(**values)


def _plain(value):
    """Dictionaries in place of classes; entries that may be left out and are at their default are left out."""
    if is_dataclass(value):
        entries = {item.name: (getattr(value, item.name), item.default) for item in fields(value)}
        return {
            name: _plain(entry) for name, (entry, default) in entries.items() if default is MISSING or entry != default
        }
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


@functools.cache
def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that the results depend on."""
    installed = {}
    for library in LIBRARIES:
        try:
            installed[library] = version(library)
        except PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **installed}
