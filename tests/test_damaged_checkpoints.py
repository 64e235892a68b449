"""Tests of the messages about checkpoints that cannot be loaded: each cause has its own."""

import json
import shutil

import pytest
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from layer_distillation.errors import UserError
from layer_distillation.pretrained import allow_remote_code, from_pretrained
from tests.test_teacher import save_checkpoint

CODE = """
from transformers import BertConfig, BertForSequenceClassification
class OwnConfig(BertConfig):
    model_type = "own_bert"
class OwnForSequenceClassification(BertForSequenceClassification):
    config_class = OwnConfig
"""
AUTO_MAP = {
    "AutoConfig": "own_modeling.OwnConfig",
    "AutoModelForSequenceClassification": "own_modeling.OwnForSequenceClassification",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "whole")


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "damaged")


def cut(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes()[:-9])


def set_config(folder, **entries):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | entries))


def bring_code(folder):
    (folder / "own_modeling.py").write_text(CODE)
    set_config(folder, model_type="own_bert", auto_map=AUTO_MAP)


@pytest.mark.parametrize(
    ("auto_class", "damage", "parts"),
    [
        (AutoConfig, lambda f: (f / "config.json").unlink(), ("no config.json",)),
        (AutoConfig, lambda f: cut(f, "config.json"), ("config.json is truncated",)),
        (
            AutoModelForSequenceClassification,
            lambda f: cut(f, "model.safetensors"),
            ("model.safetensors is truncated",),
        ),
        (
            AutoModelForSequenceClassification,
            lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
            ("model.safetensors", "git lfs pull"),
        ),
        (
            AutoModelForSequenceClassification,
            lambda f: (f / "model.safetensors").rename(f / "other.safetensors"),
            ("no file named model.safetensors",),
        ),
        (AutoTokenizer, lambda f: cut(f, "tokenizer.json"), ("tokenizer.json is truncated",)),
        (AutoTokenizer, lambda f: (f / "tokenizer.json").unlink(), ("no tokenizer.json", "--tokenizer_name")),
        (AutoConfig, lambda f: set_config(f, model_type="flubber"), ("model type", "Update transformers")),
        (AutoModelForSequenceClassification, lambda f: set_config(f, model_type="vit"), ("no text classifier",)),
        (AutoConfig, bring_code, ("--trust_remote_code",)),
    ],
)
def test_each_cause_has_its_own_message(auto_class, damage, parts, folder):
    damage(folder)
    with pytest.raises(UserError) as error:
        from_pretrained(auto_class, str(folder), None)
    assert [part for part in (str(folder), *parts) if part not in str(error.value)] == [], str(error.value)


def test_code_of_a_checkpoint_runs_only_where_it_is_allowed(folder):
    bring_code(folder)
    allow_remote_code(True)
    try:
        model = from_pretrained(AutoModelForSequenceClassification, str(folder), None)
    finally:
        allow_remote_code(False)
    assert type(model).__name__ == "OwnForSequenceClassification"
    with pytest.raises(UserError, match="--trust_remote_code"):
        from_pretrained(AutoModelForSequenceClassification, str(folder), None)
