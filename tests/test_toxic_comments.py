"""Tests of the sample data set, and of the example in the README that uses it."""

import hashlib
import html
import os
import re
import shutil
from collections import Counter
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import numpy as np
import pytest
from scipy.sparse import csr_matrix
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from comparison.identity_texts import IDENTITIES
from layer_distillation.pretrained import PACKAGED_TEACHER, resolve_checkpoint
from tests.comments import read_rows, words

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "data" / "toxic_comments"
SPLITS = ("train", "validation", "test")
TEMPLATES = ROOT.parent / "shared" / "data" / "identity_templates"


@pytest.fixture(scope="module")
def rows():
    """The rows of every split."""
    return {split: read_rows(FOLDER / f"{split}.csv") for split in SPLITS}


@pytest.fixture(scope="module")
def texts(rows):
    return [row["text"] for split in SPLITS for row in rows[split]]


def test_every_row_is_a_text_and_one_of_the_two_labels(rows):
    for split in SPLITS:
        assert all(list(row) == ["text", "label"] for row in rows[split])
        assert {row["label"] for row in rows[split]} == {"toxic", "not_toxic"}
        assert all(row["text"] == row["text"].strip() != "" for row in rows[split])


def test_there_are_about_3700_comments_and_about_as_many_toxic_ones_in_every_split(rows):
    sizes = np.array([len(rows[split]) for split in SPLITS])
    toxic = np.array([sum(row["label"] == "toxic" for row in rows[split]) for split in SPLITS])
    assert 3500 <= sizes.sum() <= 3900
    assert sizes[:2] / sizes[:2].sum() == pytest.approx([0.87, 0.13], abs=0.02)
    overall = toxic.sum() / sizes.sum()
    assert 0.4 <= overall <= 0.5
    assert toxic / sizes == pytest.approx([overall] * 3, abs=0.05)


def test_the_test_split_is_the_one_that_earlier_results_were_measured_on(rows):
    content = (FOLDER / "test.csv").read_bytes()
    assert len(rows["test"]) == 232
    assert hashlib.sha256(content).hexdigest() == "4297d88fc18f10a7fb2be73caac5dfa42f12fc69b57ef4b3fe13e7a19cf8d1d2"


def test_the_files_are_plain_utf_8_without_html_addresses_or_control_characters():
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


def in_order(text):
    """The words of a text in their order, or the text if it has none."""
    return " ".join(re.findall(r"\w+", text.casefold())) or text


def test_no_two_comments_have_the_same_words(texts):
    assert [text for text, count in Counter(map(in_order, texts)).items() if count > 1] == []


def test_no_two_comments_of_four_words_or_more_share_three_quarters_of_their_words(texts):
    long = [text for text in texts if len(words(text)) >= 4]
    close = close_pairs(list(map(words, long)), list(map(words, long)), 0.75)
    assert [(long[i], long[j]) for i, j in close if i < j] == []


def close_pairs(first, second, least):
    """Positions in two lists of sets of words whose Jaccard similarity is at least `least`."""
    vocabulary = {word: i for i, word in enumerate(sorted(set().union(*first, *second)))}

    def matrix(sets):
        columns = [vocabulary[word] for each in sets for word in each]
        rows = np.concatenate([[0], np.cumsum(list(map(len, sets)))])
        return csr_matrix((np.ones(len(columns), dtype=np.int32), columns, rows), (len(sets), len(vocabulary)))

    shared = (matrix(first) @ matrix(second).T).tocoo()
    sizes = [np.array(list(map(len, sets))) for sets in (first, second)]
    jaccard = shared.data / (sizes[0][shared.row] + sizes[1][shared.col] - shared.data)
    return [(i, j) for i, j, value in zip(shared.row, shared.col, jaccard) if value >= least]


def test_no_comment_is_a_near_copy_of_a_sentence_that_models_are_tried_on(rows):
    comments = [row["text"] for split in ("train", "validation") for row in rows[split]]
    files = [Path(__file__).parent / f"{name}_sentences.csv" for name in ("everyday", "fresh")]
    sentences = [row["text"] for file in files for row in read_rows(file)]
    assert set(map(in_order, comments)) & set(map(in_order, sentences)) == set()
    long, tried = ([text for text in texts if len(words(text)) >= 4] for texts in (comments, sentences))
    close = close_pairs(list(map(words, long)), list(map(words, tried)), 0.6)
    assert sorted({long[i] for i, _ in close}) == []


def test_no_comment_is_a_near_copy_of_a_template_of_identities(rows):
    """Identity words count as one word, so that another identity in a template makes no difference."""
    if not TEMPLATES.is_dir():
        pytest.skip(f"there are no templates at {TEMPLATES}")
    identity = re.compile(rf"\b(?:{'|'.join(sorted(IDENTITIES, key=len, reverse=True))})s?\b")

    def masked(text):
        return words(identity.sub("identity", text.casefold()))

    files = [TEMPLATES / f"{name}.csv" for name in ("intersectional", "en_sentence_templates")]
    templates = list({masked(row["phrase"]) for file in files for row in read_rows(file)})
    comments = [row["text"] for split in ("train", "validation") for row in rows[split]]
    close = close_pairs(list(map(masked, comments)), templates, 0.6)
    assert sorted({comments[i] for i, _ in close}) == []


# ---- The README's example ----


def readme_example():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    found = [block for block in blocks if "from distill_trainer import DistillationTrainer" in block]
    assert len(found) == 1, (
        "README.md must have one ```python block with `from distill_trainer import DistillationTrainer`, "
        f"but has {len(found)}"
    )
    return found[0]


def test_the_readmes_example_runs_as_written(tmp_path, monkeypatch, capsys):
    code = readme_example()
    shutil.copytree(FOLDER, tmp_path / "data" / "toxic_comments")
    # The example starts from the teacher that `make quickstart` leaves; a tiny one stands in for it.
    config = BertConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64)
    config.id2label, config.label2id = {0: "not_toxic", 1: "toxic"}, {"not_toxic": 0, "toxic": 1}
    for folder in set(re.findall(r'"(outputs/[^"]+)"', code)):
        BertForSequenceClassification(config).save_pretrained(tmp_path / folder)
        AutoTokenizer.from_pretrained(resolve_checkpoint(PACKAGED_TEACHER)).save_pretrained(tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    assert "train_loss" in capsys.readouterr().out
