"""The trainer beyond classes of texts: a tagger that restores punctuation, distilled into half its depth.

    python examples/token_classification.py

The task needs no labels but the texts themselves, here those of the sample data set: lower-cased and without
punctuation, which mark follows each word? A label stands on the first token of a word, -100 on all others. Teacher,
student and a student that learns from the labels alone are trained by `DistillationTrainer` and scored on the test
split: the F1 of "none" is left out of the mean. Takes about three minutes on two processor cores.
"""

import re
from pathlib import Path

import numpy as np
from datasets import Dataset
from sklearn.metrics import f1_score
from transformers import AutoModelForTokenClassification, AutoTokenizer, DataCollatorForTokenClassification, set_seed

from distill_trainer import DistillationTrainer, DistillationTrainingArguments
from layer_distillation.encoder_layers import num_layers
from layer_distillation.pretrained import PACKAGED_TEACHER, resolve_checkpoint
from layer_mapping import build_student, select_layers
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
    train(teacher, splits, tokenizer, kl_weight=0.0, num_train_epochs=5)
    layers = select_layers("even", num_layers(teacher))
    rows = [{"Model": "teacher", **score(teacher, splits, tokenizer)}]
    for name, weights in {
        "student, from the labels": {"kl_weight": 0.0},
        "student, distilled": {"kl_weight": 0.5, "hidden_weight": 0.5},
    }.items():
        set_seed(0)
        student = build_student(teacher, layers)
        train(student, splits, tokenizer, teacher, layers, num_train_epochs=5, **weights)
        rows.append({"Model": name, **score(student, splits, tokenizer)})
    print(markdown_table(rows))


def tag_words(file: Path, tokenizer) -> Dataset:
    """The texts as token ids, and as labels the mark that follows each word."""

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


def train(model, splits, tokenizer, teacher=None, layers=None, **settings) -> None:
    arguments = {"output_dir": str(ROOT / "outputs" / "punctuation"), "save_strategy": "no", "report_to": "none"}
    DistillationTrainer(
        model=model,
        teacher_model=teacher,
        teacher_layers=layers,
        args=DistillationTrainingArguments(**arguments, **settings),
        train_dataset=splits["train"],
        data_collator=DataCollatorForTokenClassification(tokenizer),
    ).train()


def score(model, splits, tokenizer) -> dict[str, str]:
    arguments = DistillationTrainingArguments(output_dir=str(ROOT / "outputs" / "punctuation"), report_to="none")
    collator = DataCollatorForTokenClassification(tokenizer)
    output = DistillationTrainer(model=model, args=arguments, data_collator=collator).predict(splits["test"])
    counts = output.label_ids != IGNORED
    f1 = f1_score(output.label_ids[counts], output.predictions.argmax(-1)[counts], average=None)
    return {
        "Test loss": f"{output.metrics['test_loss']:.3f}",
        "Mean F1 of the marks (%)": f"{100 * np.mean(f1[1:]):.1f}",
        **{f"F1 {mark} (%)": f"{100 * value:.1f}" for mark, value in zip(MARKS, f1, strict=True) if mark != "none"},
    }


if __name__ == "__main__":
    main()
