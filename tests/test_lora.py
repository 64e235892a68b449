"""Tests of `lora_adapters`: what is wrapped and trained, and that a saved adapter is the model that was trained."""

import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from datasets import Dataset
from peft import AutoPeftModel, LoraConfig, PeftModel
from torch import nn
from transformers import AutoModelForSequenceClassification, BatchEncoding, PreTrainedModel

from distill_trainer import DistillationTrainer
from experiments.tiny_classifiers import tiny_classifier
from layer_distillation.errors import UserError
from layer_distillation.fingerprints import fingerprint_model
from layer_distillation.pretrained import path_from
from layer_mapping import build_student
from lora_adapters.adapters import add_lora, count_parameters, coverage, head_modules, target_modules
from lora_adapters.arguments import INITIALIZATIONS, LoraArguments, LoraTrainingArguments
from lora_adapters.loading import load_adapter
from tests.records import RECORD
from tests.tiny_architectures import MECHANISMS
from tests.tiny_models import TINY_CLASSIFIERS
from training.arguments import StudentArguments
from training.lora import check_layers_are_copied, finish_adapter

# Linear layers within one encoder layer, as the model's code names them.
BERT_LINEAR = {f"attention.self.{name}" for name in ("query", "key", "value")} | {
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
}
LINEAR = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra", "camembert"), BERT_LINEAR),
    "distilbert": {f"attention.{name}_lin" for name in ("q", "k", "v", "out")} | {"ffn.lin1", "ffn.lin2"},
    "mpnet": {f"attention.attn.{name}" for name in "qkvo"} | {"intermediate.dense", "output.dense"},
    "deberta-v2": {f"attention.self.{name}_proj" for name in ("query", "key", "value")}
    | {"attention.output.dense", "intermediate.dense", "output.dense"},
    "modernbert": {"attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo"},
}
HEADS = {
    **dict.fromkeys(("roberta", "xlm-roberta", "electra", "mpnet", "camembert"), ["classifier"]),
    "bert": ["bert.pooler", "classifier"],
    "distilbert": ["pre_classifier", "classifier"],
    "deberta-v2": ["pooler", "classifier"],
    "modernbert": ["head", "classifier"],
}
ARGUMENTS = LoraArguments(lora_r=4, lora_dropout=0.0)
BATCH = {"input_ids": torch.arange(5, 53).reshape(4, 12), "attention_mask": torch.ones(4, 12, dtype=torch.long)}


@pytest.fixture(scope="session")
def teachers():
    return {name: build(6, 3) for name, build in TINY_CLASSIFIERS.items()}


@pytest.fixture
def make_student(teachers):
    return lambda name="bert": build_student(teachers[name], (1, 3, 5))


@torch.no_grad()
def logits_of(model):
    return model.eval()(**BATCH).logits


def collate(examples):
    return BatchEncoding({name: torch.tensor([row[name] for row in examples]) for name in examples[0]})


def train_a_little(model):
    """Moves every trained weight, as training does."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)


# ---- What is wrapped ----


@pytest.mark.parametrize("name", TINY_CLASSIFIERS)
def test_all_linear_layers_of_the_encoder_get_an_adapter_and_nothing_else(make_student, name):
    model = add_lora(make_student(name), ARGUMENTS).get_base_model()
    adapted = {name for name, module in model.named_modules() if hasattr(module, "lora_A")}
    within = {index: {n.split(f".{index}.")[1] for n in adapted if f".{index}." in n} for index in range(3)}
    assert within == dict.fromkeys(range(3), LINEAR[name])
    assert len(adapted) == 3 * len(LINEAR[name])


@pytest.mark.parametrize("name", TINY_CLASSIFIERS)
def test_one_step_changes_the_adapters_and_the_whole_head_and_nothing_else(make_student, name):
    assert head_modules(make_student(name)) == HEADS[name]
    model = add_lora(make_student(name), replace(ARGUMENTS, init_lora_weights="false"))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    nn.functional.cross_entropy(model(**BATCH).logits, torch.tensor([0, 1, 2, 0])).backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    adapters = {key for key in before if ".lora_" in key}
    head = {key for key in before if ".modules_to_save." in key}
    assert adapters < changed
    # The gradient of a bias before a softmax over attention scores or of an unused weight may be exactly 0.
    assert changed <= adapters | head
    assert {key.split(".modules_to_save.")[0].removeprefix("base_model.model.") for key in head} == set(HEADS[name])
    assert changed & head


def test_named_layers_alone_get_an_adapter(make_student):
    names = target_modules(make_student(), "query, attention.output.dense")
    assert names == [
        f"bert.encoder.layer.{index}.attention.{name}" for index in range(3) for name in ("self.query", "output.dense")
    ]


def test_pooler_and_head_are_no_targets_even_if_a_name_fits_them(make_student):
    assert all(name.startswith("bert.encoder.layer.") for name in target_modules(make_student(), "dense"))


def test_a_name_that_fits_no_linear_layer_is_refused_with_those_there_are(make_student):
    with pytest.raises(
        UserError, match=r"--lora_target_modules .* 'q_proj'.* attention\.self\.query, .*output\.dense"
    ):
        target_modules(make_student(), "query,q_proj")


def test_adapters_on_top_of_adapters_are_refused(make_student):
    for student in (add_lora(make_student(), LoraArguments()), make_student()):
        if isinstance(student, PreTrainedModel):
            student.add_adapter(LoraConfig(target_modules=["query"]))
        with pytest.raises(UserError, match="merge_and_unload"):
            add_lora(student, LoraArguments())


def test_parameters_are_counted_once(make_student):
    student = make_student()
    total_before, hidden, labels, r = student.num_parameters(), 32, 3, 4
    trainable, total = count_parameters(add_lora(student, ARGUMENTS))
    adapters = 3 * r * (4 * (hidden + hidden) + 2 * (hidden + 64))
    head = (hidden * hidden + hidden) + (hidden * labels + labels)
    assert trainable == adapters + head
    assert total == total_before + adapters


def test_the_adapters_change_nothing_before_training(make_student):
    expected = logits_of(make_student())
    examples = Dataset.from_dict({name: tensor.tolist() for name, tensor in BATCH.items()})
    for start in sorted({*INITIALIZATIONS} - {"false"}):
        model = add_lora(make_student(), replace(ARGUMENTS, init_lora_weights=start), examples, collate)
        torch.testing.assert_close(logits_of(model), expected, atol=1e-4, rtol=0, msg=start)


def test_eva_starts_from_the_activations_of_the_examples(make_student):
    examples = Dataset.from_dict({name: tensor.tolist() for name, tensor in BATCH.items()})
    student = make_student()
    seen = []
    student.bert.encoder.layer[0].attention.self.query.register_forward_hook(lambda _, x, __: seen.append(x[0]))
    logits_of(student)
    model = add_lora(student, replace(ARGUMENTS, init_lora_weights="eva"), examples, collate)
    rows = model.get_base_model().bert.encoder.layer[0].attention.self.query.lora_A["default"].weight
    # The adapter reads the directions in which the layer's inputs vary most (Paischer et al. 2024, section 3).
    inputs = seen[0].flatten(0, 1)
    _, _, directions = torch.linalg.svd(inputs - inputs.mean(dim=0), full_matrices=False)
    overlap = (nn.functional.normalize(rows, dim=1) @ directions.T)[:3, :3].abs().diagonal()
    assert (overlap > 0.99).all()


# ---- Training ----


def test_the_loss_does_not_grow_with_accumulation_steps(make_student, tmp_path):
    rows = [{"input_ids": [5 + i, 7, 9 + 2 * i], "labels": i % 3} for i in range(16)]
    losses = []
    for batch_size, accumulation in ((16, 1), (4, 4)):
        torch.manual_seed(0)
        student = make_student()
        for module in student.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        args = LoraTrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            num_train_epochs=2,
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        model = add_lora(student, ARGUMENTS)
        trainer = DistillationTrainer(
            model=model, args=args, train_dataset=Dataset.from_list(rows), data_collator=collate
        )
        losses.append(trainer.train().training_loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


# ---- Saving and loading ----


@pytest.mark.parametrize(
    "change",
    [*({"init_lora_weights": start} for start in INITIALIZATIONS), {"use_dora": True}, {"use_rslora": True}],
    ids=lambda change: "-".join(map(str, next(iter(change.items())))),
)
def test_a_saved_adapter_gives_the_logits_of_the_model_that_was_trained(make_student, tmp_path, change):
    lora_args = replace(ARGUMENTS, **change)
    examples = Dataset.from_dict({name: tensor.tolist() for name, tensor in BATCH.items()})
    model = add_lora(make_student(), lora_args, examples, collate)
    untrained = logits_of(model)
    train_a_little(model)
    expected = logits_of(model)
    assert (expected - untrained).abs().max() > 0.1
    model.save_pretrained(tmp_path)
    merged, description = finish_adapter(tmp_path, make_student(), model, lora_args)
    assert not isinstance(merged, PeftModel)
    torch.testing.assert_close(logits_of(merged), expected, atol=1e-5, rtol=1e-5)
    assert description["trainable_parameters"] == count_parameters(model)[0]
    assert description["megabytes"] == (tmp_path / "adapter_model.safetensors").stat().st_size / 1e6
    plain = tmp_path / "merged"
    merged.save_pretrained(plain)
    loaded = AutoModelForSequenceClassification.from_pretrained(plain)
    torch.testing.assert_close(logits_of(loaded), expected, atol=1e-5, rtol=1e-5)


@pytest.fixture
def adapter_folder(teachers, make_student, tmp_path):
    """A run's folder with an adapter, its teacher beside it, and the logits that the adapter gives."""
    teacher = teachers["bert"]
    teacher.config.problem_type = "single_label_classification"
    teacher.save_pretrained(tmp_path / "teacher")
    model = add_lora(build_student(teacher, (5, 2)), ARGUMENTS)
    train_a_little(model)
    folder = tmp_path / "run"
    model.save_pretrained(folder)
    _, adapter = finish_adapter(folder, build_student(teacher, (5, 2)), model, ARGUMENTS)
    record = replace(
        RECORD,
        teacher_folder="../teacher",
        teacher=replace(RECORD.teacher, fingerprint=fingerprint_model(teacher)),
        student=replace(RECORD.student, layers=(5, 2), adapter=adapter),
    )
    record.write(folder)
    return folder, logits_of(model)


def test_an_adapter_is_loaded_on_the_layers_of_its_teacher_wherever_the_folder_lies(adapter_folder, tmp_path):
    folder, expected = adapter_folder
    model = load_adapter(folder)
    torch.testing.assert_close(logits_of(model), expected, atol=1e-6, rtol=0)
    assert not any(module.training for module in model.modules())
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "teacher").rename(tmp_path / "moved_teacher")
    with pytest.raises(UserError, match="moved.*teacher_name_or_path"):
        load_adapter(tmp_path / "moved")
    model = load_adapter(tmp_path / "moved", str(tmp_path / "moved_teacher"))
    torch.testing.assert_close(logits_of(model), expected, atol=1e-6, rtol=0)


def test_an_adapter_is_not_put_on_another_teacher(adapter_folder, tmp_path):
    other = AutoModelForSequenceClassification.from_pretrained(tmp_path / "teacher")
    with torch.no_grad():
        other.bert.encoder.layer[0].output.dense.bias[0] += 1e-3
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="other.*teacher_name_or_path"):
        load_adapter(adapter_folder[0], str(tmp_path / "other"))


@pytest.mark.parametrize("loader", [AutoModelForSequenceClassification, AutoPeftModel])
def test_loaders_that_do_not_know_the_layers_refuse_the_folder(adapter_folder, loader):
    with pytest.raises(OSError, match="no file named model.safetensors|lora_adapters.loading.load_adapter"):
        loader.from_pretrained(adapter_folder[0])


def test_plain_peft_warns_whoever_puts_the_adapter_on_a_model(adapter_folder, teachers):
    with pytest.warns(UserWarning, match="lora_adapters.loading.load_adapter.*--merge_adapter"):
        PeftModel.from_pretrained(teachers["bert"], adapter_folder[0])


def test_the_path_to_a_teacher_is_right_from_a_folder_behind_a_symbolic_link(tmp_path):
    teacher, run = tmp_path / "project" / "teacher", tmp_path / "disk" / "outputs" / "run"
    teacher.mkdir(parents=True)
    run.mkdir(parents=True)
    (tmp_path / "project" / "outputs").symlink_to(run.parent)
    for folder in (run, tmp_path / "project" / "outputs" / "run"):
        assert (folder / path_from(folder, str(teacher))).samefile(teacher)
    (run / "teacher").symlink_to(teacher)
    assert path_from(run, str(run / "teacher")) == "teacher"
    assert path_from(run, "an/encoder-of-the-hub") is None


def test_an_adapter_is_loaded_with_the_config_that_it_was_trained_with(tmp_path):
    """BigBird's attention turns from sparse to full when it reads short texts, and its weights do not show it."""
    teacher = tiny_classifier("big_bird", num_hidden_layers=2)
    teacher.save_pretrained(tmp_path / "teacher")
    inputs = {"input_ids": torch.randint(5, 90, (2, 48), generator=torch.Generator().manual_seed(0))}
    teacher(input_ids=inputs["input_ids"][:, :8])
    model = add_lora(build_student(teacher, (2,)), ARGUMENTS)
    folder = tmp_path / "run"
    model.save_pretrained(folder)
    _, adapter = finish_adapter(folder, build_student(teacher, (2,)), model, ARGUMENTS)
    of_teacher = replace(RECORD.teacher, fingerprint=fingerprint_model(teacher))
    of_student = replace(RECORD.student, layers=(2,), adapter=adapter)
    replace(RECORD, teacher_folder="../teacher", teacher=of_teacher, student=of_student).write(folder)
    with torch.no_grad():
        torch.testing.assert_close(load_adapter(folder)(**inputs).logits, model.eval()(**inputs).logits)


def test_a_folder_without_an_adapter_is_refused(tmp_path):
    with pytest.raises(UserError, match="run_lora.py"):
        load_adapter(tmp_path)
    RECORD.write(tmp_path)
    with pytest.raises(UserError, match="run_lora.py"):
        load_adapter(tmp_path)


# ---- Arguments ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lora_r": 0}, "--lora_r .*0"),
        ({"lora_alpha": 0}, "--lora_alpha .*0"),
        ({"lora_alpha": float("nan")}, "--lora_alpha .*nan"),
        ({"lora_dropout": 1.0}, "--lora_dropout .*1.0"),
        ({"init_lora_weights": "corda"}, "--init_lora_weights .*corda"),
        ({"init_lora_weights": "mica", "use_dora": True}, "--init_lora_weights mica .*--use_dora"),
        ({"init_lora_weights": "orthogonal", "lora_r": 3}, "--lora_r .*orthogonal, found 3"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        LoraArguments(**arguments)


def test_a_student_of_fresh_weights_is_refused():
    with pytest.raises(UserError, match="--layer_strategy random"):
        check_layers_are_copied(StudentArguments(layer_strategy="random"))
    check_layers_are_copied(StudentArguments(layer_strategy="random", layers="1,2"))


@pytest.mark.parametrize(("name", "value"), [("stages", "3,2"), ("student_name_or_path", "models/small")])
def test_a_student_that_could_not_be_rebuilt_from_its_teacher_is_refused(name, value):
    with pytest.raises(UserError, match=f"--{name} {value}"):
        check_layers_are_copied(StudentArguments(**{name: value}))


# --- architectures whose layers are not plain linear maps ---


def test_the_share_of_the_weights_that_adapters_reach_is_logged(caplog):
    """Of each layer's matrices: attention is adapted, the experts are a Parameter, the router is left alone."""
    caplog.set_level("INFO")
    student = tiny_classifier("mixtral", num_hidden_layers=2)
    targets = target_modules(student)
    adapted = 2 * (32 * 32 + 32 * 16)  # queries and outputs, keys and values of half as many heads
    experts = 4 * (2 * 64 * 32 + 32 * 64)
    expected = adapted / (adapted + experts + 4 * 32)
    share, without = coverage(student, targets)
    assert share == pytest.approx(expected)
    assert list(without) == ["mlp.gate", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    assert "experts" in without["mlp.gate"] and "MixtralExperts" in without["mlp.experts.down_proj"]
    add_lora(student, ARGUMENTS)
    assert re.search(f"{expected:.0%}.*mlp.experts.gate_up_proj .*MixtralExperts", caplog.text)


def test_a_matrix_that_the_option_leaves_out_is_said_to_be():
    student = tiny_classifier("gpt2", n_layer=1)
    assert set(coverage(student, target_modules(student, "c_attn"))[1].values()) == {"not among --lora_target_modules"}


def test_the_adapters_of_a_named_conv1d_layer_are_merged_into_its_transposed_weight():
    student = tiny_classifier("gpt2", n_layer=2)
    before = [layer.attn.c_attn.weight.clone() for layer in student.transformer.h]
    model = add_lora(student, LoraArguments(lora_r=2, lora_alpha=6, lora_dropout=0.0, lora_target_modules="c_attn"))
    adapted = [name for name, module in model.named_modules() if hasattr(module, "lora_A")]
    assert adapted == [f"base_model.model.transformer.h.{index}.attn.c_attn" for index in range(2)]
    train_a_little(model)
    expected = logits_of(model)
    layers = [model.get_submodule(name) for name in adapted]
    updates = [6 / 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight for layer in layers]
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits_of(merged), expected, atol=1e-5, rtol=1e-5)
    for layer, weight, update in zip(merged.transformer.h, before, updates, strict=True):
        torch.testing.assert_close(layer.attn.c_attn.weight, weight + update.T)


@pytest.mark.parametrize("names", [None, "attn.c_proj"])  # the weight of the second one is square
def test_an_initialization_that_reads_transposed_weights_wrongly_is_refused(names):
    lora_args = LoraArguments(lora_r=2, init_lora_weights="olora", lora_target_modules=names)
    with pytest.raises(UserError, match="--init_lora_weights olora .*Conv1D"):
        add_lora(tiny_classifier("gpt2", n_layer=2), lora_args)


@pytest.mark.parametrize("model_type", ["hunyuan_v1_moe", "jetmoe", "doge"])
def test_routers_get_no_adapter_even_if_they_are_linear(model_type):
    student = tiny_classifier(model_type, "experts" if model_type == "doge" else None, num_hidden_layers=1)
    names = [name for name, _ in student.named_modules() if name.endswith(("gate.wg", "router.layer", "router_gate"))]
    assert names
    assert not set(names) & set(target_modules(student))


def test_a_pooler_that_the_head_does_not_read_is_not_trained():
    assert head_modules(tiny_classifier("big_bird", num_hidden_layers=1)) == ["classifier"]
    assert head_modules(tiny_classifier("rembert", num_hidden_layers=1)) == ["rembert.pooler", "classifier"]


@pytest.mark.parametrize(
    ("build", "left_alone"),
    [
        (MECHANISMS["zamba, one shared block"], "shared_transf"),
        (MECHANISMS["zamba2, adapters by the number of a hybrid layer"], "shared_transf"),
        (MECHANISMS["reformer, padding by the kinds of layers"], None),
        (partial(tiny_classifier, "gpt2", n_layer=2), None),
        (partial(tiny_classifier, "phimoe", num_hidden_layers=2), "router"),
    ],
    ids=["zamba", "zamba2", "reformer", "gpt2", "phimoe"],
)
def test_every_adapter_gets_a_gradient_and_merging_changes_nothing(build, left_alone):
    student = build()
    student.config.use_cache = False
    model = add_lora(student, LoraArguments(lora_r=2, lora_dropout=0.0))
    inputs = {"input_ids": torch.randint(5, 90, (2, 24), generator=torch.Generator().manual_seed(0))}
    adapters = {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}
    assert adapters and not any(left_alone and left_alone in name for name in adapters)
    with torch.no_grad():
        for name, parameter in adapters.items():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.train()(**inputs, labels=torch.tensor([0, 1])).loss.backward()
    assert all(parameter.grad is not None for parameter in adapters.values())
    with torch.no_grad():
        expected = model.eval()(**inputs).logits
        merged = model.merge_and_unload()(**inputs).logits
    assert torch.allclose(expected, merged, atol=1e-4)


@pytest.mark.parametrize(("model_type", "kind"), [("ibert", "QuantLinear"), ("squeezebert", "Conv1d")])
def test_an_encoder_of_other_linear_maps_is_refused_with_their_class(model_type, kind):
    with pytest.raises(UserError, match=f"{kind}.* run_distillation.py"):
        add_lora(tiny_classifier(model_type, num_hidden_layers=2), LoraArguments())
