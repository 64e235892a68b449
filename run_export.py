"""Exports a classifier to ONNX in float32 and int8, and checks that both files answer as PyTorch does.

The student that `run_distillation.py` makes when it is called without arguments:

    python run_export.py

Any other checkpoint: a student, a teacher, merged LoRA weights. The check uses the data of the run that made the
model, which the run's record names. For a model without a record, name the data:

    python run_export.py --model_name_or_path outputs/sst2
    python run_export.py --model_name_or_path my-finetuned-bert --train_file train.csv --validation_file dev.csv

`--output_dir` (by default the folder `export` in the model's folder) then holds `onnx/model.onnx`,
`onnx/model_quantized.onnx`, the tokenizer, the config, `thresholds.json` and `metrics.json`, which
`python -m app --model_dir` serves. A file that fails its check is left in `unfinished_export` there.
"""

if __name__ == "__main__":
    from training.processor import share_processor

    share_processor()  # before torch is imported

import logging
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from export.arguments import METRICS_FILE, UNFINISHED_FOLDER, ExportArguments
from export.checked_export import export_checked
from export.float32 import check_size
from export.parity import BATCH_SIZE, CheckData, deciding_metric
from layer_distillation.atomic_files import move_files, write_json
from layer_distillation.errors import UserError
from layer_distillation.model_outputs import compute_logits, with_own_modules
from layer_distillation.pretrained import allow_remote_code, resolve_checkpoint
from layer_distillation.problem_types import REGRESSION
from layer_distillation.record import RunRecord, library_versions
from layer_distillation.student_config import encoder_config
from layer_distillation.word_embeddings import keep_pieces
from text_data.arguments import DataArguments
from text_data.labels import LabelMap
from text_data.loading import load_data
from text_data.metrics import build_compute_metrics
from text_data.thresholds import DEFAULT_THRESHOLD, THRESHOLDS_FILE, ThresholdRule, choose_thresholds, read_thresholds
from text_data.tokenizing import prepare_for_saving, tokenize
from text_data.trimming import trim_vocabulary
from training.arguments import VocabularyArguments
from training.checkpoints import load_classifier, load_tokenizer
from training.command_line import parse_arguments, run_script
from training.output_folder import claimed_folder
from training.processor import describe_threads

logger = logging.getLogger(__name__)

DEFAULT_ARGUMENTS = Path(__file__).parent / "defaults" / "run_export.json"
DEFAULT_SPLIT_SEED = 42  # the default of --seed
# What the app reads beside a model, if its folder has it: the names of its labels in the form of the Perspective API,
# and how it judges texts that mention identities.
FILES_FOR_THE_APP = ("attributes.json", "identity_bias.json")
# What an export says about its model; the metrics vouch for its files.
SAID_OF_A_MODEL = (METRICS_FILE, THRESHOLDS_FILE, *FILES_FOR_THE_APP)


def main(argv: Sequence[str] | None = None) -> dict:
    """Runs the script with these words of a command line, `None` for those of the process.

    Returns:
        What `metrics.json` holds.
    """
    settings = parse_arguments((ExportArguments, VocabularyArguments, DataArguments), argv, DEFAULT_ARGUMENTS)
    export_args, vocabulary_args, data_args = settings.arguments
    allow_remote_code(export_args.trust_remote_code)
    set_up_logging()

    # Data and model; without data arguments the record of the model's run names the data
    path = resolve_checkpoint(export_args.model_name_or_path)
    tokenizer = load_tokenizer(path)
    if not tokenizer.is_fast:
        logger.warning(
            f"The tokenizer {type(tokenizer).__name__} is written in Python alone and has no tokenizer.json: Python "
            "programs can use the export with it, the app and other runtimes cannot."
        )
    record = find_record(export_args.model_name_or_path)
    data_args = resolve_data(data_args, settings.sources, record)
    settings = replace(settings, arguments=(export_args, vocabulary_args, data_args))
    logger.info(settings.explanation(("model_name_or_path", "output_dir")))
    data = load_data(data_args, split_seed(record))
    tokenized = tokenize(data, tokenizer, data_args)
    prepare_for_saving(tokenizer, data_args.max_seq_length)
    model, vocabulary = load_trained_classifier(path, data.labels), {}
    if vocabulary_args.trim_vocabulary:
        trimmed = trim_vocabulary(data, tokenized, tokenizer, vocabulary_args.vocabulary_size)
        tokenizer, vocabulary = trimmed.tokenizer, {"vocabulary": trimmed.summary}
        tokenized = tokenize(data, tokenizer, data_args)
        prepare_for_saving(tokenizer, data_args.max_seq_length)
        model = keep_pieces(model, trimmed.kept, tokenized["train"], DataCollatorWithPadding(tokenizer))
    check_size(model)
    splits = [split for split in (*data.validation_splits, *data.test_splits) if "labels" in tokenized[split].features]
    check_data = CheckData(
        splits={split: tokenized[split] for split in splits},
        collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=build_compute_metrics(data.labels, data_args.task_name),
        problem_type=data.labels.problem_type,
        names=data.labels.names,
        max_length=tokenizer.model_max_length,
    )
    chosen = find_thresholds(path, settings.sources, data.labels.names)
    # A copy, because BigBird turns to another attention for good when it has read short texts.
    chosen = chosen or measure_thresholds(with_own_modules(model), check_data, data_args.threshold_rule)
    if chosen:
        thresholds = dict.fromkeys(check_data.names, DEFAULT_THRESHOLD) | chosen["thresholds"]
        check_data = replace(check_data, thresholds=thresholds)

    # Export and report
    output_dir = Path(export_args.output_dir)
    with claimed_folder(output_dir):
        export_args.check_output_dir()  # another export may have ended in it since
        folder = open_folder(output_dir, model, tokenizer)
        if chosen:
            write_json(folder / THRESHOLDS_FILE, chosen)
        for name in FILES_FOR_THE_APP:
            if (Path(path) / name).is_file():
                shutil.copy(Path(path) / name, folder)
        measured = export_checked(model, folder, check_data, export_args.int8_processor)
        report = {
            "version": export_args.model_version,
            "command": settings.command,
            "data": data.source,
            "languages": list(data_args.language_codes),
            "text_columns": list(data.text_columns),
            "problem_type": data.labels.problem_type,
            "labels": list(data.labels.names),
            "max_length": tokenizer.model_max_length,
            "layers": encoder_config(model.config).num_hidden_layers,
            "parameters": model.num_parameters(),
            **vocabulary,
            "libraries": library_versions(),
            **measured,
        }
        write_json(folder / METRICS_FILE, report)
        move_export(folder, output_dir)
    print(f"{output_dir}: {summary(report)}")
    return report


def set_up_logging() -> None:
    """Shows information from this project's modules only; exporter and quantizer would report every operator."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr, level=logging.ERROR)
    for name in (__name__, "export", "layer_distillation", "text_data", "training"):
        logging.getLogger(name).setLevel(logging.INFO)
    logger.info(describe_threads())


def find_record(model_name_or_path: str) -> RunRecord | None:
    """Returns the record of the run that made the model, `None` if there is none.

    The record lies in the model's folder, or one folder above: a run keeps its teacher and merged LoRA weights in
    subfolders.
    """
    folder = Path(model_name_or_path).resolve()
    return RunRecord.read(folder) or RunRecord.read(folder.parent)


def resolve_data(data_args: DataArguments, sources: Mapping[str, str], record: RunRecord | None) -> DataArguments:
    """Returns the data arguments as given if they name data, otherwise those of the record.

    Arguments that were given without naming data, such as `--max_seq_length`, override the record's.

    Raises:
        UserError: no data are named, and there is no record.
    """
    if data_args.is_given:
        return data_args
    if record is None:
        raise UserError(
            "An export is checked on data with the labels of the model, but no data are named, and the model's folder "
            "has no record of a run. Give --train_file and --validation_file, --task_name or --dataset_name."
        )
    names = {field.name for field in fields(DataArguments)}
    settings = dict(record.settings) | {name: getattr(data_args, name) for name in sources if name in names}
    return DataArguments(**{name: value for name, value in settings.items() if name in names})


def split_seed(record: RunRecord | None) -> int:
    """Returns the seed with which the run split off its validation split; the default if none is recorded."""
    if record is None or record.data.split_seed is None:
        return DEFAULT_SPLIT_SEED
    return record.data.split_seed


def load_trained_classifier(path: str, labels: LabelMap) -> PreTrainedModel:
    """Loads the checkpoint in float32.

    Raises:
        UserError: its head is not trained, or trained for other labels.
    """
    model, is_trained = load_classifier(path, labels)
    if not is_trained:
        raise UserError(
            f"--model_name_or_path must be a fine-tuned classifier, but the head of {path} is not trained. Its "
            "answers would be guesses. Fine-tune it first."
        )
    return model


def find_thresholds(path: str, sources: Mapping[str, str], names: Sequence[str]) -> dict | None:
    """Returns the thresholds that the model's folder has, perhaps changed by hand.

    `None` if there are none, or if `--threshold_rule` asks for others.
    """
    file = Path(path) / THRESHOLDS_FILE
    return None if "threshold_rule" in sources or not file.is_file() else read_thresholds(file, names)


def measure_thresholds(model: PreTrainedModel, data: CheckData, rule: str) -> dict | None:
    """Returns thresholds that are chosen on the validation split, `None` for a regression."""
    if data.problem_type == REGRESSION:
        return None
    logits = compute_logits(model, data.validation, data.collator, BATCH_SIZE)
    labels = data.labels(data.validation_split)
    chosen = choose_thresholds(logits, labels, data.names, data.problem_type, ThresholdRule.parse(rule))
    return {"split": data.validation_split, **chosen}


def open_folder(output_dir: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Path:
    """Makes a folder in the output folder for a new export, with config and tokenizer, and returns it.

    An earlier export stays as it is until the new one is finished.
    """
    folder = output_dir / UNFINISHED_FOLDER
    if folder.exists():  # of an export that was interrupted or has failed
        shutil.rmtree(folder)
    folder.mkdir()
    tokenizer.save_pretrained(folder)
    model.config.save_pretrained(folder)
    return folder


def move_export(folder: Path, output_dir: Path) -> None:
    """Moves a finished export from its working folder to its place. What an earlier one says about its model goes."""
    for name in SAID_OF_A_MODEL:
        (output_dir / name).unlink(missing_ok=True)
    move_files(folder, output_dir, last=METRICS_FILE)
    shutil.rmtree(folder)


def summary(report: dict) -> str:
    """Returns one line with the sizes and the scores on the validation split."""
    metric = deciding_metric(report["problem_type"])
    parts = []
    for kind in ("float32", "int8"):
        validation = next(value for value in report[kind].values() if isinstance(value, dict))
        parts.append(f"{kind} {report[kind]['megabytes']:.1f} MB, validation {metric} {validation[metric]:.4f}")
    return "; ".join(parts)


if __name__ == "__main__":
    run_script(main)
