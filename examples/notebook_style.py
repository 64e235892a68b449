"""The cells of a notebook, as many tutorials have them: metrics, early stopping, the best checkpoint at the end.

    make quickstart    # leaves a teacher in outputs/toxic_comments-odd/teacher
    python -m examples.notebook_style outputs/toxic_comments-odd/teacher outputs/notebook_style

Changed to distil in the lines marked `# distil`. Without the changes, the cells fine-tune the checkpoint itself.
"""

import sys

from datasets import load_dataset
from sklearn.metrics import accuracy_score, f1_score
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
)

from distill_trainer import DistillationTrainer, DistillationTrainingArguments  # distil
from layer_mapping import build_student, num_layers, select_layers  # distil


# %% Metrics
def compute_metrics(eval_pred):
    logits, labels = eval_pred
    predictions = logits.argmax(axis=-1)
    return {"accuracy": accuracy_score(labels, predictions), "f1": f1_score(labels, predictions, average="macro")}


def main(checkpoint, output_dir, data="data/toxic_comments", **arguments):
    # %% Data
    files = {split: f"{data}/{split}.csv" for split in ("train", "validation", "test")}
    dataset = load_dataset("csv", data_files=files).class_encode_column("label")
    names = dataset["train"].features["label"].names
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenized = dataset.map(lambda rows: tokenizer(rows["text"], truncation=True, max_length=128), batched=True)

    # %% Model
    teacher = AutoModelForSequenceClassification.from_pretrained(  # distil
        checkpoint, id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)}
    )
    model = build_student(teacher, select_layers("odd", num_layers(teacher)))  # distil

    # %% Training
    args = DistillationTrainingArguments(  # distil
        output_dir=output_dir,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="f1",
        greater_is_better=True,
        **{"num_train_epochs": 10, "per_device_train_batch_size": 16, "learning_rate": 1e-4, **arguments},
    )
    trainer = DistillationTrainer(  # distil
        model,
        args,
        DataCollatorWithPadding(tokenizer),
        tokenized["train"],
        tokenized["validation"],
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
        teacher_model=teacher,  # distil
    )
    trainer.train()

    # %% Test
    predictions = trainer.predict(tokenized["test"])
    print(trainer.state.best_model_checkpoint, predictions.metrics)
    return trainer, predictions


if __name__ == "__main__":
    main(*sys.argv[1:])
