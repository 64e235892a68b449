"""Runs on data with a column for each label, from the file to the served model."""

import csv
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from scipy.special import expit
from sklearn.metrics import f1_score

import run_export
from app.models import load_model
from app.server import create_app
from app.service import Service
from layer_distillation.problem_types import MULTI_LABEL, SINGLE_LABEL
from tests.script_runs import predictions, read_record, results, run_here
from tests.test_teacher import save_checkpoint
from tests.tiny_models import VOCAB_SIZE

ROOT = Path(__file__).parent.parent
DATA, EXAMPLES = ROOT / "data" / "label_columns", ROOT / "examples"
COLUMNS = {
    "jigsaw": ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"),
    "civil_comments": (
        "toxicity",
        "severe_toxicity",
        "obscene",
        "threat",
        "insult",
        "identity_attack",
        "sexual_explicit",
    ),
}
# What Perspective calls these labels.
ATTRIBUTES = {
    "jigsaw": ("TOXICITY", "SEVERE_TOXICITY", "PROFANITY", "THREAT", "INSULT", "IDENTITY_ATTACK"),
    "civil_comments": (
        "TOXICITY",
        "SEVERE_TOXICITY",
        "PROFANITY",
        "THREAT",
        "INSULT",
        "IDENTITY_ATTACK",
        "SEXUALLY_EXPLICIT",
    ),
}
LENGTH = ("--num_train_epochs", 1, "--teacher_num_train_epochs", 1, "--layers", 1, "--save_strategy", "no")


def rows_of(name):
    with open(DATA / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def texts_of(name):
    return [row.get("text") or row["comment_text"] for row in rows_of(name)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny encoder that knows the most frequent words of the sample."""
    words = Counter(word for row in rows_of("civil_comments") for word in row["text"].split())
    words = [word for word, _ in words.most_common(VOCAB_SIZE - 4)]
    return save_checkpoint(tmp_path_factory.mktemp("encoder"), encoder_only=True, words=words)


def run(encoder, name, folder, *arguments):
    path = DATA / f"{name}.csv"
    files = ("--train_file", path, "--validation_file", path)
    run_here("--teacher_name_or_path", encoder, *files, "--output_dir", folder, *LENGTH, *arguments)


def logits_of(folder):
    rows = predictions(folder, "validation")
    return np.array([[float(value) for name, value in row.items() if name.startswith("logit_")] for row in rows])


@pytest.fixture(scope="module")
def trained(encoder, tmp_path_factory):
    """The folders of the runs on all columns of both samples, by the name of the sample."""
    folders = {name: tmp_path_factory.mktemp(name) for name in COLUMNS}
    for name, columns in COLUMNS.items():
        # Long enough for margins that int8 keeps.
        epochs = ("--num_train_epochs", 40, "--teacher_num_train_epochs", 40, "--student_dropout", 0)
        rates = ("--learning_rate", 3e-3, "--teacher_learning_rate", 3e-3)
        run(encoder, name, folders[name], "--label_column_name", ",".join(columns), *epochs, *rates)
    return folders


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_of_labels_train_a_multi_label_model_whose_scores_recompute(name, trained):
    folder, columns = trained[name], COLUMNS[name]
    logits = logits_of(folder)
    config = results(folder, "config")
    assert config["problem_type"] == MULTI_LABEL
    assert tuple(config["id2label"].values()) == columns == tuple(read_record(folder)["data"]["labels"])

    shares = np.array([[float(row[column] or "nan") for column in columns] for row in rows_of(name)])
    known = ~np.isnan(shares)
    assert known.all() == (name == "jigsaw")
    losses = np.logaddexp(0, logits) - np.nan_to_num(shares) * logits
    scores = results(folder, "eval_results")
    assert scores["eval_loss"] == pytest.approx(
        np.mean([losses[i][known[i]].mean() for i in range(len(losses))]), rel=1e-4
    )
    for i, column in enumerate(columns[:3]):
        rows = known[:, i]
        expected = f1_score(shares[rows, i] >= 0.5, logits[rows, i] > 0, zero_division=0)
        assert scores[f"eval_f1_{column}"] == pytest.approx(expected)
    assert math.isfinite(results(folder, "train_results")["train_loss"])
    first = predictions(folder, "validation")[2]["label"]
    assert first == ("toxic;insult" if name == "jigsaw" else "toxicity;severe_toxicity?;insult")


@pytest.mark.parametrize("name", COLUMNS)
def test_export_and_app_follow_on_the_training_by_a_command_each(name, trained):
    folder, columns = trained[name], COLUMNS[name]
    run_export.main([f"--model_name_or_path={folder}", "--languages=en"])
    model, text = load_model(folder), texts_of(name)[2]
    requested = dict.fromkeys(ATTRIBUTES[name], {})
    with TestClient(create_app(Service([model], workers=1))) as client:
        (result,) = client.post("/api/classify", json={"text": text}).json()["results"]
        body = {"comment": {"text": text}, "requestedAttributes": requested, "languages": ["en"]}
        analyzed = client.post("/v1alpha1/comments:analyze", json=body).json()["attributeScores"]
    # The run has scored the same text in PyTorch and float32.
    probabilities = dict(zip(columns, expit(logits_of(folder)[2]), strict=True))
    assert result["scores"] == pytest.approx(probabilities, abs=0.01)
    thresholds = results(folder, "thresholds")["thresholds"]
    assert thresholds.keys() == set(columns)
    assert result["labels"] == [label for label in columns if result["scores"][label] >= thresholds[label]]
    summaries = [analyzed[attribute]["summaryScore"]["value"] for attribute in ATTRIBUTES[name]]
    assert summaries == list(result["scores"].values())


@pytest.mark.parametrize("name", ["jigsaw", "civil_comments", "civil_comments_kaggle"])
def test_the_argument_files_read_data_of_their_form(name, encoder, tmp_path):
    data = (DATA / f"{name.removesuffix('_kaggle')}.csv").read_text()
    if name == "civil_comments":  # a data set with its splits, as on the Hub
        for split in ("train", "validation", "test"):
            (tmp_path / f"{split}.csv").write_text(data)
        subject = ("--dataset_name", tmp_path)
    else:
        if name == "civil_comments_kaggle":
            data = data.replace("toxicity,", "target,", 1).replace("text,", "comment_text,", 1)
        (tmp_path / "train.csv").write_text(data)
        subject = ("--train_file", tmp_path / "train.csv")
        subject += ("--validation_split_percentage", 10)
    arguments = ("--teacher_name_or_path", encoder, "--output_dir", tmp_path / "student", *LENGTH)
    run_here(EXAMPLES / f"{name}.json", *subject, *arguments)
    labels = read_record(tmp_path / "student")["data"]["labels"]
    assert ",".join(labels) == results(EXAMPLES, name)["label_column_name"]
    split, number = ("test", 40) if name == "civil_comments" else ("validation", 4)
    assert len(predictions(tmp_path / "student", split)) == number


def test_shares_of_one_label_train_a_soft_binary_model_whose_loss_recomputes(encoder, tmp_path):
    arguments = ("--label_column_name", "toxicity", "--problem_type", SINGLE_LABEL)
    run(encoder, "civil_comments", tmp_path, *arguments)
    logits = logits_of(tmp_path)
    assert list(results(tmp_path, "config")["id2label"].values()) == ["not_toxicity", "toxicity"]
    shares = np.array([float(row["toxicity"]) for row in rows_of("civil_comments")])
    log_probabilities = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    expected = -((1 - shares) * log_probabilities[:, 0] + shares * log_probabilities[:, 1]).mean()
    scores = results(tmp_path, "eval_results")
    assert scores["eval_loss"] == pytest.approx(expected, rel=1e-4)
    assert scores["eval_accuracy"] == pytest.approx(((logits[:, 1] > logits[:, 0]) == (shares >= 0.5)).mean())
