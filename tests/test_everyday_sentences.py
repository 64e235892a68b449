"""Tests of the sixty sentences that the served classifier is judged by, and of the classifier that is served."""

import csv
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

from app.models import load_model

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data" / "toxic_comments"
KINDS = {
    "toxic": {"insult", "hostility", "negation", "quotation", "identity", "politeness", "sarcasm"},
    "not_toxic": {"friendly", "negation", "quotation", "friendly profanity", "identity", "politeness", "sarcasm"},
}


def read(file):
    with open(file, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def sentences():
    return read(ROOT / "tests" / "everyday_sentences.csv")


def words(text):
    return frozenset(re.findall(r"\w+(?:['’]\w+)*", text.casefold()))


def test_there_are_thirty_of_each_and_every_kind_occurs(sentences):
    assert Counter(row["label"] for row in sentences) == {"toxic": 30, "not_toxic": 30}
    for label, kinds in KINDS.items():
        assert {row["kind"] for row in sentences if row["label"] == label} == kinds


def test_none_is_in_the_sample_data_or_nearly_so(sentences):
    data = [words(row["text"]) for split in ("train", "validation", "test") for row in read(DATA / f"{split}.csv")]
    for row in sentences:
        own = words(row["text"])
        assert max(len(own & other) / len(own | other) for other in data) < 0.75, row["text"]


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
