"""Token classification with `DistillationTrainer`: a tagger that restores punctuation, distilled to half its depth.

    python -m examples.token_classification

The labels come from the texts of the sample data set: which mark follows each word, after lower-casing the text and
removing its punctuation. The first token of a word has the label; all other tokens have -100 and do not count. The
script trains a teacher, a student from the labels alone and a distilled student, and scores them on the test split.
The mean F1 leaves out the class "none". Takes about three minutes on two processor cores.
"""

import re
from pathlib import Path

import numpy as np
from datasets import Dataset
from sklearn.metrics import f1_score
from transformers import AutoModelForTokenClassification, AutoTokenizer, DataCollatorForTokenClassification, set_seed

from distill_trainer import DistillationTrainer, DistillationTrainingArguments
from layer_distillation.pretrained import PACKAGED_TEACHER, resolve_checkpoint
from layer_mapping import build_student, num_layers, select_layers
from training.tables import markdown_table

ROOT = Path(__file__).resolve().parent.parent

MARKS = ("none", "comma", "end of sentence")
MARK_OF = {",": 1, ".": 2, "?": 2, "!": 2}
IGNORED = -100


def main():
    encoder = resolve_checkpoint(PACKAGED_TEACHER)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    splits = {name: tag_words(ROOT / "data/toxic_comments" / f"{name}.csv", tokenizer) for name in ("train", "test")}

    set_seed(0)
    teacher = AutoModelForTokenClassification.from_pretrained(
        encoder, dtype="float32", id2label=dict(enumerate(MARKS))
    )
    settings = {"kl_weight": 0.0, "num_train_epochs": 5}
    build_trainer(teacher, tokenizer, settings, train_dataset=splits["train"]).train()
    layers = select_layers("even", num_layers(teacher))
    rows = [{"Model": "teacher", **score(teacher, tokenizer, splits["test"])}]
    for name, weights in {
        "student, from the labels": {"kl_weight": 0.0},
        "student, distilled": {"kl_weight": 0.5, "hidden_weight": 0.5},
    }.items():
        set_seed(0)
        student = build_student(teacher, layers)
        build_trainer(
            student,
            tokenizer,
            settings | weights,
            train_dataset=splits["train"],
            teacher_model=teacher,
            teacher_layers=layers,
        ).train()
        rows.append({"Model": name, **score(student, tokenizer, splits["test"])})
    print(markdown_table(rows))


def tag_words(file: Path, tokenizer) -> Dataset:
    """Returns the texts as token ids, with the mark after each word as label."""

    def tag(row: dict) -> dict:
        pairs = re.findall(r"([\w']+)([,.?!]?)", row["text"].lower())
        tokens = tokenizer([word for word, _ in pairs], is_split_into_words=True, truncation=True)
        labels, previous = [], None
        for word in tokens.word_ids():
            is_first = word is not None and word != previous
            labels.append(MARK_OF.get(pairs[word][1], 0) if is_first else IGNORED)
            previous = word
        return {**tokens, "labels": labels}

    return Dataset.from_csv(str(file)).map(tag, remove_columns=["text", "label"])


def build_trainer(model, tokenizer, settings, **parts) -> DistillationTrainer:
    """Returns a trainer; `settings` are training arguments, `parts` further arguments of the trainer."""
    return DistillationTrainer(
        model=model,
        args=DistillationTrainingArguments(
            output_dir=str(ROOT / "outputs" / "punctuation"), save_strategy="no", report_to="none", **settings
        ),
        data_collator=DataCollatorForTokenClassification(tokenizer),
        **parts,
    )


def score(model, tokenizer, split: Dataset) -> dict[str, str]:
    """Returns a row of the table."""
    output = build_trainer(model, tokenizer, {}).predict(split)
    counts = output.label_ids != IGNORED
    f1 = f1_score(output.label_ids[counts], output.predictions.argmax(-1)[counts], average=None)
    return {
        "Test loss": f"{output.metrics['test_loss']:.3f}",
        "Mean F1 of the marks (%)": f"{100 * np.mean(f1[1:]):.1f}",
        **{f"F1 {mark} (%)": f"{100 * value:.1f}" for mark, value in zip(MARKS, f1, strict=True) if mark != "none"},
    }


if __name__ == "__main__":
    main()
