"""The arguments of an export, and the names of its files."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from export.int8 import WEIGHT_TYPES, this_processor
from layer_distillation.atomic_files import LOCK_FILE, check_writable
from layer_distillation.errors import UserError
from layer_distillation.pretrained import ADAPTER_FILE

# The folder and the names by which transformers.js and optimum find a graph. transformers.js takes the second one in
# browsers.
FLOAT32_FILE = "onnx/model.onnx"
INT8_FILE = "onnx/model_quantized.onnx"
METRICS_FILE = "metrics.json"
# Where an export is made until it is finished.
UNFINISHED_FOLDER = "unfinished_export"


@dataclass
class ExportArguments:
    """What to export, and where to."""

    model_name_or_path: str = field(
        default="outputs/toxic_comments-odd",
        metadata={"help": "Local folder or Hub name of a fine-tuned classifier, with its tokenizer."},
    )
    output_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of the export: a new one, an empty one, or one with an earlier export. Unset: the folder "
            "`export` in the model's folder, or outputs/NAME/export for a model from the Hub."
        },
    )
    overwrite_output_dir: bool = field(
        default=False,
        metadata={
            "help": "Replace a finished export in --output_dir, when the new one is finished. Off: it is an error."
        },
    )
    trust_remote_code: bool = field(
        default=False,
        metadata={"help": "Run Python code that comes with a checkpoint. Off: a checkpoint that needs it is refused."},
    )
    int8_processor: str | None = field(
        default=None,
        metadata={
            "help": "Kind of processor that will run the int8 model: 'vnni' (x86 with VNNI instructions), 'arm', "
            "or 'avx2' (x86 without them; correct on any processor). Unset: the kind of this machine.",
            "choices": list(WEIGHT_TYPES),
        },
    )

    model_version: str | None = field(
        default=None,
        metadata={"help": "Version of the model, which every answer of the app names. Unset: today's date."},
    )

    def __post_init__(self):
        if self.model_version is None:
            self.model_version = datetime.now(UTC).date().isoformat()
        if self.int8_processor is None:
            self.int8_processor = this_processor()
        if self.int8_processor not in WEIGHT_TYPES:
            raise UserError(
                f"--int8_processor must be one of {', '.join(WEIGHT_TYPES)}, found {self.int8_processor!r}. Leave it "
                "out for the processor that runs the export."
            )
        if (Path(self.model_name_or_path) / ADAPTER_FILE).is_file():
            raise UserError(
                f"--model_name_or_path must be a whole model, but {self.model_name_or_path} holds a LoRA adapter. "
                "Train it with --merge_adapter, and name the folder `merged` that this writes."
            )
        if self.output_dir is None:
            model = Path(self.model_name_or_path)
            # A local folder with a Hub model's name would be taken for the model in the next run.
            self.output_dir = str((model if model.is_dir() else Path("outputs") / model.name) / "export")
        self.check_output_dir()

    def check_output_dir(self) -> None:
        """Raises a `UserError` if the folder is a file, is read-only, or holds what may not be replaced."""
        folder = Path(self.output_dir)
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--output_dir must be a folder, but {folder} is a file. Choose a folder.")
        check_writable("output_dir", folder)
        if (folder / METRICS_FILE).is_file() and not self.overwrite_output_dir:
            raise UserError(
                f"--output_dir {folder} holds a finished export. Choose another folder, or replace it with "
                "--overwrite_output_dir."
            )
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        is_ours = UNFINISHED_FOLDER in names or (folder / FLOAT32_FILE).is_file()
        if names - {LOCK_FILE} and not is_ours:
            raise UserError(
                f"--output_dir must be new, empty or an earlier export, but {folder} holds other files and no "
                f"{FLOAT32_FILE}. Nothing in it was changed. Choose another folder, or empty this one."
            )
