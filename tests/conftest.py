import gc
import json
import os
import shutil

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import pytest
import torch
from filelock import FileLock
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from layer_distillation.pretrained import PACKAGED_TEACHER, resolve_checkpoint
from tests.script_runs import MNLI, sentences, write_csv
from tests.small_disks import mounted


@pytest.fixture(scope="session", autouse=True)
def imports_outside_garbage_collection():
    """Every training collects garbage. Visiting all modules takes far longer than the steps of a tiny model."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny models are up to a hundred times slower with several threads that wait for each other."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session")
def datasets_cache(tmp_path_factory):
    """A cache of the tests' own, in which the real data sets are found by links."""
    cache = tmp_path_factory.mktemp("datasets_cache")
    if MNLI.is_dir():
        (cache / "nyu-mll___glue").symlink_to(MNLI.parent)
    return cache


@pytest.fixture(scope="module")
def script_caches(datasets_cache):
    """The cache of the tests for scripts, in this process and in others; one thread for the others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", datasets_cache)
        patch.setattr(datasets.config, "DEFAULT_HF_CACHE_HOME", str(datasets_cache))
        patch.setenv("HF_DATASETS_CACHE", str(datasets_cache))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def make_teacher(tmp_path_factory):
    """Saves a tiny classifier with random weights and the real tokenizer of BERT, and returns the folder."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_checkpoint(PACKAGED_TEACHER))

    def make(names, dropout=0.1, encoder_only=False):
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=128,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            initializer_range=0.2,
            num_labels=len(names),
        )
        config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = BertForSequenceClassification(config)
        folder = tmp_path_factory.mktemp("teacher")
        (model.bert if encoder_only else model).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(scope="session")
def teacher(make_teacher):
    return make_teacher(["bad", "good"])


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """`--train_file ... --validation_file ... --test_file ...`"""
    folder = tmp_path_factory.mktemp("data")
    arguments = []
    for split, number, start in (("train", 40, 0), ("validation", 18, 40), ("test", 13, 60)):
        arguments += [f"--{split}_file", write_csv(folder / f"{split}.csv", sentences(number, start))]
    return arguments


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 MB. A run of a tiny teacher takes about 12 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with mounted(folder, megabytes=64):
        yield folder


@pytest.fixture(scope="session")
def served_model(tmp_path_factory, worker_id):
    """The folder `small` with a checkpoint and its export, that know a little about toxic comments."""
    # Not every test run needs what it imports.
    from tests.served_model import make_served_model

    folder = tmp_path_factory.getbasetemp()
    # Made once for all workers of pytest-xdist.
    folder = (folder if worker_id == "master" else folder.parent) / "served" / "small"
    with FileLock(folder.parent.with_suffix(".lock")):
        if not folder.exists():
            folder.mkdir(parents=True)
            make_served_model(folder)
    return folder


@pytest.fixture(scope="session")
def several_labels(served_model, tmp_path_factory):
    """The export of `small` as if each of its labels were judged by itself, with a threshold for one of them."""
    folder = tmp_path_factory.mktemp("served") / "several"
    shutil.copytree(served_model / "export", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"problem_type": "multi_label_classification"}))
    curve = {
        "threshold": [0.0, 0.5, 0.9],
        "precision": [0.5, 0.75, 1.0],
        "recall": [1.0, 0.8, 0.4],
        "flagged": [1, 0.6, 0.2],
    }
    chosen = {"rule": "f1", "split": "validation", "thresholds": {"not_toxic": 0.9}, "curves": {"not_toxic": curve}}
    (folder / "thresholds.json").write_text(json.dumps(chosen))
    return folder


@pytest.fixture(scope="session")
def app(served_model, tmp_path_factory):
    """The app with two models, `small` and its copy `other`, as a process whose connections are watched."""
    from tests.running_app import WATCHED_APP, running_app

    other = tmp_path_factory.mktemp("served") / "other"
    shutil.copytree(served_model / "export", other)
    command = [WATCHED_APP, "--model_dir", served_model, "--model_dir", other]
    with running_app(tmp_path_factory.mktemp("app"), command) as app:
        yield app
