"""Tests of the export: every architecture answers as in PyTorch, and what does not is refused."""

import csv
import json
import os
from collections import defaultdict

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

import run_export
from export.float32 import export_float32
from export.int8 import quantize, quantize_accurately, this_processor
from export.parity import INT8_BATCH_SIZE, compute_onnx_logits
from layer_distillation.model_outputs import compute_logits
from layer_distillation.pretrained import PACKAGED_TEACHER, resolve_checkpoint
from layer_distillation.record import write_record
from run_export import ExportArguments, find_record, main, resolve_data
from tests.tiny_models import TINY_CLASSIFIERS, VOCAB_SIZE
from text_data.arguments import DataArguments

WORDS = (
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
)


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


@pytest.mark.parametrize("architecture", TINY_CLASSIFIERS)
def test_every_architecture_answers_as_in_pytorch_for_any_batch_and_length(architecture, tmp_path):
    model = TINY_CLASSIFIERS[architecture](2, 3)
    reads_types = architecture in ("bert", "electra")  # the others have one type of token, or no such input
    export_float32(model, tmp_path / "model.onnx")
    quantize(tmp_path / "model.onnx", tmp_path / "model_int8.onnx")
    float32, int8 = (
        onnxruntime.InferenceSession(tmp_path / name, providers=["CPUExecutionProvider"])
        for name in ("model.onnx", "model_int8.onnx")
    )
    names = [node.name for node in float32.get_inputs()]
    assert names == ["input_ids", "attention_mask"] + ["token_type_ids"] * reads_types
    for shape in ((1, 2), (1, 9), (2, 9), (3, 31), (5, 60)):
        batch = batch_for(model, names, *shape)
        with torch.no_grad():
            expected = model(**batch).logits.numpy()
        arrays = {name: tensor.numpy() for name, tensor in batch.items()}
        np.testing.assert_allclose(float32.run(["logits"], arrays)[0], expected, atol=1e-4, rtol=0)
        # Weights drawn this wide are hard to quantise: a scale in the wrong place would be off by far more.
        np.testing.assert_allclose(int8.run(["logits"], arrays)[0], expected, atol=0.35 * np.abs(expected).max())


@pytest.mark.parametrize("processor, stored_as", [("avx2", np.uint8), ("vnni", np.int8), ("arm", np.int8)])
def test_weights_are_stored_so_that_their_products_do_not_saturate_on_the_processor(processor, stored_as, tmp_path):
    # Where VNNI is at hand nothing saturates, so that the answers cannot show what the graph does.
    model = TINY_CLASSIFIERS["bert"](2, 3)
    float32, int8 = tmp_path / "model.onnx", tmp_path / "model_int8.onnx"
    export_float32(model, float32)
    quantize(float32, int8, processor=processor)
    graph = onnx.load(int8).graph
    multiplied = {name for node in graph.node if node.op_type == "MatMulInteger" for name in node.input}
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in multiplied]
    assert {matrix.dtype.type for matrix in weights if matrix.ndim == 2} == {stored_as}
    if processor in ("avx2", this_processor()):  # unsigned weights are right everywhere
        batch = batch_for(model, ("input_ids", "attention_mask", "token_type_ids"), 3, 31)
        with torch.no_grad():
            expected = model(**batch).logits.numpy()
        session = onnxruntime.InferenceSession(int8, providers=["CPUExecutionProvider"])
        answer = session.run(["logits"], {name: tensor.numpy() for name, tensor in batch.items()})[0]
        np.testing.assert_allclose(answer, expected, atol=0.35 * np.abs(expected).max())


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
def test_what_follows_the_last_attention_is_computed_for_the_token_that_the_head_reads(architecture, tmp_path):
    # The head's one or two, and of the last layer the attention's output and the feed-forward part's two. ModernBERT
    # splits the first of those in two, so that only the second is left out.
    export_float32(TINY_CLASSIFIERS[architecture](2, 3), tmp_path / "model.onnx")
    assert products_after_choosing_a_token(tmp_path / "model.onnx") == (3 if architecture == "modernbert" else 5)


def test_a_head_that_reads_all_tokens_gets_them(tmp_path):
    model = TINY_CLASSIFIERS["modernbert"](2, 3)
    model.config.classifier_pooling = "mean"
    export_float32(model, tmp_path / "model.onnx")
    assert products_after_choosing_a_token(tmp_path / "model.onnx") == 0
    batch = batch_for(model, ("input_ids", "attention_mask"), 3, 31)
    with torch.no_grad():
        expected = model(**batch).logits.numpy()
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    answer = session.run(["logits"], {name: tensor.numpy() for name, tensor in batch.items()})[0]
    np.testing.assert_allclose(answer, expected, atol=1e-4, rtol=0)


# ---- The script ----


def random_texts(seed, count):
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, size=generator.integers(3, 12))) for _ in range(count)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny classifier with a tokenizer, and data files with its own answers as labels: it is right every time."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = AutoTokenizer.from_pretrained(resolve_checkpoint(PACKAGED_TEACHER))
    labels = {0: "good", 1: "bad"}
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        initializer_range=0.3,
        id2label=labels,
        label2id={name: index for index, name in labels.items()},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = BertForSequenceClassification(config).eval()
    for seed, split in enumerate(("train", "validation", "test")):
        texts = random_texts(seed, 600)
        with torch.no_grad():
            logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
        margins = logits[:, 1] - logits[:, 0]
        if split == "train":  # as many of one label as of the other
            middle = margins.median()
            model.classifier.bias.data -= torch.tensor([0.0, middle])
            margins = margins - middle
        sure = margins.abs().argsort(descending=True)[:60].tolist()
        with open(folder / f"{split}.csv", "w", newline="") as file:
            rows = [(texts[i], labels[int(margins[i] > 0)]) for i in sure]
            csv.writer(file).writerows([("text", "label"), *rows])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run_main(monkeypatch, checkpoint, *further):
    data = [f"--{split}_file={checkpoint / split}.csv" for split in ("train", "validation", "test")]
    argv = ["run_export.py", f"--model_name_or_path={checkpoint}", "--label_order=good,bad", *data, *further]
    monkeypatch.setattr("sys.argv", list(map(str, argv)))
    main()


@pytest.fixture(scope="module")
def export(checkpoint, tmp_path_factory):
    """The folder that the script makes of the checkpoint."""
    folder = tmp_path_factory.mktemp("export") / "new"
    with pytest.MonkeyPatch.context() as monkeypatch:
        run_main(monkeypatch, checkpoint, f"--output_dir={folder}", "--max_seq_length=24")
    return folder


def test_the_folder_has_all_that_is_needed_to_serve_the_model(export):
    assert sorted(path.name for path in export.iterdir()) == [
        *("config.json", "metrics.json", "model.onnx", "model_int8.onnx", "tokenizer.json", "tokenizer_config.json")
    ]
    assert json.loads((export / "config.json").read_text())["id2label"] == {"0": "good", "1": "bad"}
    assert AutoTokenizer.from_pretrained(export).model_max_length == 24


def test_the_metrics_tell_what_was_measured(export, checkpoint):
    metrics = json.loads((export / "metrics.json").read_text())
    assert metrics["labels"] == ["good", "bad"]
    assert metrics["max_length"] == 24
    assert metrics["layers"] == 2
    assert 0 < metrics["max_logit_difference"] <= 1e-4
    assert metrics["int8_processor"] == metrics["int8_checked_on"] == this_processor()
    for kind, file in (("float32", "model.onnx"), ("int8", "model_int8.onnx")):
        assert metrics[kind]["megabytes"] == (export / file).stat().st_size / 1e6
        assert metrics[kind].keys() == {"megabytes", "validation", "test"}
    assert metrics["float32"]["validation"]["accuracy"] == 1  # the labels are its own answers
    assert metrics["int8"]["validation"]["accuracy"] >= 0.99


def test_an_export_for_another_processor_says_for_which_and_where_it_was_checked(checkpoint, tmp_path, monkeypatch):
    run_main(monkeypatch, checkpoint, f"--output_dir={tmp_path / 'onnx'}", "--int8_processor=avx2")
    metrics = json.loads((tmp_path / "onnx" / "metrics.json").read_text())
    assert metrics["int8_processor"] == "avx2"
    assert metrics["int8_checked_on"] == this_processor()
    initializers = onnx.load(tmp_path / "onnx" / "model_int8.onnx").graph.initializer
    assert onnx.TensorProto.INT8 not in {tensor.data_type for tensor in initializers}  # signed


def test_int8_is_scored_as_it_is_served_a_text_at_a_time(checkpoint, tmp_path, monkeypatch):
    sizes = defaultdict(set)

    def noted(file, dataset, collator, batch_size=None):
        sizes[file.name].add(batch_size)
        return compute_onnx_logits(file, dataset, collator, batch_size or len(dataset))

    monkeypatch.setattr(run_export, "compute_onnx_logits", noted)
    run_main(monkeypatch, checkpoint, f"--output_dir={tmp_path / 'onnx'}")
    assert sizes["model_int8.onnx"] == {1}
    assert 1 not in sizes["model.onnx"]


def test_the_int8_weights_take_about_a_quarter_of_the_space(export):
    assert (export / "model_int8.onnx").stat().st_size < 0.3 * (export / "model.onnx").stat().st_size


def test_the_exported_logits_are_those_of_the_checkpoint(export, checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(export)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    batch = tokenizer(random_texts(9, 4), padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch).logits.numpy()
    session = onnxruntime.InferenceSession(export / "model.onnx")
    found = session.run(["logits"], {name: tensor.numpy() for name, tensor in batch.items()})[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_merged_lora_weights_are_exported_with_their_changes(checkpoint, tmp_path):
    base = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    adapted = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", r=4, init_lora_weights=False)).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    batch = tokenizer(random_texts(5, 3), padding=True, return_tensors="pt")
    with torch.no_grad():
        plain = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()(**batch).logits
        expected = adapted(**batch).logits
    assert (expected - plain).abs().max() > 0.01
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    export_float32(merged, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    found = session.run(["logits"], {name: tensor.numpy() for name, tensor in batch.items()})[0]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


def test_a_graph_that_answers_otherwise_is_an_error_with_the_numbers(checkpoint, export, tmp_path, monkeypatch):
    exported = (export / "model.onnx").read_bytes()
    monkeypatch.setattr(run_export, "export_float32", lambda model, file: file.write_bytes(exported))
    monkeypatch.setattr(run_export, "compute_logits", lambda *args: compute_logits(*args) + 0.01)
    with pytest.raises(ValueError, match=r"within 0\.0001, but its logits .* off by up to 0\.010"):
        run_main(monkeypatch, checkpoint, f"--output_dir={tmp_path / 'onnx'}")
    assert not (tmp_path / "onnx" / "metrics.json").exists()


def test_int8_that_costs_too_much_is_an_error_with_the_numbers(checkpoint, export, tmp_path, monkeypatch):
    (tmp_path / "model.onnx").touch()  # an earlier export, which may be replaced
    (tmp_path / "metrics.json").touch()
    monkeypatch.setattr(run_export, "export_float32", lambda model, file: file.write_bytes(exported))
    exported = (export / "model.onnx").read_bytes()
    monkeypatch.setattr(run_export, "MIN_INT8_SHARE", 1.01)  # out of reach
    with pytest.raises(
        ValueError, match=r"int8 must keep 101% of the validation accuracy 1\.0000, but has [01]\.\d{4}"
    ):
        run_main(monkeypatch, checkpoint, f"--output_dir={tmp_path}")
    assert not (tmp_path / "metrics.json").exists()


def test_the_operators_that_disturb_most_stay_in_float32(tmp_path):
    model = TINY_CLASSIFIERS["bert"](2, 3)
    with torch.no_grad():  # an activation so large that its neighbours drown in a common scale
        model.bert.encoder.layer[1].intermediate.dense.bias[0] = 500
        model.bert.encoder.layer[1].output.dense.weight[:, 0] *= 0.001
    float32, int8 = tmp_path / "model.onnx", tmp_path / "model_int8.onnx"
    export_float32(model, float32)
    generator = np.random.default_rng(0)
    sample = Dataset.from_list(
        [
            {
                "input_ids": generator.integers(5, VOCAB_SIZE, 12),
                "attention_mask": [1] * 12,
                "token_type_ids": [0] * 12,
            }
            for _ in range(24)
        ]
    )

    def collator(examples):
        return {name: torch.tensor([example[name] for example in examples]) for name in examples[0]}

    reference = compute_onnx_logits(float32, sample, collator)
    differences = []

    def is_accurate():
        logits = compute_onnx_logits(int8, sample, collator, INT8_BATCH_SIZE)
        differences.append(np.abs(logits - reference).mean())
        return len(differences) > 1 and differences[-1] < 0.5 * differences[0]

    kept = quantize_accurately(float32, int8, sample, collator, is_accurate)
    graph = onnx.load(float32).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    reads_it = [
        node.name for node in graph.node if shapes.get(node.input[1] if len(node.input) > 1 else "") == (64, 32)
    ]
    assert kept == [reads_it[1]]  # of the second layer


def test_quantising_gives_up_when_half_of_the_operators_do_not_help(tmp_path):
    model = TINY_CLASSIFIERS["distilbert"](1, 2)
    export_float32(model, tmp_path / "model.onnx")
    sample = Dataset.from_list([{"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1]}] * 2)

    def collator(examples):
        return {name: torch.tensor([example[name] for example in examples]) for name in examples[0]}

    attempts = []
    kept = quantize_accurately(
        *(tmp_path / "model.onnx", tmp_path / "model_int8.onnx", sample, collator), lambda: attempts.append(1) or False
    )
    assert kept is None
    assert len(attempts) == 4  # with 0, 1, 2 and 4 of its 10 operators in float32


# ---- Arguments ----


def test_an_adapter_that_is_not_merged_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(ValueError, match="--merge_adapter"):
        ExportArguments(model_name_or_path=str(tmp_path))


def test_a_folder_that_is_no_export_is_left_alone(checkpoint):
    before = {path: path.read_bytes() for path in checkpoint.iterdir()}
    with pytest.raises(ValueError, match="Nothing in it was touched"):
        ExportArguments(model_name_or_path=str(checkpoint), output_dir=str(checkpoint))
    assert before == {path: path.read_bytes() for path in checkpoint.iterdir()}


def test_the_export_goes_into_the_models_folder_by_default(tmp_path):
    assert ExportArguments(model_name_or_path=str(tmp_path)).output_dir == str(tmp_path / "onnx")


def test_the_export_of_a_model_from_the_hub_leaves_no_folder_of_its_name():
    assert ExportArguments(model_name_or_path="user/model").output_dir == os.path.join("outputs", "model", "onnx")


def test_a_head_that_was_never_trained_is_refused(checkpoint, tmp_path, monkeypatch):
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    model.bert.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(tmp_path)
    data = [f"--{split}_file={checkpoint / split}.csv" for split in ("train", "validation")]
    monkeypatch.setattr("sys.argv", ["run_export.py", f"--model_name_or_path={tmp_path}", *map(str, data)])
    with pytest.raises(ValueError, match="is not trained"):
        main()
    assert not (tmp_path / "onnx").exists()


@pytest.mark.parametrize("folder", ["run", "run/teacher", "run/merged"])
def test_the_data_are_those_of_the_run_that_made_the_model(folder, tmp_path):
    (tmp_path / folder).mkdir(parents=True)
    settings = {"task_name": "sst2", "max_seq_length": 64, "learning_rate": 1e-4}
    write_record(tmp_path / "run", {"status": "finished", "settings": settings})
    record = find_record(str(tmp_path / folder))
    assert resolve_data(DataArguments(), {}, record) == DataArguments(task_name="sst2", max_seq_length=64)
    # What is given besides is kept, and other data win.
    shorter = DataArguments(max_seq_length=32)
    assert resolve_data(shorter, {"max_seq_length": "command line"}, record).max_seq_length == 32
    other = DataArguments(task_name="cola")
    assert resolve_data(other, {"task_name": "command line"}, record) == other


def test_a_model_without_a_record_needs_data_with_its_labels(tmp_path):
    assert find_record(str(tmp_path / "model")) == {}
    with pytest.raises(ValueError, match="none are named and no record of a run .* --task_name"):
        resolve_data(DataArguments(), {}, {})


def test_the_validation_split_is_the_one_that_the_run_has_split_off(checkpoint, tmp_path, monkeypatch):
    seeds, load_data = [], run_export.load_data
    monkeypatch.setattr(run_export, "load_data", lambda args, seed: (seeds.append(seed), load_data(args, seed))[1])
    # The cells of a comparison have seeds of their own, but the data are split once for all.
    record = {"seed": 3, "data": {"split_seed": 7}, "settings": {}}
    monkeypatch.setattr(run_export, "find_record", lambda name: record)
    run_main(monkeypatch, checkpoint, f"--output_dir={tmp_path / 'onnx'}", "--max_seq_length=24")
    record["data"]["split_seed"] = None
    run_main(monkeypatch, checkpoint, f"--output_dir={tmp_path / 'onnx'}", "--max_seq_length=24")
    assert seeds == [7, 42]
