"""A training with a model class, a data set class and a weighted loss of one's own, changed to distil.

    make quickstart    # leaves a teacher in outputs/toxic_comments-odd/teacher
    python -m examples.own_model_class outputs/toxic_comments-odd/teacher outputs/own_model_class

The changed lines end in `# distil`. The student is no `PreTrainedModel`: two layers of the encoder under a mean over
the tokens, with a loss that weighs the rare class more. The loss stays as it is; the teacher's is added to it.
"""

import csv
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from distill_trainer import DistillationTrainer, DistillationTrainingArguments  # distil


class MeanPooledClassifier(nn.Module):
    """The first layers of an encoder, the mean over the tokens, and a linear head."""

    def __init__(self, checkpoint: str, num_layers: int, class_weights: list[float]):
        super().__init__()
        self.encoder = AutoModel.from_pretrained(
            checkpoint, num_hidden_layers=num_layers, add_pooling_layer=False, dtype=torch.float32
        )
        self.head = nn.Linear(self.encoder.config.hidden_size, len(class_weights))
        self.register_buffer("class_weights", torch.tensor(class_weights))

    def forward(self, input_ids, attention_mask=None, labels=None):
        states = self.encoder(input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1)
        logits = self.head((states * mask).sum(1) / mask.sum(1))
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits, labels, weight=self.class_weights)
        return {"loss": loss, "logits": logits}


class Comments(Dataset):
    """Reads a csv file; the texts are tokenized when they are fetched."""

    def __init__(self, file: str | Path, tokenizer, names: list[str]):
        with open(file, encoding="utf-8", newline="") as stream:
            self.rows = list(csv.DictReader(stream))
        self.tokenizer, self.names = tokenizer, names

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        row = self.rows[index]
        tokens = self.tokenizer(row["text"], truncation=True, max_length=128)
        return {**tokens, "labels": self.names.index(row["label"])}


def main(checkpoint: str, output_dir: str, data="data/toxic_comments", **arguments):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    teacher = AutoModelForSequenceClassification.from_pretrained(checkpoint)  # distil
    names = list(teacher.config.label2id)
    model = MeanPooledClassifier(checkpoint, num_layers=2, class_weights=[1.0, 2.0])
    trainer = DistillationTrainer(  # distil
        model=model,
        teacher_model=teacher,  # distil
        args=DistillationTrainingArguments(output_dir=output_dir, **arguments),  # distil
        train_dataset=Comments(f"{data}/train.csv", tokenizer, names),
        eval_dataset=Comments(f"{data}/validation.csv", tokenizer, names),
        processing_class=tokenizer,
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
    )
    trainer.train()
    trainer.save_model()
    print(trainer.evaluate())
    return trainer


if __name__ == "__main__":
    main(*sys.argv[1:])
