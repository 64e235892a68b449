"""Tests of the sentences that the served classifier is judged by, and of the classifier that is served."""

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
TESTS = ROOT / "tests"
# Written before any look at the comments that the models were trained on.
FILES = {"everyday_sentences": 30, "fresh_sentences": 60}
EVERYDAY = {
    "toxic": {"insult", "hostility", "negation", "quotation", "identity", "politeness", "sarcasm"},
    "not_toxic": {"friendly", "negation", "quotation", "friendly profanity", "identity", "politeness", "sarcasm"},
}
KINDS = {
    "everyday_sentences": EVERYDAY,
    "fresh_sentences": {
        "toxic": EVERYDAY["toxic"] | {"threat"},
        "not_toxic": EVERYDAY["not_toxic"] - {"friendly"} | {"everyday", "criticism"},
    },
}


@pytest.fixture(scope="module", params=FILES)
def file(request):
    """A name in `FILES`, and the rows of the file."""
    return request.param, read_rows(TESTS / f"{request.param}.csv")


def test_there_are_as_many_of_each_label_and_every_kind_occurs(file):
    name, sentences = file
    assert Counter(row["label"] for row in sentences) == dict.fromkeys(("toxic", "not_toxic"), FILES[name])
    for label, kinds in KINDS[name].items():
        assert {row["kind"] for row in sentences if row["label"] == label} == kinds


def test_no_sentence_is_in_the_sample_data_or_nearly_so(file):
    _, sentences = file
    files = [DATA / f"{split}.csv" for split in ("train", "validation", "test")]
    comments = [words(row["text"]) for file in files for row in read_rows(file)]
    for row in sentences:
        sentence = words(row["text"])
        shared = max(len(sentence & comment) / len(sentence | comment) for comment in comments)
        assert shared < 0.75, row["text"]


@pytest.mark.slow
def test_the_quickstarts_student_gets_most_sentences_right_in_int8(tmp_path):
    for script, arguments in (
        ("run_distillation.py", ["defaults/run_distillation.json", f"--output_dir={tmp_path}"]),
        ("run_export.py", [f"--model_name_or_path={tmp_path}"]),
    ):
        subprocess.run([sys.executable, script, *arguments], cwd=ROOT, check=True)
    model = load_model(tmp_path)
    for name, least in (("everyday_sentences", 51), ("fresh_sentences", 108)):
        sentences = read_rows(TESTS / f"{name}.csv")
        answers = model.classify([row["text"] for row in sentences])
        right = sum(answer.label == row["label"] for answer, row in zip(answers, sentences, strict=True))
        assert right >= least, name
