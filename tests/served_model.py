"""A small classifier for the app's tests that knows a little about comments: made in seconds, from the sample data."""

import csv
import json
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from export.arguments import FLOAT32_FILE, INT8_FILE
from export.float32 import export_float32
from export.int8 import quantize
from layer_distillation.pretrained import PACKAGED_TEACHER, resolve_checkpoint

ROOT = Path(__file__).resolve().parent.parent
LABELS = {0: "not_toxic", 1: "toxic"}
MAX_LENGTH = 48


def make_served_model(folder: Path) -> None:
    """Fine-tunes one layer of the packaged encoder, and writes checkpoint and export as `run_export.py` does."""
    path = resolve_checkpoint(PACKAGED_TEACHER)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.model_max_length = MAX_LENGTH
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(
            path, num_hidden_layers=1, id2label=LABELS, label2id={name: i for i, name in LABELS.items()}
        )
        _train(model, tokenizer)
    model.eval().save_pretrained(folder)
    export = folder / "export"
    (export / FLOAT32_FILE).parent.mkdir(parents=True)
    for target in (folder, export):
        tokenizer.save_pretrained(target)
        model.config.save_pretrained(target)
    export_float32(model, export / FLOAT32_FILE)
    quantize(export / FLOAT32_FILE, export / INT8_FILE)
    scores = {"megabytes": 1.0, "validation": {"accuracy": 0.8, "macro_f1": 0.79}}
    metrics = {
        "version": "1",
        "data": "data/toxic_comments",
        "text_columns": ["text"],
        "max_length": MAX_LENGTH,
        "layers": 1,
        "parameters": model.num_parameters(),
        "float32": scores,
        "int8": scores,
    }
    (export / "metrics.json").write_text(json.dumps(metrics))


def _train(model, tokenizer) -> None:
    with open(ROOT / "data" / "toxic_comments" / "train.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rows.sort(key=lambda row: len(row["text"]))  # little padding
    model.train()
    model.bert.embeddings.requires_grad_(False)
    optimizer = torch.optim.AdamW([weights for weights in model.parameters() if weights.requires_grad], lr=5e-4)
    for _ in range(3):
        starts = torch.randperm(len(rows) // 32) * 32
        for start in starts.tolist():
            batch = rows[start : start + 32]
            inputs = tokenizer([row["text"] for row in batch], padding=True, truncation=True, return_tensors="pt")
            labels = torch.tensor([model.config.label2id[row["label"]] for row in batch])
            model(**inputs, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
