"""Tests of the sample data set, and of the ten lines of the README that use it."""

import csv
import html
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from layer_distillation.pretrained import PACKAGED_TEACHER, resolve_checkpoint

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "data" / "toxic_comments"
SPLITS = ("train", "validation", "test")


def read(split):
    with open(FOLDER / f"{split}.csv", encoding="utf-8", errors="strict", newline="") as stream:
        return list(csv.DictReader(stream, strict=True))


@pytest.fixture(scope="module")
def comments():
    """All comments as `(split, text, label)`."""
    return [(split, row["text"], row["label"]) for split in SPLITS for row in read(split)]


def words(text):
    return frozenset(re.findall(r"\w+(?:['’]\w+)*", text.casefold()))


@pytest.mark.parametrize("split", SPLITS)
def test_every_row_is_a_text_and_one_of_the_two_labels(split):
    rows = read(split)
    assert all(list(row) == ["text", "label"] for row in rows)
    assert {row["label"] for row in rows} == {"toxic", "not_toxic"}
    assert all(row["text"] == row["text"].strip() != "" for row in rows)


def test_there_are_about_1500_comments_in_the_usual_proportions(comments):
    sizes = Counter(split for split, _, _ in comments)
    assert 1400 <= sizes.total() <= 1700
    shares = [sizes[split] / sizes.total() for split in SPLITS]
    assert shares == pytest.approx([0.7, 0.15, 0.15], abs=0.03)


@pytest.mark.parametrize("split", SPLITS)
def test_both_classes_are_well_represented_with_the_same_share_in_every_split(split, comments):
    labels = [label for _, _, label in comments]
    overall = labels.count("toxic") / len(labels)
    share = np.mean([row["label"] == "toxic" for row in read(split)])
    assert 0.3 <= share <= 0.6
    assert share == pytest.approx(overall, abs=0.05)


def test_the_files_are_plain_utf_8_without_html_or_stray_control_characters():
    for split in SPLITS:
        content = (FOLDER / f"{split}.csv").read_bytes()
        assert not content.startswith(b"\xef\xbb\xbf"), "byte order mark"
        assert b"\r" not in content
        assert content.endswith(b"\n")
        text = content.decode("utf-8")
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\ufffd]", text)
        assert not re.search(r"</?[a-z][^>]*>", text, re.IGNORECASE)
        assert html.unescape(text) == text
        assert not re.search(r"https?://|www\.|@\w+\.\w", text)


def test_no_two_comments_are_the_same(comments):
    counts = Counter(" ".join(sorted(words(text))) or text for _, text, _ in comments)
    counts_by_text = Counter(" ".join(re.findall(r"\w+", text.casefold())) or text for _, text, _ in comments)
    assert [text for text, count in counts_by_text.items() if count > 1] == []
    assert [text for text, count in counts.items() if count > 1 and len(text.split()) >= 4] == []


def test_no_two_comments_of_four_words_or_more_share_three_quarters_of_their_words(comments):
    long = [(split, text, words(text)) for split, text, _ in comments if len(words(text)) >= 4]
    vocabulary = {word: i for i, word in enumerate(sorted(set().union(*(found for _, _, found in long))))}
    columns = [vocabulary[word] for _, _, found in long for word in found]
    sizes = np.array([len(found) for _, _, found in long])
    matrix = csr_matrix((np.ones(len(columns), dtype=np.int32), columns, np.concatenate([[0], np.cumsum(sizes)])))
    shared = (matrix @ matrix.T).tocoo()
    jaccard = shared.data / (sizes[shared.row] + sizes[shared.col] - shared.data)
    close = (jaccard >= 0.75) & (shared.row < shared.col)
    assert [(*long[i][:2], *long[j][:2]) for i, j in zip(shared.row[close], shared.col[close])] == []


def test_the_data_card_says_what_it_is_and_what_it_is_not():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: cc0-1.0\n")
    assert "It is a sample, not a benchmark" in " ".join(card.split())


# ---- The README's example ----


def ten_lines():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    found = [block for block in blocks if "from distill_trainer import DistillationTrainer" in block]
    assert len(found) == 1, (
        "README.md must have one ```python block with `from distill_trainer import DistillationTrainer`, "
        f"but has {len(found)}"
    )
    return found[0]


@pytest.mark.timeout(300)
def test_the_readmes_ten_lines_run_as_written(tmp_path):
    code = ten_lines()
    shutil.copytree(FOLDER, tmp_path / "data" / "toxic_comments")
    # The example starts from the teacher that `make quickstart` leaves; a tiny one stands in for it.
    config = BertConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64, num_labels=2
    )  # fmt: skip
    config.id2label, config.label2id = {0: "not_toxic", 1: "toxic"}, {"not_toxic": 0, "toxic": 1}
    for folder in set(re.findall(r'"(outputs/[^"]+)"', code)):
        BertForSequenceClassification(config).save_pretrained(tmp_path / folder)
        AutoTokenizer.from_pretrained(resolve_checkpoint(PACKAGED_TEACHER)).save_pretrained(tmp_path / folder)
    environment = {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "hf_home"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "train_loss" in result.stdout + result.stderr
