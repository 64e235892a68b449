"""A fine-tuning script in the style of `run_classification.py`, changed to distil in the lines marked `# distil`.

    make quickstart    # leaves a teacher in outputs/toxic_comments-odd/teacher
    python -m examples.classification_script --model_name_or_path outputs/toxic_comments-odd/teacher \\
        --train_file data/toxic_comments/train.csv --validation_file data/toxic_comments/validation.csv \\
        --output_dir outputs/classification_script --do_train --do_eval

Without the changes, the script fine-tunes the checkpoint itself, on csv files with the columns `text` and `label`.
"""

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datasets import load_dataset
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    HfArgumentParser,
    default_data_collator,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from distill_trainer import DistillationTrainer, DistillationTrainingArguments  # distil
from layer_mapping import build_student, num_layers, select_layers  # distil

logger = logging.getLogger(__name__)


@dataclass
class DataTrainingArguments:
    train_file: str = field(metadata={"help": "Csv file with the columns text and label."})
    validation_file: str = field(metadata={"help": "As the training file."})
    max_seq_length: int = field(default=128, metadata={"help": "Longer texts are cut."})
    pad_to_max_length: bool = field(default=False, metadata={"help": "Pad all texts to max_seq_length."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Use only so many training texts."})


@dataclass
class ModelArguments:
    model_name_or_path: str = field(metadata={"help": "Folder or Hub name."})


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = HfArgumentParser((ModelArguments, DataTrainingArguments, DistillationTrainingArguments))  # distil
    model_args, data_args, training_args = parser.parse_args_into_dataclasses(argv)
    logging.basicConfig(level=logging.INFO, handlers=[logging.StreamHandler(sys.stdout)])
    set_seed(training_args.seed)

    last_checkpoint = None
    if Path(training_args.output_dir).is_dir() and training_args.do_train:
        last_checkpoint = get_last_checkpoint(training_args.output_dir)

    raw_datasets = load_dataset(
        "csv", data_files={"train": data_args.train_file, "validation": data_args.validation_file}
    )
    label_list = sorted(raw_datasets["train"].unique("label"))
    label_to_id = {label: index for index, label in enumerate(label_list)}

    config = AutoConfig.from_pretrained(
        model_args.model_name_or_path,
        num_labels=len(label_list),
        id2label=dict(enumerate(label_list)),
        label2id=label_to_id,
    )
    tokenizer = AutoTokenizer.from_pretrained(model_args.model_name_or_path)
    teacher = AutoModelForSequenceClassification.from_pretrained(
        model_args.model_name_or_path, config=config
    )  # distil
    model = build_student(teacher, select_layers("even", num_layers(teacher)))  # distil

    def preprocess(examples):
        padding = "max_length" if data_args.pad_to_max_length else False
        result = tokenizer(examples["text"], padding=padding, max_length=data_args.max_seq_length, truncation=True)
        result["labels"] = [label_to_id[label] for label in examples["label"]]
        return result

    with training_args.main_process_first(desc="tokenization"):
        tokenized = raw_datasets.map(preprocess, batched=True, remove_columns=["text", "label"])
    train_dataset = tokenized["train"]
    if data_args.max_train_samples is not None:
        train_dataset = train_dataset.select(range(min(len(train_dataset), data_args.max_train_samples)))

    def compute_metrics(prediction: EvalPrediction):
        logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
        return {"accuracy": float((np.argmax(logits, axis=1) == prediction.label_ids).mean())}

    trainer = DistillationTrainer(  # distil
        model=model,
        teacher_model=teacher,  # distil
        args=training_args,
        train_dataset=train_dataset if training_args.do_train else None,
        eval_dataset=tokenized["validation"] if training_args.do_eval else None,
        compute_metrics=compute_metrics,
        processing_class=tokenizer,
        data_collator=default_data_collator if data_args.pad_to_max_length else DataCollatorWithPadding(tokenizer),
    )

    metrics = {}
    if training_args.do_train:
        train_result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint or last_checkpoint)
        metrics |= train_result.metrics | {"train_samples": len(train_dataset)}
        trainer.save_model()
        trainer.log_metrics("train", train_result.metrics)
        trainer.save_metrics("train", train_result.metrics)
        trainer.save_state()
    if training_args.do_eval:
        evaluation = trainer.evaluate()
        metrics |= evaluation
        trainer.log_metrics("eval", evaluation)
        trainer.save_metrics("eval", evaluation)
    return metrics


if __name__ == "__main__":
    main()
