"""Export a classifier to ONNX in float32 and int8, and check that both still answer as PyTorch does.

The student that `run_distillation.py` makes when it is called without arguments:

    python run_export.py

Any other checkpoint: a student, a teacher, merged LoRA weights. The data to check it on are those of its run, which
the folder or the one above it has on record; for other models name them:

    python run_export.py --model_name_or_path outputs/sst2
    python run_export.py --model_name_or_path my-finetuned-bert --train_file train.csv --validation_file dev.csv

`--output_dir` (by default the folder `onnx` in the model's) then holds `model.onnx`, `model_int8.onnx`, tokenizer,
config and, only if both files passed, `metrics.json`. `python -m app --model_dir` serves it.
"""

import json
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
from transformers import DataCollatorWithPadding, EvalPrediction

from export.float32 import export_float32
from export.int8 import WEIGHT_TYPES, quantize_accurately, this_processor
from export.parity import BATCH_SIZE, INT8_BATCH_SIZE, compute_onnx_logits
from layer_distillation.errors import UserError
from layer_distillation.model_outputs import compute_logits
from layer_distillation.pretrained import resolve_checkpoint
from layer_distillation.record import RunRecord, library_versions
from text_data.arguments import DataArguments
from text_data.loading import load_data
from text_data.metrics import build_compute_metrics
from text_data.tokenizing import tokenize
from training.checkpoints import load_classifier, load_tokenizer
from training.command_line import parse_arguments, run_script

logger = logging.getLogger(__name__)

DEFAULT_ARGUMENTS = Path(__file__).parent / "defaults" / "run_export.json"
FLOAT32_FILE, INT8_FILE, METRICS_FILE = "model.onnx", "model_int8.onnx", "metrics.json"
MAX_LOGIT_DIFFERENCE = 1e-4
MIN_INT8_SHARE = 0.99
SAMPLE_SIZE = 64
DEFAULT_SPLIT_SEED = 42  # as that of `TrainingArguments`


@dataclass
class ExportArguments:
    """What to export, and where to."""

    model_name_or_path: str = field(
        default="outputs/toxic_comments-even",
        metadata={"help": "Local folder or Hub name of a fine-tuned classifier, with its tokenizer."},
    )
    output_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of the exported model: new, empty or of an earlier export. Unset: `onnx` in the model's "
            "folder, or outputs/NAME/onnx for one from the Hub."
        },
    )

    int8_processor: str | None = field(
        default=None,
        metadata={
            "help": "Processor that will run the int8 model: 'vnni' (x86 with VNNI), 'arm', or 'avx2' (x86 without "
            "VNNI, where signed weights would saturate). Unset: the kind that the export runs on.",
            "choices": list(WEIGHT_TYPES),
        },
    )

    def __post_init__(self):
        if self.int8_processor is None:
            self.int8_processor = this_processor()
        if self.int8_processor not in WEIGHT_TYPES:
            raise UserError(
                f"--int8_processor must be one of {', '.join(WEIGHT_TYPES)}, found {self.int8_processor!r}. Leave it "
                "out for the processor that the export runs on."
            )
        if (Path(self.model_name_or_path) / "adapter_config.json").is_file():
            raise UserError(
                f"--model_name_or_path must be a whole model, but {self.model_name_or_path} holds a LoRA adapter. "
                "Merge it first, with `--merge_adapter` when it is trained, and name the folder `merged`."
            )
        if self.output_dir is None:
            model = Path(self.model_name_or_path)
            # A folder of the Hub's name would be taken for the model from then on.
            self.output_dir = str((model if model.is_dir() else Path("outputs") / model.name) / "onnx")
        folder = Path(self.output_dir)
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--output_dir {folder} is a file. Choose a folder.")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / FLOAT32_FILE).is_file():
            raise UserError(
                f"--output_dir {folder} is not empty and not an export (it has no {FLOAT32_FILE}). Nothing in it was "
                "touched: choose another folder, or empty this one."
            )


def main(argv: Sequence[str] | None = None) -> dict:
    settings = parse_arguments((ExportArguments, DataArguments), argv, DEFAULT_ARGUMENTS)
    export_args, data_args = settings.arguments
    set_up_logging()
    path = resolve_checkpoint(export_args.model_name_or_path)
    tokenizer = load_tokenizer(path)
    record = find_record(export_args.model_name_or_path)
    data_args = resolve_data(data_args, settings.sources, record)
    logger.info(
        replace(settings, arguments=(export_args, data_args)).explanation(("model_name_or_path", "output_dir"))
    )

    # Model and data
    split_seed = None if record is None else record.data.split_seed
    data = load_data(data_args, DEFAULT_SPLIT_SEED if split_seed is None else split_seed)
    tokenized = tokenize(data, tokenizer, data_args)
    collator = DataCollatorWithPadding(tokenizer)
    model, is_trained = load_classifier(path, data.labels)
    if not is_trained:
        raise UserError(f"The head of {path} is not trained: its answers would be guesses. Fine-tune it first.")
    validation = tokenized[data.validation_splits[0]]
    expected = compute_logits(model, validation, collator, BATCH_SIZE)

    # What goes with the weights. The metrics come last: they say that an export is good.
    folder = Path(export_args.output_dir)
    float32_file, int8_file, metrics_file = (folder / file for file in (FLOAT32_FILE, INT8_FILE, METRICS_FILE))
    folder.mkdir(parents=True, exist_ok=True)
    metrics_file.unlink(missing_ok=True)
    tokenizer.model_max_length = min(data_args.max_seq_length, tokenizer.model_max_length)
    tokenizer.save_pretrained(folder)
    model.config.save_pretrained(folder)

    compute_metrics = build_compute_metrics(data.labels, data_args.task_name)

    def metrics(file: Path, split: str) -> dict[str, float]:
        batch_size = INT8_BATCH_SIZE if file == int8_file else BATCH_SIZE
        logits = compute_onnx_logits(file, tokenized[split], collator, batch_size)
        return compute_metrics(EvalPrediction(logits, np.array(tokenized[split]["labels"])))

    # float32
    export_float32(model, float32_file)
    difference = np.abs(compute_onnx_logits(float32_file, validation, collator) - expected).max().item()
    logger.info(f"float32: logits within {difference:.1e} of PyTorch's on {len(validation)} validation examples")
    if not difference <= MAX_LOGIT_DIFFERENCE:
        raise UserError(
            f"The float32 export must answer as PyTorch does, within {MAX_LOGIT_DIFFERENCE:g}, but its logits on the "
            f"validation split are off by up to {difference:g}. It is left in {folder}, without {METRICS_FILE}."
        )

    # int8
    required, found = metrics(float32_file, data.validation_splits[0]), []
    metric = "pearson" if data.labels.problem_type == "regression" else "accuracy"
    if metric not in required:
        raise UserError(
            f"int8 is compared with float32 by the {metric} correlation on the validation split, which has none: all "
            f"its {len(validation)} scores, or all predictions for them, are the same. Give a split that differs."
        )

    def is_accurate() -> bool:
        # A graph that answers the same to everything has no correlation.
        found.append(metrics(int8_file, data.validation_splits[0]).get(metric, -math.inf))
        logger.info(f"int8: validation {metric} {found[-1]:.4f}, float32 {required[metric]:.4f}")
        return found[-1] >= MIN_INT8_SHARE * required[metric]

    sample = validation.select(range(min(SAMPLE_SIZE, len(validation))))
    processor = export_args.int8_processor
    in_float32 = quantize_accurately(float32_file, int8_file, sample, collator, is_accurate, processor)
    if in_float32 is None:
        raise UserError(
            f"int8 must keep {MIN_INT8_SHARE:.0%} of the validation {metric} {required[metric]:.4f}, but has "
            f"{found[0]:.4f}, and {found[-1]:.4f} with the worst half of the operators in float32. {float32_file} is "
            f"good, but {METRICS_FILE} is not written. The int8 model is for --int8_processor {processor} and was "
            f"checked on {this_processor()}."
        )

    # Report
    splits = [split for split in (*data.validation_splits, *data.test_splits) if "labels" in tokenized[split].features]
    report = {
        "command": settings.command,
        "data": data.source,
        "text_columns": data.text_columns,
        "problem_type": data.labels.problem_type,
        "labels": data.labels.names,
        "max_length": tokenizer.model_max_length,
        "layers": model.config.num_hidden_layers,
        "parameters": model.num_parameters(),
        "max_logit_difference": difference,
        "in_float32": in_float32,
        "int8_processor": processor,
        "int8_checked_on": this_processor(),
        "libraries": library_versions(),
    }
    for kind, file in (("float32", float32_file), ("int8", int8_file)):
        report[kind] = {"megabytes": file.stat().st_size / 1e6, **{split: metrics(file, split) for split in splits}}
    metrics_file.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{folder}: {summary(report)}")
    return report


def set_up_logging() -> None:
    """Information from the project's own modules; exporter and quantiser describe every operator at that level."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr, level=logging.ERROR)
    for name in (__name__, "export", "layer_distillation", "text_data", "training"):
        logging.getLogger(name).setLevel(logging.INFO)


def find_record(model_name_or_path: str) -> RunRecord | None:
    """The record of the run that has made the model: in its folder, or for the teacher or the merged LoRA weights of a
    run in the folder above; empty if there is none."""
    folder = Path(model_name_or_path).resolve()
    return RunRecord.read(folder) or RunRecord.read(folder.parent)


def resolve_data(data_args: DataArguments, sources: Mapping[str, str], record: RunRecord | None) -> DataArguments:
    """The data that were named, otherwise those of the record; what is given beside them (a length, say) is kept.

    Raises:
        UserError: there is neither.
    """
    if data_args.is_given:
        return data_args
    if record is None:
        raise UserError(
            "An export is checked on data with the labels of the model, but none are named and no record of a run "
            "lies beside the model. Name them: --validation_file and --train_file, --task_name or --dataset_name."
        )
    names = {field.name for field in fields(DataArguments)}
    settings = dict(record.settings) | {name: getattr(data_args, name) for name in sources if name in names}
    return DataArguments(**{name: value for name, value in settings.items() if name in names})


def summary(report: dict) -> str:
    """The sizes and the scores on the validation split in a line."""
    parts = []
    for kind in ("float32", "int8"):
        scores = next(value for value in report[kind].values() if isinstance(value, dict))
        metric = "pearson" if report["problem_type"] == "regression" else "accuracy"
        parts.append(f"{kind} {report[kind]['megabytes']:.1f} MB, validation {metric} {scores[metric]:.4f}")
    return "; ".join(parts)


if __name__ == "__main__":
    run_script(main)
