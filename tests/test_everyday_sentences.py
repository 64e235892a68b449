"""Tests of the sixty sentences that the served classifier is judged by, and of the classifier that is served."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

from app.models import load_model
from tests.comments import read_rows, words

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data" / "toxic_comments"
KINDS = {
    "toxic": {"insult", "hostility", "negation", "quotation", "identity", "politeness", "sarcasm"},
    "not_toxic": {"friendly", "negation", "quotation", "friendly profanity", "identity", "politeness", "sarcasm"},
}


@pytest.fixture(scope="module")
def sentences():
    return read_rows(ROOT / "tests" / "everyday_sentences.csv")


def test_there_are_thirty_of_each_label_and_every_kind_occurs(sentences):
    assert Counter(row["label"] for row in sentences) == {"toxic": 30, "not_toxic": 30}
    for label, kinds in KINDS.items():
        assert {row["kind"] for row in sentences if row["label"] == label} == kinds


def test_no_sentence_is_in_the_sample_data_or_nearly_so(sentences):
    files = [DATA / f"{split}.csv" for split in ("train", "validation", "test")]
    comments = [words(row["text"]) for file in files for row in read_rows(file)]
    for row in sentences:
        sentence = words(row["text"])
        shared = max(len(sentence & comment) / len(sentence | comment) for comment in comments)
        assert shared < 0.75, row["text"]


@pytest.mark.slow
def test_the_quickstarts_student_gets_at_least_85_percent_right_in_int8(sentences, tmp_path):
    for script, arguments in (
        ("run_distillation.py", ["defaults/run_distillation.json", f"--output_dir={tmp_path}"]),
        ("run_export.py", [f"--model_name_or_path={tmp_path}"]),
    ):
        subprocess.run([sys.executable, script, *arguments], cwd=ROOT, check=True)
    answers = load_model(tmp_path).classify([row["text"] for row in sentences])
    right = sum(answer.label == row["label"] for answer, row in zip(answers, sentences, strict=True))
    assert right >= 0.85 * len(sentences)
