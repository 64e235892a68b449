"""Tests of the models that the app serves, and of the words that speak for their answers."""

import asyncio
import hashlib
import json
import math
import os
import shutil

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertTokenizer,
    XLNetConfig,
    XLNetForSequenceClassification,
    XLNetTokenizer,
)

from app.explain import MAX_WORDS, explain
from app.models import BACKENDS, DEFAULT_MAX_LENGTH, Answer, load_model
from experiments.tiny_classifiers import tiny_classifier
from export.arguments import FLOAT32_FILE
from export.float32 import export_float32
from tests.served_model import MAX_LENGTH

TEXTS = [
    "I hate you",
    "See you tomorrow, my friend!",
    "You are an idiot, and everybody here hates you all day long.",
]


@pytest.mark.parametrize("backend", ["int8", "float32", "pytorch"])
def test_every_backend_tells_insults_from_friendly_comments(served_model, backend):
    answers = load_model(served_model, backend).classify(TEXTS)
    assert [answer.label for answer in answers] == ["toxic", "not_toxic", "toxic"]
    for answer in answers:
        assert list(answer.scores) == ["not_toxic", "toxic"]
        assert sum(answer.scores.values()) == pytest.approx(1, abs=1e-6)


def scores(answers):
    return [list(answer.scores.values()) for answer in answers]


def test_float32_answers_as_the_checkpoint_does(served_model):
    expected = load_model(served_model, "pytorch").classify(TEXTS)
    assert torch.tensor(scores(load_model(served_model, "float32").classify(TEXTS))) == pytest.approx(
        torch.tensor(scores(expected)), abs=1e-5
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_answer_does_not_depend_on_the_texts_beside_it(served_model, backend):
    model = load_model(served_model, backend)
    alone = [model.classify([text])[0] for text in TEXTS]
    for one, other in zip(scores(model.classify(TEXTS)), scores(alone), strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_texts_are_padded_on_the_side_that_the_tokenizer_pads(tmp_path):
    special = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"]
    words = {f"▁{word}" for text in TEXTS for word in text.split()}
    tokenizer = XLNetTokenizer(vocab=[(piece, -1.0) for piece in [*special, "▁", *sorted(words)]])
    torch.manual_seed(0)
    config = XLNetConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        n_layer=2,
        n_head=2,
        d_inner=64,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,
    )
    tokenizer.save_pretrained(tmp_path)
    XLNetForSequenceClassification(config).save_pretrained(tmp_path)
    model = load_model(tmp_path, "pytorch")
    alone = torch.tensor([scores(model.classify([text]))[0] for text in TEXTS])
    torch.testing.assert_close(torch.tensor(scores(model.classify(TEXTS))), alone)
    assert (alone[0] - alone[1]).abs().max() > 0.01


@pytest.fixture
def words_tokenizer():
    """A tokenizer of whole words, as BERT's: it writes types of tokens."""
    words = sorted({word for text in TEXTS for word in text.lower().replace(",", "").replace("!", "").split()})
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    return BertTokenizer(vocab={name: i for i, name in enumerate(names)}, model_max_length=48)


def write_classifier(folder, model, tokenizer):
    """Writes a checkpoint with the float32 file of an export, as far as the app reads it."""
    export = folder / "export"
    (export / "onnx").mkdir(parents=True)
    model.save_pretrained(folder)
    export_float32(model, export / FLOAT32_FILE)
    for target in (folder, export):
        tokenizer.save_pretrained(target)
        model.config.save_pretrained(target)
    (export / "metrics.json").write_text(json.dumps({"max_length": 48}))
    return folder


@pytest.mark.parametrize(
    ("architecture", "backend"),
    [("fnet", "float32"), ("fnet", "pytorch"), ("convbert", "pytorch")],
)
def test_texts_of_a_model_that_computes_on_padding_are_not_padded(words_tokenizer, tmp_path, architecture, backend):
    model = load_model(write_classifier(tmp_path, tiny_classifier(architecture), words_tokenizer), backend)
    assert not model.runs_together
    alone = torch.tensor([scores(model.classify([text]))[0] for text in TEXTS])
    torch.testing.assert_close(torch.tensor(scores(model.classify(TEXTS))), alone)


def test_types_of_tokens_are_read_by_a_model_that_takes_them_for_words(words_tokenizer, tmp_path):
    gpt = tiny_classifier("gpt2")
    gpt.save_pretrained(tmp_path)
    words_tokenizer.save_pretrained(tmp_path)
    with torch.inference_mode():
        expected = gpt(**words_tokenizer(TEXTS[:1], return_tensors="pt")).logits.softmax(-1)
    answers = load_model(tmp_path, "pytorch").classify(TEXTS[:1])
    torch.testing.assert_close(torch.tensor(scores(answers)), expected)


@pytest.mark.parametrize("split", [False, True])
def test_special_tokens_in_a_text_are_read_as_its_tokenizer_reads_them(served_model, tmp_path, split):
    shutil.copytree(served_model, tmp_path, dirs_exist_ok=True)
    change_file(tmp_path / "tokenizer_config.json", {"split_special_tokens": split})
    text = "I hate [SEP] you [MASK]"
    inputs = AutoTokenizer.from_pretrained(tmp_path)(text, return_tensors="pt")
    with torch.inference_mode():
        expected = AutoModelForSequenceClassification.from_pretrained(tmp_path)(**inputs).logits.softmax(-1)
    answers = load_model(tmp_path, "pytorch").classify([text])
    torch.testing.assert_close(torch.tensor(scores(answers)), expected)


def test_text_beyond_the_models_length_is_left_out_and_said_to_be(served_model):
    model = load_model(served_model)
    words = "word " * (MAX_LENGTH - 2)
    exact, longer = model.classify([words, words + "idiot"])
    assert not exact.truncated
    assert longer.truncated
    assert longer.scores["toxic"] == pytest.approx(exact.scores["toxic"], abs=0.01)


def test_the_end_of_a_long_text_is_read_if_the_tokenizer_cuts_off_the_beginning(served_model, tmp_path):
    shutil.copytree(served_model / "export", tmp_path, dirs_exist_ok=True)
    change_file(tmp_path / "tokenizer_config.json", {"truncation_side": "left"})
    end = "word " * (MAX_LENGTH - 5) + "you are an idiot"[:-6]
    (longer, alone) = load_model(tmp_path).classify(["idiot " * 50 + end, end])
    assert longer.truncated
    assert longer.scores["toxic"] == pytest.approx(alone.scores["toxic"], abs=0.01)


@pytest.mark.parametrize(
    "text", ["", "\0", "🙂" * 300, "\u202eevil", "a\u0301" * 999, "مرحبا بالعالم", "\x07\x1b[31m"]
)
def test_odd_text_gets_an_answer(served_model, text):
    (answer,) = load_model(served_model).classify([text])
    assert sum(answer.scores.values()) == pytest.approx(1, abs=1e-6)


def test_the_export_alone_and_the_checkpoint_with_it_are_the_same_model(served_model):
    by_checkpoint, by_export = load_model(served_model), load_model(served_model / "export")
    assert (by_checkpoint.name, by_checkpoint.backend) == (by_export.name, by_export.backend) == ("small", "ONNX int8")
    assert by_checkpoint.classify(TEXTS) == by_export.classify(TEXTS)


def test_pickled_weights_are_not_loaded(served_model, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(served_model / name, tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="safetensors"):
        load_model(tmp_path, "pytorch")


def test_a_folder_without_an_export_says_how_to_make_one(served_model, tmp_path):
    shutil.copy(served_model / "model.safetensors", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no model_quantized\.onnx in .* `python run_export\.py"):
        load_model(tmp_path)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_adapter_that_is_not_merged_is_refused_with_what_to_do(served_model, tmp_path, backend):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(served_model / name, tmp_path)
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(ValueError, match="holds a LoRA adapter.*--merge_adapter.*`merged`.*run_export"):
        load_model(tmp_path, backend)


def test_an_export_beside_an_adapter_is_served(served_model, tmp_path):
    shutil.copytree(served_model / "export", tmp_path / "export")
    (tmp_path / "adapter_config.json").touch()
    assert load_model(tmp_path).backend == "ONNX int8"


def test_an_export_that_has_failed_is_not_served(served_model, tmp_path):
    shutil.copytree(served_model / "export", tmp_path, dirs_exist_ok=True)
    (tmp_path / "metrics.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no metrics\.json"):
        load_model(tmp_path)


@pytest.mark.parametrize("limit", [None, int(1e30)])
def test_a_tokenizer_without_a_limit_has_the_default_one(limit, served_model, tmp_path):
    shutil.copytree(served_model, tmp_path, dirs_exist_ok=True, ignore=lambda *_: ["export"])
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": limit}))
    assert load_model(tmp_path, "pytorch").max_length == DEFAULT_MAX_LENGTH


def test_a_model_whose_answers_are_no_numbers_is_not_served(served_model, tmp_path):
    shutil.copytree(served_model, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    weights["classifier.bias"][0] = torch.nan
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="answers are no numbers: its training has failed"):
        load_model(tmp_path, "pytorch")


def test_a_tokenizer_that_is_written_in_python_is_refused_as_that(served_model, tmp_path):
    shutil.copytree(served_model / "export", tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"Python alone.*no tokenizer\.json"):
        load_model(tmp_path)


def test_a_file_that_is_no_model_says_so(served_model, tmp_path):
    shutil.copytree(served_model / "export", tmp_path, dirs_exist_ok=True)
    (tmp_path / "onnx" / "model_quantized.onnx").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match=r"model_quantized\.onnx cannot be loaded"):
        load_model(tmp_path)


def test_a_damaged_tokenizer_is_named(served_model, tmp_path):
    shutil.copytree(served_model / "export", tmp_path, dirs_exist_ok=True)
    file = tmp_path / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"tokenizer\.json cannot be read"):
        load_model(tmp_path)


def test_two_classes_without_names_get_those_of_transformers(served_model, tmp_path):
    shutil.copytree(served_model / "export", tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["id2label"], config["label2id"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_model(tmp_path).labels == ("LABEL_0", "LABEL_1")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"problem_type": "regression", "id2label": {"0": "score"}}, "is for regression"),
        ("thresholds.json", {"thresholds": {"rude": 0.5}}, "thresholds.json.*'rude'.* not_toxic, toxic"),
        ("thresholds.json", {"thresholds": {"toxic": 50}}, "thresholds.json.* 50 for toxic"),
        ("thresholds.json", {"thresholds": {"toxic": "high"}}, "thresholds.json.* 'high' for toxic"),
        ("thresholds.json", {"toxic": 0.5}, 'thresholds.json.*{"thresholds": {"not_toxic": 0.5}}'),
        ("thresholds.json", [0.5, 0.5], "thresholds.json.*0.5, 0.5"),
        ("metrics.json", None, "metrics.json.*JSON"),
        ("metrics.json", {"text_columns": ["premise", "hypothesis"]}, "reads pairs"),
    ],
)
def test_models_of_another_kind_are_refused(served_model, tmp_path, file, change, message):
    shutil.copytree(served_model / "export", tmp_path, dirs_exist_ok=True)
    if file == "thresholds.json":
        change_file(tmp_path / "config.json", {"problem_type": "multi_label_classification"})
    change_file(tmp_path / file, change)
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path)


def change_file(file, change):
    """Changes entries of a JSON file, which may be missing, replaces its content by a list, or cuts it off."""
    content = json.loads(file.read_text()) if file.exists() else {}
    changed = content | change if isinstance(change, dict) else change
    file.write_text("{" if change is None else json.dumps(changed))


def test_a_model_with_several_labels_gives_each_the_sigmoid_of_its_logit(served_model, several_labels):
    one, several = load_model(served_model, "float32"), load_model(several_labels, "float32")
    for chosen, answer in zip(one.classify(TEXTS), several.classify(TEXTS), strict=True):
        logits = {label: math.log(score / (1 - score)) for label, score in answer.scores.items()}
        # The softmax of two logits is the sigmoid of their difference.
        difference = logits["toxic"] - logits["not_toxic"]
        assert 1 / (1 + math.exp(-difference)) == pytest.approx(chosen.scores["toxic"], abs=1e-6)


def test_a_model_with_one_label_says_whether_a_text_has_it(served_model, tmp_path):
    shutil.copytree(served_model, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "export")
    weights = load_file(tmp_path / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][1:].clone()
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    labels = {"id2label": {"0": "toxic"}, "label2id": {"toxic": 0}}
    change_file(tmp_path / "config.json", {"problem_type": "multi_label_classification", **labels})
    change_file(tmp_path / "thresholds.json", {"thresholds": {"toxic": 0.4}})
    toxic, friendly, _ = load_model(tmp_path, "pytorch").classify(TEXTS)
    assert (toxic.labels, toxic.label) == (["toxic"], "toxic")
    assert (friendly.labels, friendly.label) == ([], None)
    assert friendly.scores.keys() == {"toxic"}


def test_a_text_has_the_labels_whose_thresholds_it_reaches(several_labels):
    model = load_model(several_labels)
    assert model.thresholds == {"not_toxic": 0.9, "toxic": 0.5}  # the second one is not in the file
    answer = Answer({"not_toxic": 0.9, "toxic": 0.499}, False, model.thresholds)
    assert (answer.labels, answer.label, answer.most_probable) == (["not_toxic"], "not_toxic", "not_toxic")
    assert answer.with_thresholds({"toxic": 0.4}).labels == ["not_toxic", "toxic"]
    neither = answer.with_thresholds({"not_toxic": 0.95})
    assert (neither.labels, neither.label, neither.most_probable) == ([], None, "not_toxic")


def test_a_model_is_told_apart_by_version_and_fingerprint(served_model, several_labels):
    one, other = load_model(served_model), load_model(served_model, "float32")
    weights = (served_model / "export" / "onnx" / "model_quantized.onnx").read_bytes()
    assert one.identity == {"model": "small", "version": "1", "fingerprint": hashlib.sha256(weights).hexdigest()}
    assert other.fingerprint != one.fingerprint == load_model(several_labels).fingerprint


def test_an_export_of_the_first_version_is_read(served_model, tmp_path):
    export = tmp_path / "small" / "onnx"
    shutil.copytree(served_model / "export", export)
    for name, old_name in (("model.onnx", "model.onnx"), ("model_quantized.onnx", "model_int8.onnx")):
        (export / "onnx" / name).rename(export / old_name)
    for backend in ("int8", "float32"):
        old, new = load_model(tmp_path / "small", backend), load_model(served_model, backend)
        assert (old.name, old.classify(TEXTS)) == ("small", new.classify(TEXTS))
    # Beside a newer export, the one that is named is served.
    shutil.copytree(served_model / "export", tmp_path / "small" / "export")
    assert load_model(export).folder == export
    assert load_model(tmp_path / "small").folder == tmp_path / "small" / "export"


# ---- Which words count ----


def explained(text):
    """The explanation by a stand-in for which only "idiot" is toxic, and half as much if "not" comes with it."""

    async def classify(texts):
        toxic = [0.8 * ("idiot" in text) / (1 + ("not" in text)) + 0.1 for text in texts]
        return [Answer({"not_toxic": 1 - score, "toxic": score}, False) for score in toxic]

    return asyncio.run(explain(text, classify))


def test_the_effect_of_a_word_is_what_the_labels_log_odds_lose_without_it():
    answer, words, rest = explained("You\tabsolute idiot!  Bye")
    assert answer.label == "toxic"
    effect = math.log(0.9 / 0.1) - math.log(0.1 / 0.9)
    assert [(word.text, round(word.effect, 6)) for word in words] == [
        *(("You", 0), ("absolute", 0), ("idiot!", round(effect, 6)), ("Bye", 0))
    ]
    assert "".join(word.text + word.space for word in words) + rest == "You\tabsolute idiot!  Bye"


def test_a_word_that_speaks_against_the_label_has_a_negative_effect():
    answer, (idiot, negation), _ = explained("idiot not")  # 0.5 toxic, and not_toxic comes first
    assert answer.label == "not_toxic"
    assert idiot.effect == pytest.approx(0 - math.log(0.9 / 0.1))
    assert negation.effect == pytest.approx(0 - math.log(0.1 / 0.9))


def test_only_the_first_words_are_looked_at():
    text = "word " * (MAX_WORDS + 5) + "end"
    _, words, rest = explained(text)
    assert len(words) == MAX_WORDS
    assert rest == "word " * 5 + "end"
