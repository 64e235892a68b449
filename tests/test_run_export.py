"""Tests of the export: every architecture answers as in PyTorch, and what does not is refused."""

import copy
import csv
import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
from collections import defaultdict
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from accelerate import init_empty_weights
from datasets import Dataset
from onnx import TensorProto, helper
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertPreTrainedModel,
    default_data_collator,
)
from transformers.modeling_outputs import SequenceClassifierOutput

import run_export
from app.models import load_model
from experiments.tiny_classifiers import tiny_classifier
from export import checked_export
from export.arguments import UNFINISHED_FOLDER, ExportArguments
from export.checked_export import export_checked_float32, quantize_checked
from export.float32 import check_size, export_float32
from export.gate import Gate
from export.int8 import _quantizable, processor_name, quantize, quantize_accurately, this_processor
from export.parity import INT8_BATCH_SIZE, CheckData, compute_onnx_logits
from layer_distillation.errors import UserError
from layer_distillation.model_outputs import compute_logits, with_own_modules
from layer_distillation.pretrained import PACKAGED_TEACHER, resolve_checkpoint
from layer_distillation.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from layer_distillation.record import DataRecord, RunRecord
from run_export import find_record, main, resolve_data
from tests.script_runs import tree
from tests.small_disks import fill
from tests.tiny_models import TINY_CLASSIFIERS, VOCAB_SIZE
from tests.workers.train_worker import pad
from text_data.arguments import DataArguments
from training.output_folder import FolderInUseError, claimed_folder

WORDS = [
    "you",
    "are",
    "lovely",
    "stupid",
    "today",
    "my",
    "friend",
    "never",
    "thank",
    "hate",
    "this",
    "game",
    "so",
    "a",
]


def open_session(file):
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def answers(file, batch):
    """What an ONNX file answers to a batch of tensors."""
    session = open_session(file)
    return session.run(["logits"], {node.name: batch[node.name].numpy() for node in session.get_inputs()})[0]


def pytorch_answers(model, batch):
    with torch.no_grad():
        return model(**batch).logits.numpy()


def batch_for(model, names, num_texts, length):
    """A batch of random ids, the last text of which is padded to half its length."""
    generator = torch.Generator().manual_seed(num_texts * length)
    ids = torch.randint(5, VOCAB_SIZE, (num_texts, length), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if num_texts > 1:
        batch["attention_mask"][-1, length // 2 :] = 0
        batch["input_ids"][-1, length // 2 :] = model.config.pad_token_id or 0
    batch["token_type_ids"] = torch.randint(0, 2, (num_texts, length), generator=generator)
    return {name: batch[name] for name in names}


# ---- Graphs of every architecture ----


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A function that returns a tiny model of an architecture and its float32 file, exported once."""
    exports = {}

    def export(architecture):
        if architecture not in exports:
            model = TINY_CLASSIFIERS[architecture](2, 3)
            file = tmp_path_factory.mktemp(architecture) / "model.onnx"
            export_float32(model, file)
            exports[architecture] = model, file
        return exports[architecture]

    return export


@pytest.mark.parametrize("architecture", TINY_CLASSIFIERS)
def test_every_architecture_answers_as_in_pytorch_for_any_batch_and_length(architecture, exported, tmp_path):
    model, float32_file = exported(architecture)
    quantize(float32_file, tmp_path / "model_int8.onnx")
    float32, int8 = open_session(float32_file), open_session(tmp_path / "model_int8.onnx")
    reads_types = architecture in ("bert", "electra")  # the others have one type of token, or no such input
    names = [node.name for node in float32.get_inputs()]
    assert names == ["input_ids", "attention_mask"] + ["token_type_ids"] * reads_types
    for shape in ((1, 2), (1, 9), (2, 9), (3, 31), (5, 60)):
        batch = batch_for(model, names, *shape)
        expected = pytorch_answers(model, batch)
        arrays = {name: tensor.numpy() for name, tensor in batch.items()}
        np.testing.assert_allclose(float32.run(["logits"], arrays)[0], expected, atol=1e-4, rtol=0)
        # Weights drawn this wide are hard to quantize: a scale in the wrong place would be off by far more.
        np.testing.assert_allclose(int8.run(["logits"], arrays)[0], expected, atol=0.35 * np.abs(expected).max())


def products_after_choosing_a_token(file):
    """How many products with weights come after the head's choice of a token, in order of the graph."""
    graph = onnx.load(file).graph
    weights = {tensor.name for tensor in graph.initializer}
    chosen, count = set(), 0
    for node in graph.node:
        chooses = node.op_type == "Gather" and any(a.name == "axis" and a.i == 1 for a in node.attribute)
        if chooses or chosen & set(node.input):
            chosen.update(node.output)
            count += node.op_type in ("MatMul", "Gemm") and bool(weights & set(node.input))
    return count


@pytest.mark.parametrize("architecture", TINY_CLASSIFIERS)
def test_what_follows_the_last_attention_is_computed_for_the_token_that_the_head_reads(architecture, exported):
    # The head's one or two, and of the last layer the attention's output and the feed-forward part's two. ModernBERT
    # splits the first product of its feed-forward part in two, so that only the second product moves.
    _, file = exported(architecture)
    assert products_after_choosing_a_token(file) == (3 if architecture == "modernbert" else 5)


def test_a_head_that_reads_all_tokens_gets_them(tmp_path):
    model = TINY_CLASSIFIERS["modernbert"](2, 3)
    model.config.classifier_pooling = "mean"
    export_float32(model, tmp_path / "model.onnx")
    assert products_after_choosing_a_token(tmp_path / "model.onnx") == 0
    batch = batch_for(model, ("input_ids", "attention_mask"), 3, 31)
    np.testing.assert_allclose(answers(tmp_path / "model.onnx", batch), pytorch_answers(model, batch), atol=1e-4)


def test_a_model_that_reads_no_attention_mask_answers_as_in_pytorch(tmp_path):
    model = tiny_classifier("fnet", vocab_size=VOCAB_SIZE)
    export_float32(model, tmp_path / "model.onnx")
    batch = batch_for(model, ("input_ids", "token_type_ids"), 3, 31)
    np.testing.assert_allclose(answers(tmp_path / "model.onnx", batch), pytorch_answers(model, batch), atol=1e-4)


# ---- Processors ----


@pytest.mark.parametrize("processor, stored_as", [("avx2", np.uint8), ("vnni", np.int8), ("arm", np.int8)])
def test_weights_are_stored_so_that_their_products_do_not_saturate_on_the_processor(
    processor, stored_as, exported, tmp_path
):
    # On a processor with VNNI nothing saturates, so that the answers cannot show what the graph does.
    model, float32_file = exported("bert")
    int8_file = tmp_path / "model_int8.onnx"
    quantize(float32_file, int8_file, processor=processor)
    graph = onnx.load(int8_file).graph
    multiplied = {name for node in graph.node if node.op_type == "MatMulInteger" for name in node.input}
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in multiplied]
    assert {matrix.dtype.type for matrix in weights if matrix.ndim == 2} == {stored_as}
    if processor in ("avx2", this_processor()):  # unsigned weights are right everywhere
        batch = batch_for(model, ("input_ids", "attention_mask", "token_type_ids"), 3, 31)
        expected = pytorch_answers(model, batch)
        np.testing.assert_allclose(answers(int8_file, batch), expected, atol=0.35 * np.abs(expected).max())


@pytest.mark.parametrize(
    "machine, capabilities, kind",
    [
        ("x86_64", {"avx2": True}, "avx2"),
        ("AMD64", {"avx2": True, "avx512_f": True, "avx512_vnni": False}, "avx2"),
        ("x86_64", {"avx2": True, "avx_vnni": True}, "vnni"),
        ("x86_64", {"avx512_vnni": True}, "vnni"),
        ("aarch64", {}, "arm"),
        ("arm64", {}, "arm"),
    ],
)
def test_the_kind_of_the_processor(machine, capabilities, kind, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert this_processor() == kind
    assert ExportArguments(model_name_or_path="user/model").int8_processor == kind


# ---- Which operators stay in float32 ----


def write_graph(file, num_layers, wide_layer=None):
    """Embeddings, layers of one product each, and the mean over the tokens as two logits.

    Args:
        wide_layer: name of a product, which reads an activation so large that its neighbors drown in a common scale.
    """
    draws = np.random.default_rng(0)
    weights = {"embeddings": draws.normal(size=(VOCAB_SIZE, 16))}
    nodes = [helper.make_node("Gather", ["embeddings", "input_ids"], ["hidden_0"], name="embed")]
    for layer in range(num_layers):
        name, width = f"layer_{layer}", 2 if layer == num_layers - 1 else 16
        weights[name], weights[f"{name}_bias"] = draws.normal(size=(16, width)) / 4, np.zeros(16)
        if name == wide_layer:
            weights[f"{name}_bias"][0] = 500
            weights[name][0] *= 0.001
        nodes += [
            helper.make_node("Add", [f"hidden_{layer}", f"{name}_bias"], [f"{name}_input"]),
            helper.make_node("MatMul", [f"{name}_input", name], [f"hidden_{layer + 1}"], name=name),
        ]
    nodes.append(helper.make_node("ReduceMean", [f"hidden_{num_layers}", "tokens"], ["logits"], keepdims=0))
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [
            onnx.numpy_helper.from_array(np.array([1]), "tokens"),
            *(onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)


def random_ids(num_examples, length=12):
    ids = np.random.default_rng(1).integers(5, VOCAB_SIZE, (num_examples, length))
    return Dataset.from_dict({"input_ids": ids})


def test_the_operators_that_disturb_most_stay_in_float32(tmp_path):
    float32, int8 = tmp_path / "model.onnx", tmp_path / "model_int8.onnx"
    write_graph(float32, num_layers=4, wide_layer="layer_2")
    sample_logits = partial(compute_onnx_logits, dataset=random_ids(24), collator=default_data_collator)
    expected, differences = sample_logits(float32), []

    def is_accurate():
        differences.append(np.abs(sample_logits(int8, batch_size=INT8_BATCH_SIZE) - expected).mean())
        return differences[-1] < 0.5 * differences[0]

    assert quantize_accurately(float32, int8, sample_logits, is_accurate) == ["layer_2"]
    assert len(differences) == 2
    (product,) = (node for node in onnx.load(int8).graph.node if node.name == "layer_2")
    assert product.op_type == "MatMul"


def test_quantizing_gives_up_when_half_of_the_operators_do_not_help(tmp_path, monkeypatch):
    write_graph(tmp_path / "model.onnx", num_layers=10)
    sample_logits = partial(compute_onnx_logits, dataset=random_ids(2), collator=default_data_collator)
    numbers, attempts = [], []

    def quantize_and_count(*files, in_float32=(), **options):
        numbers.append(len(in_float32))
        quantize(*files, in_float32=in_float32, **options)

    monkeypatch.setattr("export.int8.quantize", quantize_and_count)
    files = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    assert quantize_accurately(*files, sample_logits, lambda: attempts.append(numbers[-1])) is None
    assert attempts == [0, 1, 2, 4, 5]  # of 11 operators in float32


def test_an_operator_that_gives_nan_alone_is_the_worst(tmp_path):
    write_graph(tmp_path / "model.onnx", num_layers=4)
    changes = iter([0.0, 0.1, 0.5, np.nan, 0.9, 0.2])  # before, and with each operator alone
    is_good = iter([False, True])
    worst = quantize_accurately(
        *(tmp_path / "model.onnx", tmp_path / "int8.onnx"),
        lambda *_, **__: np.full((1, 2), next(changes)),
        lambda: next(is_good),
    )
    assert worst == [_quantizable(tmp_path / "model.onnx")[2]]


def check_data(dataset, compute_metrics, problem_type=SINGLE_LABEL, max_length=8):
    splits = {"validation": dataset}
    return CheckData(splits, default_data_collator, compute_metrics, problem_type, ("a", "b"), max_length)


def test_a_model_that_computes_long_texts_in_another_way_is_refused_if_texts_may_be_long(tmp_path):
    model = tiny_classifier("big_bird")
    ids = [[token % model.config.vocab_size for token in row] for row in random_ids(4)["input_ids"]]
    splits = {"validation": Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * 12] * 4})}
    switches_at = (5 + 2 * model.config.num_random_blocks) * model.config.block_size
    data = CheckData(splits, pad, None, SINGLE_LABEL, ("a", "b"), max_length=switches_at + 8)
    with pytest.raises(UserError, match=f"text of {data.max_length} tokens.*--max_seq_length"):
        export_checked_float32(model, tmp_path / "model.onnx", data)


def test_a_model_whose_logits_are_no_numbers_is_refused_as_that(tmp_path):
    model = tiny_classifier("bert")
    torch.nn.init.constant_(model.classifier.bias, torch.nan)
    dataset = Dataset.from_dict({"input_ids": [[5, 6, 7]], "attention_mask": [[1, 1, 1]]})
    with pytest.raises(UserError, match="checkpoint's own logits are NaN.*training has failed"):
        export_checked_float32(model.eval(), tmp_path / "model.onnx", check_data(dataset, None))


class ComplexClassifier(BertPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, 4)

    def forward(self, input_ids):
        numbers = torch.view_as_complex(self.embedding(input_ids).unflatten(-1, (2, 2)))
        return SequenceClassifierOutput(logits=numbers.unsqueeze(1).abs().flatten(1).sum(dim=1, keepdim=True))


def test_a_model_that_onnx_cannot_hold_is_refused_with_the_reason(tmp_path):
    with pytest.raises(UserError, match="ComplexClassifier.*complex numbers"):
        export_float32(ComplexClassifier(BertConfig()), tmp_path / "model.onnx")


def test_a_model_too_large_for_a_file_is_refused_with_its_size():
    for vocab_size, is_refused in ((2**20, True), (2**20 - 2**11, False)):
        config = BertConfig(vocab_size=vocab_size, hidden_size=512, num_hidden_layers=0, num_attention_heads=8)
        with init_empty_weights():
            model = BertForSequenceClassification(config)
        with pytest.raises(UserError, match="2.15 GB") if is_refused else nullcontext():
            check_size(model)


def test_a_copy_with_modules_of_its_own_shares_the_weights():
    model = TINY_CLASSIFIERS["bert"](1, 2)
    copied = with_own_modules(model)
    assert not set(copied.modules()) & set(model.modules())
    for name, parameter in copied.named_parameters():
        assert parameter is model.get_parameter(name)


def test_int8_that_costs_too_much_is_an_error_with_the_numbers(tmp_path):
    write_graph(tmp_path / "model.onnx", num_layers=2)
    scores = iter([0.8, 0.75, 0.78])  # float32; int8; int8 with one of three operators in float32
    data = check_data(random_ids(100).add_column("labels", [0] * 100), lambda prediction: {"accuracy": next(scores)})
    with pytest.raises(UserError) as error:
        quantize_checked(tmp_path / "model.onnx", tmp_path / "int8.onnx", data, "avx2")
    for part in ("99%", "0.8000", "0.7500", "0.7800", "--int8_processor avx2", this_processor()):
        assert part in str(error.value)


def test_int8_without_a_correlation_to_keep_is_an_error_that_names_the_option(tmp_path):
    write_graph(tmp_path / "model.onnx", num_layers=2)
    data = check_data(random_ids(4).add_column("labels", [0.5] * 4), lambda prediction: {"mse": 0.0}, REGRESSION)
    with pytest.raises(UserError, match="pearson .* 4 scores .* --validation_file"):
        quantize_checked(tmp_path / "model.onnx", tmp_path / "int8.onnx", data, "avx2")


# ---- The script ----


def random_texts(seed, count):
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, size=generator.integers(3, 12))) for _ in range(count)]


@pytest.fixture(scope="module")
def adapted():
    """A tiny classifier with a LoRA adapter whose weights matter."""
    config = BertConfig(
        vocab_size=30_522,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        initializer_range=0.3,
        id2label={0: "good", 1: "bad"},
        label2id={"good": 0, "bad": 1},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        base = BertForSequenceClassification(config)
        return get_peft_model(base, LoraConfig(task_type="SEQ_CLS", r=4, init_lora_weights=False)).eval()


@pytest.fixture(scope="module")
def checkpoint(adapted, tmp_path_factory):
    """The merged model, its tokenizer, and data files with its own answers as labels: it is right every time."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = AutoTokenizer.from_pretrained(resolve_checkpoint(PACKAGED_TEACHER))
    for seed, split in enumerate(("train", "validation", "test")):
        texts = random_texts(seed, 600)
        logits = pytorch_answers(adapted, tokenizer(texts, padding=True, return_tensors="pt"))
        margins = logits[:, 1] - logits[:, 0]
        if split == "train":  # as many of one label as of the other
            middle = float(np.median(margins))
            adapted.base_model.model.classifier.modules_to_save["default"].bias.data[1] -= middle
            margins = margins - middle
        sure = np.argsort(-np.abs(margins))[:60]
        with open(folder / f"{split}.csv", "w", newline="") as file:
            rows = [(texts[i], "bad" if margins[i] > 0 else "good") for i in sure]
            csv.writer(file).writerows([("text", "label"), *rows])
    copy.deepcopy(adapted).merge_and_unload().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def arguments(checkpoint, *further):
    data = [f"--{split}_file={checkpoint / split}.csv" for split in ("train", "validation", "test")]
    return [f"--model_name_or_path={checkpoint}", "--label_order=good,bad", *data, *further]


@pytest.fixture(scope="module")
def batch_sizes():
    """The sizes of the batches that the script has run, by the name of the ONNX file."""
    return defaultdict(set)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("export") / "new"


@pytest.fixture(scope="module")
def report(checkpoint, folder, batch_sizes):
    """What the script returns for the checkpoint, exported into the folder for another kind of processor."""

    class Session(onnxruntime.InferenceSession):
        def __init__(self, file, **kwargs):
            super().__init__(file, **kwargs)
            self.file = Path(file)

        def run(self, outputs, inputs):
            batch_sizes[self.file.name].add(len(inputs["input_ids"]))
            return super().run(outputs, inputs)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
        return main(arguments(checkpoint, f"--output_dir={folder}", "--max_seq_length=24", "--int8_processor=avx2"))


def test_the_folder_has_all_that_is_needed_to_serve_the_model(report, folder):
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
        ".run.lock",  # empty; keeps a second export out
        "config.json",
        "metrics.json",
        "onnx/model.onnx",
        "onnx/model_quantized.onnx",
        "thresholds.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "good", "1": "bad"}
    assert config["problem_type"] == SINGLE_LABEL  # by which other programs choose softmax or sigmoid


def test_the_tokenizer_is_saved_with_its_limit_and_without_padding_or_truncation(report, folder):
    assert AutoTokenizer.from_pretrained(folder).model_max_length == 24
    saved = json.loads((folder / "tokenizer.json").read_text())
    assert (saved["padding"], saved["truncation"]) == (None, None)


def test_the_files_are_of_a_version_that_old_runtimes_read_and_say_nothing_of_this_machine(report, folder):
    for name in ("model.onnx", "model_quantized.onnx"):
        model = onnx.load(folder / "onnx" / name)
        assert model.ir_version == 9
        assert [(opset.domain, opset.version <= 20) for opset in model.opset_import] == [("", True)]
        content = (folder / "onnx" / name).read_bytes()
        for trace in (str(Path(__file__).parent.parent), "site-packages", ".py"):
            assert trace.encode() not in content


def test_the_report_tells_what_was_measured_and_is_in_the_folder(report, folder):
    assert report == json.loads((folder / "metrics.json").read_text())
    assert report["labels"] == ["good", "bad"]
    assert report["max_length"] == 24
    assert report["layers"] == 2
    assert 0 < report["max_logit_difference"] <= 1e-4
    for kind, file in (("float32", "onnx/model.onnx"), ("int8", "onnx/model_quantized.onnx")):
        assert report[kind]["megabytes"] == (folder / file).stat().st_size / 1e6
        assert report[kind].keys() == {"megabytes", "validation", "test"}
    assert report["float32"]["validation"]["accuracy"] == 1  # the labels are its own answers
    assert report["int8"]["validation"]["accuracy"] >= 0.99


def test_an_export_for_another_processor_says_for_which_and_where_it_was_checked(report, folder):
    assert (report["int8_processor"], report["int8_checked_on"]) == ("avx2", this_processor())
    assert "--int8_processor=avx2" in report["command"]
    assert report["int8_checked_on_processor"] == processor_name()
    initializers = onnx.load(folder / "onnx" / "model_quantized.onnx").graph.initializer
    assert TensorProto.INT8 not in {tensor.data_type for tensor in initializers}  # signed


def test_int8_is_scored_as_it_is_served_a_text_at_a_time(report, batch_sizes):
    assert batch_sizes["model_quantized.onnx"] == {1}
    assert 8 in batch_sizes["model.onnx"]  # alone there is the longest text


def test_the_int8_weights_take_about_a_quarter_of_the_space(report, folder):
    files = folder / "onnx" / "model_quantized.onnx", folder / "onnx" / "model.onnx"
    assert files[0].stat().st_size < 0.3 * files[1].stat().st_size


def test_the_export_of_merged_lora_weights_answers_as_the_adapted_model(report, folder, adapted):
    batch = AutoTokenizer.from_pretrained(folder)(random_texts(9, 4), padding=True, return_tensors="pt")
    expected = pytorch_answers(adapted, batch)
    with adapted.disable_adapter():
        assert np.abs(pytorch_answers(adapted, batch) - expected).max() > 0.01
    np.testing.assert_allclose(answers(folder / "onnx" / "model.onnx", batch), expected, atol=1e-4)


def test_a_model_with_several_labels_is_served_with_the_thresholds_of_its_export(checkpoint, tmp_path):
    several = tmp_path / "several"
    trained = AutoModelForSequenceClassification.from_pretrained(checkpoint, problem_type=MULTI_LABEL).eval()
    with torch.no_grad():  # each label by itself is as sure as the choice between the two
        for weights in (trained.classifier.weight, trained.classifier.bias):
            half = (weights[1] - weights[0]) / 2
            weights.copy_(torch.stack([-half, half]))
    trained.save_pretrained(several)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.save_pretrained(several)
    for split in ("train", "validation"):
        with open(checkpoint / f"{split}.csv", newline="") as file:
            rows = [{"text": row["text"], "labels": [row["label"]]} for row in csv.DictReader(file)]
        (several / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = [f"--{split}_file={several / split}.jsonl" for split in ("train", "validation")]
    # Every row has one label, so that the data alone do not say that there may be several.
    report = main(
        [f"--model_name_or_path={several}", "--label_order=good,bad", f"--problem_type={MULTI_LABEL}", *data]
    )
    assert (report["problem_type"], report["labels"]) == (MULTI_LABEL, ["good", "bad"])
    assert report["int8_beside_float32"]["agreement"].keys() == {"good", "bad"}

    model = load_model(several, "float32")
    assert model.thresholds == json.loads((several / "export" / "thresholds.json").read_text())["thresholds"]
    texts = [row["text"] for row in rows]
    logits = pytorch_answers(trained, tokenizer(texts, padding=True, return_tensors="pt"))
    found = model.classify(texts)
    scores = [list(answer.scores.values()) for answer in found]
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), atol=1e-5)
    assert [answer.labels for answer in found] == [row["labels"] for row in rows]


def test_a_graph_that_answers_otherwise_is_an_error_with_the_numbers_and_has_no_metrics(
    report, folder, checkpoint, tmp_path, monkeypatch
):
    exported = (folder / "onnx" / "model.onnx").read_bytes()
    monkeypatch.setattr(checked_export, "export_float32", lambda model, file: file.write_bytes(exported))
    monkeypatch.setattr(checked_export, "compute_logits", lambda *args: compute_logits(*args) + 0.01)
    with pytest.raises(UserError, match=r"0\.000\d+, .* 0\.010"):
        main(arguments(checkpoint, f"--output_dir={tmp_path}"))
    assert (tmp_path / UNFINISHED_FOLDER / "onnx" / "model.onnx").read_bytes() == exported
    assert not (tmp_path / "onnx").exists()


def test_an_export_is_replaced_only_by_a_finished_one_and_a_failed_one_is_made_again(
    report, checkpoint, tmp_path, monkeypatch
):
    old = ("onnx/model.onnx", "onnx/model_quantized.onnx", "metrics.json", "thresholds.json", "attributes.json")
    (tmp_path / "earlier" / "onnx").mkdir(parents=True)
    for name in old:
        (tmp_path / "earlier" / name).write_text("old")
    before = tree(tmp_path)
    measured = {name: report[name] for name in ("float32", "int8")}

    def disk_is_full(model, folder, data, processor):
        (folder / "onnx").mkdir()
        (folder / "onnx" / "model.onnx").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    def export(model, folder, data, processor):
        (folder / "onnx").mkdir()  # which holds nothing of the failed export
        (folder / "onnx" / "model.onnx").write_text("new")
        return measured

    commands = {
        folder: arguments(checkpoint, f"--output_dir={folder}", *further)
        for folder, further in ((tmp_path / "earlier", ["--overwrite_output_dir"]), (tmp_path / "new", []))
    }
    monkeypatch.setattr(run_export, "export_checked", disk_is_full)
    for words in commands.values():
        with pytest.raises(OSError, match="No space"):
            main(words)
    assert before.items() <= tree(tmp_path).items()
    (tmp_path / "new" / "config.json").write_text("in its place when the process was killed")
    monkeypatch.setattr(run_export, "export_checked", export)
    for folder, words in commands.items():
        main(words)
        assert (folder / "onnx" / "model.onnx").read_text() == "new"
        assert measured.items() <= json.loads((folder / "metrics.json").read_text()).items()
        assert json.loads((folder / "thresholds.json").read_text())["split"] == "validation"
        assert not (folder / "attributes.json").exists() and not (folder / UNFINISHED_FOLDER).exists()


def export_and_be_killed(words, name):
    def killed(model, folder, data, processor):
        (folder / "onnx").mkdir()
        (folder / name).write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)

    run_export.export_checked = killed
    main(words)


def test_a_killed_export_and_a_full_disk_leave_the_one_before_and_a_second_one_is_refused(
    report, folder, checkpoint, small_disk
):
    target = shutil.copytree(folder, small_disk / "export")
    before, words = tree(target), arguments(checkpoint, f"--output_dir={target}", "--overwrite_output_dir")
    run = multiprocessing.get_context("fork").Process(target=export_and_be_killed, args=(words, "onnx/model.onnx"))
    run.start()
    run.join(60)
    assert run.exitcode == -signal.SIGKILL and (target / UNFINISHED_FOLDER / "onnx" / "model.onnx").is_file()
    assert before.items() <= tree(target).items()
    fill(small_disk, megabytes_left=1)
    with pytest.raises(OSError, match="No space"):
        main(words)
    assert before.items() <= tree(target).items()
    with claimed_folder(target), pytest.raises(FolderInUseError, match=f"--output_dir {target}"):
        main(words)
    assert before.items() <= tree(target).items()


def test_an_export_that_another_process_has_finished_meanwhile_is_kept(
    report, folder, checkpoint, tmp_path, monkeypatch
):
    @contextmanager
    def claimed_after_another(target):
        shutil.copytree(folder, target)
        with claimed_folder(target):
            yield

    monkeypatch.setattr(run_export, "claimed_folder", claimed_after_another)
    with pytest.raises(UserError, match="--overwrite_output_dir"):
        main(arguments(checkpoint, f"--output_dir={tmp_path / 'export'}"))
    assert [*tree(tmp_path / "export").values()] == [*tree(folder).values()]


def test_a_head_that_was_never_trained_is_refused(checkpoint, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    model.bert.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="--model_name_or_path .* not trained"):
        main(arguments(checkpoint, f"--model_name_or_path={tmp_path}"))
    assert not (tmp_path / "export").exists()


# ---- Arguments ----


def test_an_adapter_that_is_not_merged_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(UserError, match="--merge_adapter"):
        ExportArguments(model_name_or_path=str(tmp_path))


def test_a_folder_that_is_no_export_is_left_alone(checkpoint):
    before = {path: path.read_bytes() for path in checkpoint.iterdir()}
    with pytest.raises(UserError, match="--output_dir"):
        ExportArguments(model_name_or_path=str(checkpoint), output_dir=str(checkpoint))
    assert before == {path: path.read_bytes() for path in checkpoint.iterdir()}


def test_a_finished_export_is_kept_unless_it_may_be_overwritten(tmp_path):
    (tmp_path / "onnx").mkdir()
    for name in ("onnx/model.onnx", "metrics.json"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="--overwrite_output_dir"):
        ExportArguments(model_name_or_path="a-model", output_dir=str(tmp_path))
    ExportArguments(model_name_or_path="a-model", output_dir=str(tmp_path), overwrite_output_dir=True)


def test_a_file_is_no_folder_to_export_to(tmp_path):
    (tmp_path / "export").touch()
    with pytest.raises(UserError, match="--output_dir"):
        ExportArguments(model_name_or_path=str(tmp_path))


def test_a_read_only_folder_is_refused_before_the_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=f"--output_dir {tmp_path / 'new'} .*read-only"):
        ExportArguments(model_name_or_path="a-model", output_dir=str(tmp_path / "new"))


def test_the_export_goes_into_the_models_folder_by_default(tmp_path):
    assert ExportArguments(model_name_or_path=str(tmp_path)).output_dir == str(tmp_path / "export")


def test_the_export_of_a_model_from_the_hub_leaves_no_folder_of_its_name():
    assert ExportArguments(model_name_or_path="user/model").output_dir == os.path.join("outputs", "model", "export")


def run_record(settings=None, split_seed=None):
    data = DataRecord(source="some data", labels=("good", "bad"), fingerprints={}, split_seed=split_seed)
    return RunRecord(name="run", command="", settings=settings or {}, data=data, seed=3, libraries={})


def test_the_data_are_those_of_the_run_that_made_the_model(tmp_path):
    settings = {"task_name": "sst2", "max_seq_length": 64, "learning_rate": 1e-4}
    run_record(settings).write(tmp_path)
    for folder in ("teacher", "merged"):
        (tmp_path / folder).mkdir()
    for folder in ("", "teacher", "merged"):
        record = find_record(str(tmp_path / folder))
        assert resolve_data(DataArguments(), {}, record) == DataArguments(task_name="sst2", max_seq_length=64)
    # What is given besides is kept, and other data win.
    shorter = DataArguments(max_seq_length=32)
    assert resolve_data(shorter, {"max_seq_length": "command line"}, record).max_seq_length == 32
    other = DataArguments(task_name="cola")
    assert resolve_data(other, {"task_name": "command line"}, record) == other


def test_a_model_without_a_record_needs_data_with_its_labels(tmp_path):
    assert find_record(str(tmp_path / "model")) is None
    with pytest.raises(UserError, match="--train_file .* --task_name"):
        resolve_data(DataArguments(), {}, None)


@pytest.mark.parametrize(
    "record, expected",
    [
        # The cells of a comparison have seeds of their own, but the data are split once for all.
        (run_record(split_seed=7), 7),
        (run_record(split_seed=None), 42),
        (None, 42),
    ],
)
def test_the_validation_split_is_the_one_that_the_run_has_split_off(record, expected, checkpoint, monkeypatch):
    class Loaded(Exception):
        pass

    def load_data(data_args, seed):
        raise Loaded(seed)

    monkeypatch.setattr(run_export, "load_data", load_data)
    monkeypatch.setattr(run_export, "find_record", lambda name: record)
    with pytest.raises(Loaded) as loaded:
        main(arguments(checkpoint))
    assert loaded.value.args == (expected,)


# ---- The gate for int8 ----


def logits_for(decisions, margin=2.0):
    """Logits of a classifier with three classes that gives each example the class of these ids."""
    return margin * np.eye(3, dtype=np.float32)[decisions]


@pytest.fixture(scope="module")
def rare_class():
    """1,000 examples, 8 of them of class 2, and a gate for a float32 classifier that finds all classes."""
    labels = np.array([0] * 600 + [1] * 392 + [2] * 8)
    return labels, Gate(logits_for(labels), labels, SINGLE_LABEL, ("common", "other", "rare"))


def test_int8_that_answers_as_float32_does_passes(rare_class):
    labels, gate = rare_class
    assert gate.failures(logits_for(labels)) == []
    measured = gate.measure(logits_for(labels, margin=2.1))
    assert measured["found"] == {"common": [600, 600], "other": [392, 392], "rare": [8, 8]}
    assert measured["false"] == {"common": [600, 0], "other": [392, 0], "rare": [8, 0]}
    assert measured["agreement"] == {"common": 1, "other": 1, "rare": 1}
    of_class = [np.exp(margin) / (np.exp(margin) + 2) for margin in (2.0, 2.1)]
    assert measured["loss"] == pytest.approx(-np.log(of_class), abs=1e-6)
    assert measured["largest_probability_change"] == pytest.approx(of_class[1] - of_class[0], abs=1e-6)


@pytest.mark.parametrize(("lost", "passes"), [(1, True), (2, False), (8, False)])
def test_int8_may_lose_one_example_of_a_rare_class_whatever_its_accuracy(rare_class, lost, passes):
    labels, gate = rare_class
    decisions = np.where(np.arange(1000) >= 1000 - lost, 0, labels)  # accuracy 0.999, 0.998, 0.992
    failures = gate.failures(logits_for(decisions))
    assert (failures == []) == passes
    assert passes or ("rare" in failures[0] and f" {8 - lost} " in failures[0])


def test_the_only_example_of_a_class_may_not_be_lost():
    labels = np.array([0] * 500 + [1])
    gate = Gate(logits_for(labels)[:, :2], labels, SINGLE_LABEL, ("common", "rare"))
    assert "rare" in gate.failures(logits_for(np.zeros(501, int))[:, :2])[0]


def test_int8_that_is_right_as_often_but_decides_otherwise_fails(rare_class):
    labels, _ = rare_class
    position = np.arange(1000)
    float32, int8 = (np.where((position >= start) & (position < start + 30), 1, labels) for start in (0, 30))
    failures = Gate(logits_for(float32), labels, SINGLE_LABEL, ("common", "other", "rare")).failures(logits_for(int8))
    # Float32 finds 570 examples of the common class. Int8 loses 30 of them, and finds the other 30 instead.
    found, added, *agreements = failures
    assert "540 examples of common of 570" in found
    assert "other of 30 further examples without it" in added
    assert all(
        f"about {name} on 94.00%" in failure for name, failure in zip(("common", "other"), agreements, strict=True)
    )


@pytest.mark.parametrize(("changed", "passes"), [(1, True), (2, False)])
def test_int8_may_decide_otherwise_about_one_of_few_examples(changed, passes):
    labels = np.array([0] * 30 + [1] * 8 + [2] * 2)
    float32 = np.where(np.arange(40) < 10, 1, labels)
    int8 = np.where(np.arange(40) < changed, 2, float32)  # wrong like float32
    failures = Gate(logits_for(float32), labels, SINGLE_LABEL, ("common", "other", "rare")).failures(logits_for(int8))
    assert (failures == []) == passes
    assert passes or any("other on 95.00%" in failure for failure in failures)


@pytest.mark.parametrize(("added", "passes"), [(1, True), (2, False), (8, False)])
def test_int8_may_add_one_false_example_to_a_rare_class_whatever_its_agreement(rare_class, added, passes):
    labels, gate = rare_class
    decisions = np.where(np.arange(1000) < added, 2, labels)  # agreement 0.999, 0.998, 0.992
    failures = gate.failures(logits_for(decisions))
    assert (failures == []) == passes
    assert passes or ("rare" in failures[0] and f" {added} further" in failures[0])


def test_int8_that_decides_alike_but_is_more_certain_of_what_is_wrong_fails(rare_class):
    labels, _ = rare_class
    decisions = np.where(np.arange(1000) < 300, 1, labels)
    gate = Gate(logits_for(decisions), labels, SINGLE_LABEL, ("common", "other", "rare"))
    assert gate.failures(logits_for(decisions)) == []
    (failure,) = gate.failures(logits_for(decisions, margin=4))
    assert "loss" in failure


def test_several_labels_are_decided_by_their_thresholds_and_unknown_ones_are_left_out():
    probabilities = np.array([[0.25, 0.9], [0.35, 0.1], [0.1, 0.8], [0.5, 0.2]])
    logits = np.log(probabilities / (1 - probabilities)).astype(np.float32)
    labels = np.array([[1, 1], [1, 0], [0, np.nan], [np.nan, 0]], dtype=np.float32)
    gate = Gate(logits, labels, MULTI_LABEL, ("low", "high"), np.array([0.3, 0.85]))
    int8 = np.array([[-9, 9], [-9, -9], [-9, 9], [9, -9]], dtype=np.float32)  # loses "low", and adds a "high"
    measured = gate.measure(int8)
    assert measured["found"] == {"low": [1, 0], "high": [1, 1]}
    # Int8 adds a "low" to an example of which it is unknown, and a "high" likewise.
    assert measured["false"] == {"low": [2, 0], "high": [1, 0]}
    assert measured["agreement"] == {"low": 0.75, "high": 0.75}


def test_of_equal_shares_the_gate_takes_the_class_that_the_metrics_take():
    labels = np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]], dtype=np.float32)
    logits = np.array([[0, 1], [1, 0], [0, 1]], dtype=np.float32)
    measured = Gate(logits, labels, SINGLE_LABEL, ("no", "yes")).measure(logits)
    assert measured["found"] == {"no": [1, 1], "yes": [2, 2]}


def test_scores_may_change_by_a_share_of_their_scale_whatever_their_unit():
    scores = np.random.default_rng(0).normal(size=(300, 1)).astype(np.float32)
    labels = scores[:, 0]
    for unit in (1e-3, 1, 1e3):
        gate = Gate(scores * unit, labels * unit, REGRESSION, ("score",))
        assert gate.failures(1.05 * scores * unit) == []
        assert len(gate.failures(1.2 * scores * unit)) == 1  # the correlation is the same
        assert len(gate.failures(scores * unit + unit)) == 1


def test_the_page_for_browsers_refuses_a_model_whose_scores_its_pipeline_cannot_give(tmp_path):
    config = BertConfig(num_labels=1, problem_type=REGRESSION)
    config.save_pretrained(tmp_path / "export")
    build = ["bash", "browser/build.sh", tmp_path / "export", tmp_path / "site"]
    ran = subprocess.run(build, cwd=Path(run_export.__file__).parent, capture_output=True, text=True)
    assert ran.returncode == 1 and "regression" in ran.stderr and str(tmp_path / "export") in ran.stderr
    assert not (tmp_path / "site").exists()
