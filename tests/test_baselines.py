"""Tests of the baselines of a comparison, and of comparisons of other tasks than classes."""

import csv
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from torch.nn.functional import cross_entropy
from transformers import BertModel

import run_comparison
from comparison import baselines
from comparison.baselines import Classical, from_encoder, tfidf, weighted_loss, with_fresh_layers
from distill_trainer import DistillationTrainer, DistillationTrainingArguments
from layer_distillation.errors import UserError
from lora_adapters.loading import load_adapter
from tests.script_runs import read_record, run_main, sentences, write_json_lines
from tests.workers.train_worker import bert
from text_data.labels import LabelMap
from training.arguments import StudentArguments

run_here = partial(run_main, run_comparison)
LABELS = LabelMap("single_label_classification", ("bad", "good"))


# ---- What they start from ----


@pytest.fixture
def run():
    teacher = bert(4)
    return SimpleNamespace(
        args=SimpleNamespace(seed=7, device=torch.device("cpu")),
        inputs=SimpleNamespace(data=SimpleNamespace(labels=LABELS)),
        teacher=SimpleNamespace(load=lambda device: teacher, model=teacher),
    )


def test_fresh_layers_keep_the_embeddings_of_the_teacher_and_nothing_else(run):
    student, origin = with_fresh_layers(StudentArguments("uniform", num_student_layers=2), run)
    assert origin.layers == () and student.config.num_hidden_layers == 2
    of_teacher = run.teacher.model.state_dict()
    for name, weight in student.state_dict().items():
        is_copied = torch.equal(weight, of_teacher[name])
        is_drawn = weight.dim() == 2
        assert is_copied if ".embeddings." in name else not (is_copied and is_drawn), name


def test_a_student_without_a_teacher_has_the_layers_of_the_encoder_and_a_new_head(run, make_teacher):
    path = make_teacher(["bad", "good"], encoder_only=True)
    student, origin = from_encoder(path, StudentArguments("even"), run)
    encoder = type(student).from_pretrained(path)
    assert origin.layers == (2, 4)
    for place, layer in enumerate(origin.layers):
        copied, original = student.bert.encoder.layer[place], encoder.bert.encoder.layer[layer - 1]
        assert all(map(torch.equal, copied.state_dict().values(), original.state_dict().values()))
    again, _ = from_encoder(path, StudentArguments("even"), run)
    assert torch.equal(again.classifier.weight, student.classifier.weight), "the seed decides on the head"


def test_classes_weigh_alike_in_training_and_examples_in_evaluation(tmp_path):
    """Over all examples, as torch weighs classes by `examples / (classes * examples of the class)`."""
    model, ids = bert(2, num_labels=4), torch.tensor([0, 0, 0, 0, 0, 2, 2, 3])
    rows = [{"input_ids": [5, i + 6, 7], "labels": label} for i, label in enumerate(ids.tolist())]
    model.eval()
    logits = model(input_ids=torch.tensor([row["input_ids"] for row in rows])).logits
    weights = torch.tensor([8 / (3 * 5), 1.0, 8 / (3 * 2), 8 / (3 * 1)])
    expected = cross_entropy(logits, ids, weight=weights)
    smoothed = cross_entropy(logits, ids, weight=weights, label_smoothing=0.1)
    args = DistillationTrainingArguments(
        output_dir=str(tmp_path),
        ce_weight=1,
        kl_weight=0,
        student_dropout=0.0,
        max_steps=1,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        logging_steps=1,
        learning_rate=1e-9,
        bf16=False,
        report_to=[],
        use_cpu=True,
    )
    loss = weighted_loss(ids.numpy(), 4, label_smoothing=0.0)
    trainer = DistillationTrainer(
        model=model, args=args, train_dataset=Dataset.from_list(rows), compute_loss_func=loss
    )
    trainer.train()
    assert trainer.state.log_history[0]["loss_ce"] == pytest.approx(expected.item(), rel=1e-4)
    plain = trainer.evaluate(Dataset.from_list(rows))["eval_loss"]
    assert plain == pytest.approx(cross_entropy(logits, ids).item(), rel=1e-4)
    assert weighted_loss(ids.numpy(), 4, 0.1)({"logits": logits}, ids, 8).item() == pytest.approx(smoothed.item())


def test_the_linear_model_on_words_is_that_of_scikit_learn():
    rows = [{"text": text, "label": int(label == "good")} for text, label in sentences(40)]
    splits = DatasetDict(train=Dataset.from_list(rows))
    inputs = SimpleNamespace(data=SimpleNamespace(splits=splits, text_columns=("text",), labels=LABELS))
    classical = tfidf(inputs, balanced=False)
    texts, labels = classical.read("train", None), [row["label"] for row in rows]
    assert texts == [row["text"] for row in rows] and classical.read("train", 3) == texts[:3]
    classical.pipeline.fit(texts, labels)
    logits = classical.logits(texts, range(2))
    expected = LogisticRegression(C=10.0, max_iter=2000).fit(classical.pipeline[0].transform(texts), labels)
    probabilities = torch.tensor(logits).softmax(dim=-1).numpy()
    assert probabilities == pytest.approx(expected.predict_proba(classical.pipeline[0].transform(texts)), abs=1e-4)
    assert classical.num_weights == expected.coef_.size + 1


def test_a_label_without_training_examples_is_never_the_answer():
    rows = [{"text": text, "label": 2 * int(label == "good")} for text, label in sentences(40)]
    splits = DatasetDict(train=Dataset.from_list(rows))
    labels = LabelMap("single_label_classification", ("bad", "never", "good"))
    classical = tfidf(
        SimpleNamespace(data=SimpleNamespace(splits=splits, text_columns=("text",), labels=labels)), balanced=True
    )
    texts = classical.read("train", None)
    classical.pipeline.fit(texts, [row["label"] for row in rows])
    assert set(classical.logits(texts, range(3)).argmax(axis=1)) == {0, 2}


def test_one_of_several_labels_may_have_no_training_examples():
    rows = [{"text": text, "label": [float(label == "good"), 0.0]} for text, label in sentences(40)]
    splits = DatasetDict(train=Dataset.from_list(rows))
    labels = LabelMap("multi_label_classification", ("good", "never"))
    classical = tfidf(
        SimpleNamespace(data=SimpleNamespace(splits=splits, text_columns=("text",), labels=labels)), balanced=False
    )
    texts, targets = classical.read("train", None), np.array([row["label"] for row in rows])
    classical.pipeline.fit(texts, targets)
    assert np.array_equal(classical.logits(texts, range(2)) > 0, targets > 0)
    assert classical.num_weights == classical.pipeline[0].transform(texts).shape[1] + 1


# ---- Comparisons ----

SETTINGS = ["--max_steps", 3, "--per_device_train_batch_size", 8, "--save_strategy", "no"]
GRID = ["--strategies", "odd", "--seeds", 0]


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr(run_comparison, "draw_figures", lambda *_: {})


def rows_of(folder):
    with open(folder / "results.csv", newline="") as stream:
        return {row["method"]: row for row in csv.DictReader(stream)}


def test_labels_that_no_or_every_training_example_has_are_certain():
    texts = ["bad word", "good word", "bad day", "good day"]
    labels = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 1], [0, 0, 1]])
    pipeline = make_pipeline(TfidfVectorizer(), OneVsRestClassifier(LogisticRegression()))
    with pytest.warns(UserWarning, match="Label"):
        pipeline.fit(texts, labels)
    logits = Classical(pipeline, None).logits(texts, range(3))
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert probabilities[:, 1:] == pytest.approx(labels[:, 1:])
    assert logits[:, 0] == pytest.approx(pipeline.decision_function(texts)[:, 0]) and logits.dtype == np.float32


@pytest.mark.usefixtures("script_caches", "no_figures")
def test_baselines_are_rows_of_the_same_tables(make_teacher, files, tmp_path, monkeypatch):
    encoded, encode = [], baselines.sentence_features
    monkeypatch.setattr(
        baselines, "sentence_features", lambda model, *data: (encoded.append(len(data[0])), encode(model, *data))[1]
    )
    teacher = make_teacher(["bad", "good"], encoder_only=True)
    methods = ["distill", "weighted", "lora_full", "pretrained", "fresh_layers", "rival", "linear_probe"]
    methods += ["tfidf", "tfidf_balanced"]
    arguments = ["--teacher_name_or_path", teacher, *files, *SETTINGS, *GRID, "--methods", *methods]
    arguments += ["--rival_name_or_path", teacher, "--teacher_num_train_epochs", 1, "--output_dir", tmp_path]
    results = run_here(*arguments)
    assert [number for number in encoded if number > 1] == [40, 18, 13], "each split passes the encoder once"
    rows = rows_of(tmp_path)
    assert list(rows) == ["teacher", *methods]
    assert all(float(row["train_eval_loss"]) > 0 for row in rows.values())
    assert float(rows["tfidf"]["predict_accuracy"]) == 1.0, "one word tells the label"
    assert rows["rival"]["layers"] == "none" and int(rows["tfidf"]["trainable_parameters"]) > 100
    whole, half = (read_record(tmp_path / "runs" / name) for name in ("lora_full-0", "distill-odd-0"))
    assert whole["student"]["num_layers"] == 4 and half["student"]["num_layers"] == 2
    assert whole["training"]["learning_rate"] == 4e-4 and whole["method"] == "lora"
    loaded = load_adapter(tmp_path / "runs" / "lora_full-0").get_base_model()
    trained = {name for name, weight in loaded.named_parameters() if "lora_" in name or "modules_to_save" in name}
    encoder = type(loaded.base_model).from_pretrained(teacher).state_dict()
    for name, weight in loaded.base_model.named_parameters():
        if f"bert.{name}" not in trained and ".original_module." not in name:
            assert torch.equal(weight, encoder[name.replace(".base_layer", "")]), name
    assert any("classifier" in name for name in trained) and any("layer.3." in name for name in trained)
    report = (tmp_path / "report.md").read_text()
    assert all(f"| {title} " in report for title in ("TF-IDF", "Rival, fine-tuned", "Odd, without a teacher"))
    assert {path.stem for path in (tmp_path / "predictions").iterdir()} == {
        "teacher",
        *(run.cell.name for run in results.runs),
    }
    cells = [path.name for path in (tmp_path / "runs").iterdir()]
    assert run_here(*arguments) is not None
    assert sorted(cells) == sorted(path.name for path in (tmp_path / "runs").iterdir())


@pytest.mark.usefixtures("script_caches", "no_figures")
def test_a_cell_is_not_finished_if_the_checkpoint_it_started_from_has_changed(teacher, make_teacher, files, tmp_path):
    paths = {name: make_teacher(["bad", "good"], encoder_only=True) for name in ("encoder", "rival")}
    arguments = ["--teacher_name_or_path", teacher, *files, *SETTINGS, *GRID, "--output_dir", tmp_path]
    arguments += ["--methods", "distill", "pretrained", "rival"]
    for name, path in paths.items():
        arguments += [f"--{name}_name_or_path", path]
    run_here(*arguments)
    for name, path in paths.items():
        weights = BertModel.from_pretrained(path)
        with torch.no_grad():
            weights.embeddings.word_embeddings.weight[0] += 1
        before = Path(path, "model.safetensors").read_bytes()
        weights.save_pretrained(path)
        with pytest.raises(UserError, match=f"circumstances: {name}_name_or_path"):
            run_here(*arguments)
        Path(path, "model.safetensors").write_bytes(before)
    run_here(*arguments)


@pytest.mark.usefixtures("script_caches")
def test_several_labels_an_example_are_compared(make_teacher, tmp_path):
    names = ["kind", "rude"]
    rows = [
        {"text": text, "label": [names[label == "bad"], *(["kind"] if i % 4 == 0 else [])]}
        for i, (text, label) in enumerate(sentences(40))
    ]
    file = write_json_lines(tmp_path / "comments.jsonl", rows)
    arguments = ["--teacher_name_or_path", make_teacher(names), "--train_file", file, "--validation_file", file]
    methods = ["--methods", "distill", "tfidf"]
    results = run_here(*arguments, *SETTINGS, *GRID, *methods, "--output_dir", tmp_path / "grid")
    (distilled, classical) = results.runs
    true = np.array([[name in row["label"] for name in names] for row in rows])
    for run, row in zip(
        results.runs, [rows_of(tmp_path / "grid")[name] for name in ("distill", "tfidf")], strict=True
    ):
        assert np.array_equal(run.predictions.labels, true)
        expected = f1_score(true, run.predictions.answers, average="macro", zero_division=0)
        assert float(row["eval_macro_f1"]) == pytest.approx(expected)
    assert "| Validation Macro-F1 |" in (tmp_path / "grid" / "report.md").read_text().replace("  ", "")
    shown = {path.stem for path in (tmp_path / "grid" / "figures").glob("*.svg")}
    assert {"scores", "calibration", "costs"} <= shown and "confusions" not in shown


@pytest.mark.usefixtures("script_caches")
def test_labels_that_are_unknown_count_in_no_score_of_a_comparison(make_teacher, tmp_path):
    names = ["kind", "rude"]
    rows = [
        {"text": text, "kind": i % 4 == 0, "rude": label == "bad"} for i, (text, label) in enumerate(sentences(40))
    ]
    whole = write_json_lines(tmp_path / "whole.jsonl", rows)
    partial_rows = [{**row, names[i % 2]: None} if i % 3 == 0 else row for i, row in enumerate(rows)]
    known = np.array([[row[name] is not None for name in names] for row in partial_rows])
    file = write_json_lines(tmp_path / "partial.jsonl", partial_rows)
    arguments = [
        "--teacher_name_or_path",
        make_teacher(names),
        "--label_column",
        "kind,rude",
        "--validation_file",
        file,
    ]
    arguments += [*SETTINGS, *GRID, "--methods", "distill", "tfidf"]
    results = run_here(*arguments, "--train_file", whole, "--output_dir", tmp_path / "grid")
    for run, name in zip(results.runs, ("distill", "tfidf"), strict=True):
        true = np.array([[row[name] for name in names] for row in rows])
        expected = [f1_score(true[known[:, i], i], run.predictions.answers[known[:, i], i]) for i in range(2)]
        assert float(rows_of(tmp_path / "grid")[name]["eval_macro_f1"]) == pytest.approx(np.mean(expected))
    assert "nan" not in (tmp_path / "grid" / "report.md").read_text()
    with pytest.raises(UserError, match="leave tfidf out of --methods"):
        run_here(*arguments, "--train_file", file, "--output_dir", tmp_path / "other")


@pytest.mark.usefixtures("script_caches")
def test_regressions_are_compared(make_teacher, tmp_path):
    rows = [{"text": text, "label": i % 5 / 4 + 0.1} for i, (text, _) in enumerate(sentences(40))]
    file = write_json_lines(tmp_path / "scores.jsonl", rows)
    arguments = ["--teacher_name_or_path", make_teacher(["LABEL_0"]), "--train_file", file, "--validation_file", file]
    results = run_here(
        *arguments, *SETTINGS, *GRID, "--methods", "distill", "tfidf", "--output_dir", tmp_path / "grid"
    )
    for run, name in zip(results.runs, ("distill", "tfidf"), strict=True):
        expected = np.corrcoef(run.predictions.answers, [row["label"] for row in rows])[0, 1]
        assert float(rows_of(tmp_path / "grid")[name]["eval_pearson"]) == pytest.approx(expected, abs=1e-4)
    report = (tmp_path / "grid" / "report.md").read_text()
    assert "Validation Pearson correlation" in report and "Calibration" not in report
    assert json.loads((tmp_path / "grid" / "results.json").read_text())[1]["method"] == "distill"


def test_nothing_is_claimed_of_a_correlation_with_labels_that_are_all_equal(make_teacher, tmp_path):
    texts = [text for text, _ in sentences(40)]
    train = write_json_lines(tmp_path / "train.jsonl", [{"text": t, "label": i % 5 / 4} for i, t in enumerate(texts)])
    validation = write_json_lines(tmp_path / "validation.jsonl", [{"text": text, "label": 0.5} for text in texts])
    arguments = ["--teacher_name_or_path", make_teacher(["LABEL_0"]), "--problem_type", "regression", *SETTINGS, *GRID]
    arguments += ["--train_file", train, "--validation_file", validation, "--methods", "distill", "tfidf"]
    run_here(*arguments, "--output_dir", tmp_path / "grid")
    report = (tmp_path / "grid" / "report.md").read_text()
    assert "points of" not in report and "+0.0" not in report


@pytest.mark.usefixtures("script_caches")
def test_a_fine_tuned_teacher_does_not_stand_for_the_encoder_before_it(teacher, files, tmp_path):
    arguments = ["--teacher_name_or_path", teacher, *files, *GRID, "--methods", "distill", "pretrained"]
    with pytest.raises(UserError, match="--encoder_name_or_path"):
        run_here(*arguments, "--output_dir", tmp_path / "grid")
    with pytest.raises(UserError, match="--encoder_name_or_path .*bad, good"):
        run_here(*arguments, "--encoder_name_or_path", teacher, "--output_dir", tmp_path / "grid")
    assert read_record(tmp_path / "grid") is None


@pytest.mark.usefixtures("script_caches")
def test_a_revision_of_the_teacher_is_not_taken_for_one_of_the_encoder(make_teacher, files, tmp_path):
    encoder = make_teacher(["bad", "good"], encoder_only=True)
    arguments = ["--teacher_name_or_path", encoder, "--teacher_revision", "abc", *files, *GRID]
    with pytest.raises(UserError, match="--teacher_revision is abc.*--encoder_name_or_path"):
        run_here(*arguments, "--methods", "distill", "linear_probe", "--output_dir", tmp_path / "grid")
