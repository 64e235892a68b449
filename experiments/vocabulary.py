"""What a smaller vocabulary saves and what it changes: sizes of files, and answers to texts.

    python -m experiments.vocabulary DIR STUDENT_0 STUDENT_1 STUDENT_2

DIR holds train.csv, validation.csv and test.csv. The students, of several seeds, were trained with the whole
vocabulary. Each is trimmed to the pieces of train.csv, and to the most frequent of them, as `run_export.py
--trim_vocabulary` and `--vocabulary_size` do; a student that is trained with all pieces of its texts has the same
weights (`tests/test_trimming.py`).

A test text whose pieces are all kept has to be answered as before. Sizes are those of the first student's ONNX files.
Writes `docs/results/vocabulary.csv` and `.md`.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
from datasets import DatasetDict
from transformers import AutoConfig, DataCollatorWithPadding, PreTrainedModel

from benchmarks.results import write_results
from comparison.metrics import macro_f1
from export.float32 import export_float32
from export.int8 import quantize
from layer_distillation.model_outputs import compute_logits
from layer_distillation.word_embeddings import keep_pieces
from text_data.answers import label_array
from text_data.arguments import DataArguments
from text_data.loading import load_data
from text_data.names import join_names
from text_data.tokenizing import tokenize
from text_data.trimming import trim_vocabulary
from training.checkpoints import load_classifier, load_tokenizer
from training.tables import markdown_table

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary, and the texts as it reads them.

    Attributes:
        name: in the table.
        kept: for each id, the id of the piece in the whole vocabulary; `None` for the whole one.
        others: shares of the test split's `tokens` that are other pieces, and of its `texts` that have one.
    """

    name: str
    tokenized: DatasetDict
    collator: DataCollatorWithPadding
    kept: np.ndarray | None = None
    others: Mapping[str, float] | None = None

    def read_by(self, student: PreTrainedModel) -> PreTrainedModel:
        """Returns a student of the whole vocabulary with the pieces of this one."""
        if self.kept is None:
            return student
        return keep_pieces(student, self.kept, self.tokenized["train"], self.collator)


def main():
    args = parse_arguments()
    vocabularies, students = read(args.data, args.students, args.sizes)
    rows, table = changes_by_vocabulary(vocabularies, students)
    write_results("vocabulary", rows, markdown_table(table))


def read(
    folder: Path, students: Sequence[str], sizes: Sequence[int]
) -> tuple[list[Vocabulary], list[PreTrainedModel]]:
    """Returns the vocabularies, the whole one first, and the students."""
    names = AutoConfig.from_pretrained(students[0]).id2label.values()
    files = {f"{split}_file": str(folder / f"{split}.csv") for split in SPLITS}
    data_args = DataArguments(**files, label_order=join_names(names))
    data, tokenizer = load_data(data_args, seed=42), load_tokenizer(students[0])
    tokenized = tokenize(data, tokenizer, data_args)
    vocabularies = [Vocabulary("whole", tokenized, DataCollatorWithPadding(tokenizer))]
    for size in (None, *sizes):
        trimmed = trim_vocabulary(data, tokenized, tokenizer, size)
        vocabularies.append(
            Vocabulary(
                f"{len(trimmed.kept):,} pieces" + (" (of the training texts)" if size is None else ""),
                tokenize(data, trimmed.tokenizer, data_args),
                DataCollatorWithPadding(trimmed.tokenizer),
                trimmed.kept,
                trimmed.summary["other_pieces"]["test"],
            )
        )
    return vocabularies, [load_classifier(student, data.labels)[0] for student in students]


def changes_by_vocabulary(
    vocabularies: Sequence[Vocabulary], students: Sequence[PreTrainedModel]
) -> tuple[list[dict], list[dict]]:
    """Returns files and answers of each vocabulary: the rows of the csv file and those of the table."""
    whole = vocabularies[0]
    expected = [answers(whole, student) for student in students]
    before = file_sizes(students[0])
    rows, table = [{"variant": whole.name, **before}], [{"Vocabulary": whole.name, **in_megabytes(before)}]
    for vocabulary in vocabularies[1:]:
        found = [answers(vocabulary, student) for student in students]
        row = changes(vocabulary, whole, np.array(expected), np.array(found))
        alike = f"{row['kept_texts_answered_alike']:,} of {row['kept_texts']:,}"
        sizes = file_sizes(vocabulary.read_by(students[0]))
        rows.append({"variant": vocabulary.name, **sizes, **row})
        table.append(
            {
                "Vocabulary": vocabulary.name,
                **in_megabytes(sizes, before),
                "Test texts with other pieces (%)": f"{100 * row['other_texts']:.1f}",
                "Other pieces (% of tokens)": f"{100 * row['other_tokens']:.2f}",
                "Texts without other pieces answered as before": alike,
                "All answers changed (%)": f"{100 * row['answers_changed']:.2f}",
                "Macro-F1 (points)": f"{row['macro_f1_change']:+.2f}",
            }
        )
    rows[0] = dict.fromkeys(rows[1], "") | rows[0]
    return rows, table


def answers(vocabulary: Vocabulary, student: PreTrainedModel) -> np.ndarray:
    """Returns a student's answers to the test texts, as it reads them with the pieces of a vocabulary."""
    logits = compute_logits(vocabulary.read_by(student), vocabulary.tokenized["test"], vocabulary.collator)
    return logits.argmax(axis=1)


def changes(vocabulary: Vocabulary, whole: Vocabulary, before: np.ndarray, after: np.ndarray) -> dict[str, object]:
    """Returns what a vocabulary changes in the answers to the test texts.

    Args:
        before, after: answers of all students, `(students, texts)`.
    """
    labels, kept = label_array(whole.tokenized["test"]), set(vocabulary.kept.tolist())
    is_kept = np.array([kept.issuperset(ids) for ids in whole.tokenized["test"]["input_ids"]])
    scores = [[100 * macro_f1(labels, of_student) for of_student in of_all] for of_all in (before, after)]
    return {
        "other_tokens": round(vocabulary.others["tokens"], 5),
        "other_texts": round(vocabulary.others["texts"], 4),
        "kept_texts": len(before) * int(is_kept.sum()),
        "kept_texts_answered_alike": int((before == after)[:, is_kept].sum()),
        "answers_changed": round(float((before != after).mean()), 5),
        "macro_f1_before": " ".join(f"{score:.2f}" for score in scores[0]),
        "macro_f1_after": " ".join(f"{score:.2f}" for score in scores[1]),
        "macro_f1_change": round(mean(scores[1]) - mean(scores[0]), 3),
    }


def file_sizes(model: PreTrainedModel) -> dict[str, float]:
    """Returns the sizes of the model's ONNX files in MB, by precision."""
    with tempfile.TemporaryDirectory() as folder:
        float32, int8 = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        export_float32(model, float32)
        quantize(float32, int8)
        return {file.stem: round(file.stat().st_size / 1e6, 2) for file in (float32, int8)}


def in_megabytes(sizes: Mapping[str, float], before: Mapping[str, float] | None = None) -> dict[str, str]:
    """Returns the cells of a table for the sizes of files, with their share of the sizes before."""
    shares = {name: f" ({size / before[name]:.2f})" if before else "" for name, size in sizes.items()}
    return {f"{name} file (MB)": f"{size:.1f}{shares[name]}" for name, size in sizes.items()}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train.csv, validation.csv and test.csv")
    parser.add_argument("students", nargs="+", help="folders of students with the whole vocabulary, one a seed")
    parser.add_argument("--sizes", nargs="*", type=int, default=[8000, 4000], help="default: 8000 4000")
    return parser.parse_args()


if __name__ == "__main__":
    main()
