"""Losses on layers: what is read of a model, what is compared, and how `DistillationTrainer` trains on it."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForSequenceClassification

from distill_trainer import DistillationTrainer
from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.errors import UserError
from layer_distillation.layer_losses import LayerLosses
from layer_distillation.layer_outputs import QUERY_KEY_VALUE, LayerOutputReader
from layer_distillation.loss_table import LAYER_LOSSES
from layer_distillation.losses import hidden_state_loss, relation_loss
from layer_distillation.teacher_outputs import HiddenStatesCollator, add_teacher_hidden_states, add_teacher_logits
from layer_mapping import build_student
from tests.tiny_models import TINY_CLASSIFIERS
from tests.workers.train_worker import (
    arguments,
    bert,
    pad,
    random_examples,
    step_logs,
    token_classifier,
    token_examples,
    weights,
)

WEIGHTS = {"hidden_weight": 0.4, "attention_weight": 0.5, "relation_weight": 0.3}
EVERYTHING = {"hidden_states": (1, 3), "attentions": (2,), "query": (3,), "key": (3,), "value": (3,)}


def batch():
    return pad([{name: row[name] for name in ("input_ids", "attention_mask")} for row in random_examples(4)])


def build_trainer(folder, student, teacher=None, layers=None, train=None, collator=pad, **kwargs):
    return DistillationTrainer(
        model=student,
        teacher_model=teacher,
        teacher_layers=layers,
        args=arguments(folder, **kwargs),
        train_dataset=random_examples(17) if train is None else train,
        data_collator=collator,
    )


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


# ---- what is read of a model ----


@pytest.mark.parametrize("name", TINY_CLASSIFIERS)
def test_outputs_of_layers_are_read_from_every_architecture(name):
    model = TINY_CLASSIFIERS[name](3, 2)
    with torch.no_grad():
        logits = model(**batch()).logits
        read = LayerOutputReader(model, EVERYTHING).run(model, **batch())
        model.set_attn_implementation("eager")
        model_says = model(**batch(), output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(read.logits, logits, rtol=1e-4, atol=1e-5)
    for layer in (1, 3):
        torch.testing.assert_close(read.layers["hidden_states"][layer], model_says.hidden_states[layer])
    torch.testing.assert_close(read.layers["attentions"][2], model_says.attentions[1])
    assert read.layers.keys() == EVERYTHING.keys()
    query, key, value = (read.layers[kind][3] for kind in QUERY_KEY_VALUE)
    assert query.shape == key.shape == value.shape == read.layers["hidden_states"][1].shape
    assert not torch.equal(query, key) and not torch.equal(key, value)


def test_reading_leaves_no_hooks_behind():
    model = bert(2)
    LayerOutputReader(model, {"value": (2,)}).run(model, **batch())
    assert not any(module._forward_hooks for module in model.modules())


def test_queries_keys_and_values_are_those_of_the_layer():
    model = bert(3)
    with torch.no_grad():
        wanted = {"hidden_states": (1,), **dict.fromkeys(QUERY_KEY_VALUE, (2,))}
        read = LayerOutputReader(model, wanted).run(model, **batch())
        attention = model.bert.encoder.layer[1].attention.self
        for kind, module in (("query", attention.query), ("key", attention.key), ("value", attention.value)):
            torch.testing.assert_close(read.layers[kind][2], module(read.layers["hidden_states"][1]))


@pytest.mark.parametrize("name", TINY_CLASSIFIERS)
def test_attention_is_read_as_it_is_before_dropout(name):
    model = TINY_CLASSIFIERS[name](2, 2)
    for parameter in {"attention_probs_dropout_prob", "attention_dropout"} & model.config.to_dict().keys():
        setattr(model.config, parameter, 0.5)
    model = type(model)(model.config).train()
    is_token, length = batch()["attention_mask"].bool(), batch()["input_ids"].shape[1]
    reader = LayerOutputReader(model, {"attentions": (1, 2)})
    for attentions in reader.run(model, **batch()).layers["attentions"].values():
        rows = attentions.transpose(1, 2)[is_token]  # (tokens, heads, length)
        torch.testing.assert_close(rows.sum(dim=-1), torch.ones_like(rows[..., 0]))
        assert rows.shape[-1] == length


@pytest.mark.parametrize("name", TINY_CLASSIFIERS)
def test_a_training_on_attention_leaves_both_models_with_the_attention_and_dropout_that_they_had(name, tmp_path):
    def built(num_layers):
        config = TINY_CLASSIFIERS[name](num_layers, 2).config
        for parameter in {"attention_probs_dropout_prob", "attention_dropout"} & config.to_dict().keys():
            setattr(config, parameter, 0.125)
        model = AutoModelForSequenceClassification.from_config(config)
        if model._supports_sdpa:
            model.set_attn_implementation("sdpa")
        return model

    def settings(model):
        rates = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
        numbers = [vars(module).get("attention_dropout") for module in model.modules()]
        return model.config._attn_implementation, rates, numbers

    models = built(1), built(2)
    before = [settings(model) for model in models]
    rows = [{**row, "token_type_ids": [0] * len(row["input_ids"])} for row in random_examples(8, num_labels=2)]
    trainer = build_trainer(tmp_path, *models, (1,), rows, attention_weight=1.0, max_steps=1)
    for _ in range(2):
        trainer.train()
        assert [settings(model) for model in models] == before
        assert step_logs(trainer)[-1]["loss_attention"] > 0


def test_a_model_of_unknown_attention_is_refused():
    model = bert(2)
    attention = model.bert.encoder.layer[1].attention.self
    attention.questions = attention.query
    del attention.query
    with pytest.raises(UserError, match="BertForSequenceClassification.*--relation_weight"):
        LayerOutputReader(model, {"query": (2,)})


# ---- the losses of a step ----


def test_every_loss_on_layers_has_its_weight_and_its_option_among_the_arguments(tmp_path):
    args = arguments(tmp_path)
    for name, loss in LAYER_LOSSES.items():
        assert not args.uses(name) and args.derived(**{f"{name}_weight": 0.1}).uses(name)
        assert loss.option in vars(args)


@pytest.mark.parametrize("name", TINY_CLASSIFIERS)
def test_every_loss_is_0_for_the_teacher_itself_and_positive_for_a_student(tmp_path, name):
    args = arguments(tmp_path, **WEIGHTS)
    for layers, is_teacher in (((1, 2, 3), True), ((1, 2), False)):
        teacher = without_dropout(TINY_CLASSIFIERS[name](3, 3))
        student = without_dropout(build_student(teacher, layers)).train()
        of_layers = LayerLosses(args, student, teacher, layers)
        _, losses = of_layers.forward(student, batch(), of_layers.teacher_outputs(teacher, batch()))
        zeros = torch.zeros(4)
        # The compared layers are copies on copies. ModernBERT has one more norm after the last layer.
        if is_teacher or name != "modernbert":
            torch.testing.assert_close(losses["hidden"], zeros, rtol=0, atol=1e-6)
        torch.testing.assert_close(losses["attention"], zeros, rtol=0, atol=1e-6)
        assert (losses["relation"].max() < 1e-6) == is_teacher


def test_logged_losses_are_those_of_the_outputs(tmp_path):
    student, teacher, examples = bert(2), bert(3), random_examples(8)
    student.init_weights()
    expected = {"hidden": [], "relation": []}
    every_kind = ("hidden_states", *QUERY_KEY_VALUE)
    with torch.no_grad():
        for row in examples:
            inputs = {name: torch.tensor([row[name]]) for name in ("input_ids", "attention_mask", "token_type_ids")}
            mask = inputs["attention_mask"]
            s = LayerOutputReader(student, dict.fromkeys(every_kind, (1, 2))).run(student, **inputs).layers
            t = LayerOutputReader(teacher, dict.fromkeys(every_kind, (2, 3))).run(teacher, **inputs).layers
            pairs = [(s["hidden_states"][1], t["hidden_states"][3]), (s["hidden_states"][2], t["hidden_states"][2])]
            expected["hidden"].append(np.mean([hidden_state_loss(a, b, mask).item() for a, b in pairs]))
            relations = [relation_loss(s[kind][2], t[kind][3], mask, 4).item() for kind in QUERY_KEY_VALUE]
            expected["relation"].append(np.mean(relations))
    trainer = build_trainer(
        tmp_path, student, teacher, (3, 2), examples, **WEIGHTS, max_steps=1, per_device_train_batch_size=8
    )
    trainer.train()
    (log,) = step_logs(trainer)
    for name, values in expected.items():
        assert log[f"loss_{name}"] == pytest.approx(np.mean(values), rel=1e-4)


@pytest.mark.parametrize("name", LAYER_LOSSES)
def test_a_student_learns_from_each_loss_alone(tmp_path, name):
    student, teacher = bert(2), bert(3)
    student.init_weights()
    only = {"ce_weight": 0.0, "kl_weight": 0.0, f"{name}_weight": 1.0}
    trainer = build_trainer(tmp_path, student, teacher, (1, 3), **only, num_train_epochs=6, learning_rate=5e-3)
    trainer.train()
    losses = [log["loss"] for log in step_logs(trainer)]
    assert np.mean(losses[-3:]) < 0.6 * np.mean(losses[:3])


@pytest.mark.parametrize(("option", "value"), [("hidden_tokens", "first"), ("attention_divergence", "mse")])
def test_the_option_of_a_loss_says_how_it_compares(tmp_path, option, value):
    losses = {}
    for name, kwargs in (("default", {}), ("asked for", {option: value})):
        student, teacher = bert(2), bert(3)
        of_layers = LayerLosses(arguments(tmp_path, **WEIGHTS, **kwargs), student, teacher, (3, 2))
        with torch.no_grad():
            _, losses[name] = of_layers.forward(student, batch(), of_layers.teacher_outputs(teacher, batch()))
    changed = {name for name in WEIGHTS if not torch.equal(*(losses[how][name[:-7]] for how in losses))}
    assert changed == {f"{option.split('_')[0]}_weight"}


@pytest.mark.parametrize("name", [name for name in TINY_CLASSIFIERS if name != "mpnet"])  # which cannot
def test_activations_that_are_computed_again_give_the_same_steps(tmp_path, name):
    trained = []
    for is_computed_again in (False, True):
        student = build_student(TINY_CLASSIFIERS[name](3, 3), (1, 3))
        trainer = build_trainer(
            tmp_path,
            student,
            TINY_CLASSIFIERS[name](3, 3),
            (1, 2),
            random_examples(8).remove_columns("token_type_ids"),
            **WEIGHTS,
            ce_weight=0.0,
            kl_weight=0.0,
            max_steps=1,
            warmup_steps=0,
            activation_checkpointing=is_computed_again,
        )
        trainer.train()
        trained.append(weights(student))
    for parameter, expected in trained[0].items():
        torch.testing.assert_close(trained[1][parameter], expected)


def test_a_student_with_lora_adapters_learns_from_layers_too(tmp_path):
    student = get_peft_model(
        build_student(bert(3), (1, 3)), LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"])
    )
    trainer = build_trainer(tmp_path, student, bert(3, hidden_size=64), (1, 3), **WEIGHTS)
    trainer.train()
    trainer.save_model()
    assert {"loss_hidden", "loss_attention", "loss_relation"} <= step_logs(trainer)[0].keys()
    assert not any("projection" in key for key in load_file(tmp_path / "adapter_model.safetensors"))


def test_layers_of_a_module_that_is_no_pretrained_model_are_refused(tmp_path):
    for student, teacher in ((nn.Sequential(bert(2)), bert(3)), (bert(2), nn.Sequential(bert(3)))):
        with pytest.raises(UserError, match="--hidden_weight .* Sequential"):
            build_trainer(tmp_path, student, teacher, (1, 3), hidden_weight=1.0)


def test_layers_within_a_wrapped_teacher_or_in_tuples_are_compared_like_others(tmp_path):
    logs = {}
    adapters = LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"])
    for name, student, teacher in (
        ("plain", bert(2), bert(3)),
        ("PEFT", bert(2), get_peft_model(bert(3), adapters)),
        ("tuples", bert(2, return_dict=False), bert(3, return_dict=False)),
    ):
        trainer = build_trainer(tmp_path, student, teacher, (1, 3), **WEIGHTS, max_steps=1)
        trainer.train()
        logs[name] = step_logs(trainer)[0]
    assert logs["PEFT"] == pytest.approx(logs["plain"], rel=1e-5)
    assert logs["tuples"] == pytest.approx(logs["plain"], rel=1e-5)


# ---- students of another width ----


def test_a_projection_is_trained_with_a_narrow_student_and_is_no_part_of_it(tmp_path):
    student, teacher = bert(2, hidden_size=16), bert(3)
    names = student.state_dict().keys()
    trainer = build_trainer(tmp_path, student, teacher, (1, 3), **WEIGHTS, num_train_epochs=1, save_steps=1)
    before = trainer._layers.projection.weight.detach().clone()
    trainer.train()
    trainer.save_model()
    assert not torch.equal(trainer._layers.projection.weight, before)
    assert student.state_dict().keys() == names
    assert load_file(tmp_path / "model.safetensors").keys() == names


class CreatesItsOptimizer(DistillationTrainer):
    def create_optimizer(self, model=None):
        parameters = [p for name, p in self.model.named_parameters() if name.startswith(("bert.", "classifier."))]
        self.optimizer = torch.optim.SGD(parameters, 0.1)
        return self.optimizer


class CreatesBoth(CreatesItsOptimizer):
    def create_scheduler(self, num_training_steps, optimizer=None):
        self.lr_scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1)
        return self.lr_scheduler


def test_a_projection_is_trained_by_an_optimizer_that_does_not_know_it(tmp_path):
    subclasses = {"subclass": CreatesItsOptimizer, "subclass with a scheduler": CreatesBoth}
    for case in ("optimizer", "optimizer and scheduler", *subclasses):
        student = bert(2, hidden_size=16)
        optimizer = torch.optim.SGD([{"params": list(student.parameters()), "lr": 0.1}])
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1) if case == "optimizer and scheduler" else None
        trainer = subclasses.get(case, DistillationTrainer)(
            model=student,
            teacher_model=bert(3),
            teacher_layers=(1, 3),
            args=arguments(tmp_path, hidden_weight=1.0, max_steps=2),
            train_dataset=random_examples(17),
            data_collator=pad,
            optimizers=(None if case in subclasses else optimizer, scheduler),
        )
        before = trainer._layers.projection.weight.detach().clone()
        trainer.train()
        assert not torch.equal(trainer._layers.projection.weight, before)


def test_every_trial_of_a_search_compares_its_own_student_with_its_own_weights(tmp_path):
    """As `hyperparameter_search` does it: train, then forget the model."""
    settings = {"attention_weight": 1.0, "hidden_weight": 1.0, "max_steps": 2, "kl_weight": 0.0, "ce_weight": 0.0}
    rest = {"teacher_model": bert(3), "teacher_layers": (1, 3), "train_dataset": random_examples(17)}

    def student():
        return bert(2, hidden_size=16)

    logs = []
    trainer = DistillationTrainer(model_init=student, args=arguments(tmp_path, **settings), data_collator=pad, **rest)
    for kl_weight in (0.0, 1.0):
        trainer.args.kl_weight = kl_weight
        trainer.train()
        logs.append(step_logs(trainer))
        trainer.model_wrapped = trainer.model = None
        trainer.accelerator.clear()
    torch.manual_seed(42)
    given = DistillationTrainer(model=student(), args=arguments(tmp_path, **settings), data_collator=pad, **rest)
    given.train()
    for log in (logs[0][0], logs[1][0]):
        assert log["loss_attention"] == pytest.approx(step_logs(given)[0]["loss_attention"], rel=1e-6)
    assert "loss_kl" not in logs[0][0] and logs[1][0]["loss_kl"] > 0
    trainer.args.kl_weight = -1.0
    with pytest.raises(UserError, match="--kl_weight .* -1"):
        trainer.train()


def test_a_projection_is_refused_with_several_gpus_a_process(tmp_path, monkeypatch):
    monkeypatch.setattr(DistillationTrainingArguments, "n_gpu", 2)
    with pytest.raises(UserError, match="--hidden_weight .* would use 2"):
        build_trainer(tmp_path, bert(2, hidden_size=16), bert(3), (1, 3), hidden_weight=1.0)
    build_trainer(tmp_path, bert(2), bert(3), (1, 3), hidden_weight=1.0)


def test_a_killed_run_with_a_projection_goes_on_bit_for_bit(tmp_path):
    runs = {}
    for name in ("whole", "resumed"):
        torch.manual_seed(0)
        trainer = build_trainer(
            tmp_path / name,
            bert(2, hidden_size=16),
            bert(3),
            (1, 3),
            **WEIGHTS,
            num_train_epochs=2,
            save_strategy="steps",
            save_steps=4,
            linear_to={"kl_weight": 0.0},
        )
        trainer.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4") if name == "resumed" else None)
        runs[name] = weights(trainer.model), trainer._layers.projection.weight, step_logs(trainer)
    checkpoint = load_file(tmp_path / "whole" / "checkpoint-4" / "model.safetensors")
    assert checkpoint.keys() == runs["whole"][0].keys()
    assert all(torch.equal(runs["resumed"][0][key], weight) for key, weight in runs["whole"][0].items())
    assert torch.equal(runs["resumed"][1], runs["whole"][1])
    assert runs["resumed"][2][-2:] == runs["whole"][2][-2:]


# ---- stored hidden states ----


def test_stored_hidden_states_give_the_steps_of_a_teacher(tmp_path):
    teacher, examples, logs = bert(3), random_examples(17), {}
    of_cache = (tmp_path / "cache", pad)
    stored = add_teacher_logits(examples, teacher, *of_cache)
    stored = add_teacher_hidden_states(stored, teacher, (1, 3), *of_cache, max_bytes=10**6)
    for name, its_teacher, train in (("teacher", teacher, examples), ("stored", None, stored)):
        student = build_student(bert(3), (2, 1))
        collator = HiddenStatesCollator(pad)
        trainer = build_trainer(tmp_path, student, its_teacher, (1, 3), train, collator, hidden_weight=0.7)
        trainer.train()
        logs[name] = step_logs(trainer)
    for log, expected in zip(logs["stored"], logs["teacher"], strict=True):
        assert log["loss_hidden"] > 0.01
        assert log == pytest.approx(expected, rel=2e-3)  # float16 has 11 bits


def test_the_width_of_stored_hidden_states_is_enough_for_a_projection(tmp_path):
    teacher = bert(3)
    stored = add_teacher_hidden_states(random_examples(17), teacher, (3,), tmp_path / "cache", pad, max_bytes=10**6)
    only = {"ce_weight": 0.5, "kl_weight": 0.0, "hidden_weight": 0.5}
    for train in (stored, stored.with_format(None).to_iterable_dataset()):
        trainer = build_trainer(
            tmp_path, bert(1, hidden_size=16), None, (3,), train, HiddenStatesCollator(pad), **only, max_steps=2
        )
        assert trainer._layers.projection.weight.shape == (32, 16)
        trainer.train()
        assert step_logs(trainer)[0]["loss_hidden"] > 0


# ---- schedules ----


def test_weights_and_temperature_change_linearly_to_their_last_values(tmp_path):
    schedule = {"ce_weight": 1.0, "kl_weight": 0.0, "temperature": 1.0}
    constant = {"ce_weight": 0.2, "kl_weight": 0.8, "temperature": 5.0}
    trainer = build_trainer(tmp_path, bert(1), bert(3), **constant, linear_to=schedule, max_steps=5)
    trainer.train()
    logs = step_logs(trainer)
    for step, log in enumerate(logs):
        ce, kl = 0.2 + 0.2 * step, 0.8 - 0.2 * step
        assert log["loss"] == pytest.approx(ce * log["loss_ce"] + kl * log["loss_kl"], rel=1e-5)
    assert trainer.args.at_progress("temperature", 0.5) == 3.0
    assert trainer.state.log_history[-1]["train_loss"] == pytest.approx(
        np.mean([log["loss"] for log in logs]), rel=1e-5
    )


def test_a_temperature_that_changes_softens_each_step_as_its_value_then_does(tmp_path):
    logs = {}
    for name, kwargs in (("constant", {"temperature": 1.0}), ("changing", {"linear_to": {"temperature": 1.0}})):
        kwargs = {"temperature": 4.0, **kwargs}
        trainer = build_trainer(tmp_path, bert(1), bert(3), max_steps=2, learning_rate=1e-12, **kwargs)
        trainer.train()
        logs[name] = step_logs(trainer)
    assert logs["changing"][0]["loss_kl"] != pytest.approx(logs["constant"][0]["loss_kl"], rel=1e-2)
    assert logs["changing"][1]["loss_kl"] == pytest.approx(logs["constant"][1]["loss_kl"], rel=1e-5)


def test_a_schedule_may_come_as_json_and_end_at_a_loss_that_is_off_before(tmp_path):
    args = arguments(tmp_path, kl_weight=0.0, linear_to='{"kl_weight": 0.5}')
    assert args.needs_teacher and args.at_progress("kl_weight", 0.5) == 0.25


# ---- token classification ----


def test_the_loss_of_tokens_is_that_of_the_models_own_head(tmp_path):
    student, examples = token_classifier(1), token_examples(8)
    with torch.no_grad():
        expected = student(**pad(list(examples))).loss.item()
    labels_only = {"ce_weight": 1.0, "kl_weight": 0.0}
    trainer = build_trainer(
        tmp_path, student, train=examples, **labels_only, max_steps=1, per_device_train_batch_size=8
    )
    assert trainer.evaluate(token_examples(4))["eval_loss"] > 0
    trainer.train()
    assert step_logs(trainer)[0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_tokens_without_a_label_do_not_contribute(tmp_path):
    logs = []
    for seed in (0, 1):
        teacher = token_classifier(3)

        def change_first_token(module, inputs, output, seed=seed):  # whose label is -100
            output["logits"][:, 0] += seed

        teacher.register_forward_hook(change_first_token)
        trainer = build_trainer(tmp_path, token_classifier(1), teacher, train=token_examples(17), cosine_weight=0.5)
        trainer.train()
        logs.append(step_logs(trainer))
    assert logs[0] == logs[1]


def test_a_step_without_any_label_learns_nothing_from_labels(tmp_path):
    unlabelled = token_examples(8).map(lambda row: {"labels": [-100] * len(row["labels"])})
    trainer = build_trainer(tmp_path, token_classifier(1), token_classifier(3), train=unlabelled, max_steps=1)
    trainer.train()
    assert step_logs(trainer)[0]["loss"] == 0


def test_a_model_of_tokens_needs_labels(tmp_path):
    unlabelled = random_examples(8).remove_columns("labels")
    trainer = build_trainer(tmp_path, token_classifier(1), token_classifier(3), train=unlabelled, ce_weight=0.0)
    with pytest.raises(UserError, match="`labels`.* -100"):
        trainer.train()


# ---- what is refused ----


@pytest.mark.parametrize(
    ("student", "teacher", "layers", "kwargs", "message"),
    [
        ({}, {}, None, {"hidden_weight": 1.0}, "--hidden_weight .* `teacher_layers` .* 2 layers, found None"),
        ({}, {}, (1, 2, 3), {"attention_weight": 1.0}, r"--attention_weight .* 2 layers, found \(1, 2, 3\)"),
        ({}, {}, (1, 4), {"hidden_weight": 1.0}, r"`teacher_layers` .* 1 to 3, found \(1, 4\)"),
        ({}, None, (1, 3), {"attention_weight": 1.0}, "--attention_weight .* `teacher_model`"),
        ({"num_attention_heads": 2}, {}, (1, 3), {"attention_weight": 1.0}, "--attention_weight .* 2 .* 4"),
    ],
    ids=str,
)
def test_models_that_lack_what_a_loss_compares_are_refused(tmp_path, student, teacher, layers, kwargs, message):
    teacher = None if teacher is None else bert(3, **teacher)
    with pytest.raises(UserError, match=message):
        LayerLosses(arguments(tmp_path, **kwargs), bert(2, **student), teacher, layers)


@pytest.mark.parametrize(
    "make_layers",
    [lambda: np.array([1, 3]), lambda: torch.tensor([1, 3]), lambda: (n for n in (1, 3))],
    ids=["array", "tensor", "generator"],
)
def test_teacher_layers_may_be_what_the_layers_of_a_student_may_be(tmp_path, make_layers):
    """Also after another model, for which the trainer reads them again."""
    trainer = DistillationTrainer(
        model_init=lambda: bert(2),
        args=arguments(tmp_path, hidden_weight=1.0, max_steps=1),
        teacher_model=bert(3),
        teacher_layers=make_layers(),
        train_dataset=random_examples(17),
        data_collator=pad,
    )
    assert trainer.train().global_step == 1


@pytest.mark.parametrize("layers", ["13", {1, 3}], ids=str)
def test_teacher_layers_that_are_no_sequence_of_whole_numbers_are_refused(tmp_path, layers):
    with pytest.raises(UserError, match="`teacher_layers` must be a sequence of whole numbers"):
        build_trainer(tmp_path, bert(2), bert(3), layers, hidden_weight=1.0)


def test_hidden_states_that_are_not_stored_are_named(tmp_path):
    with pytest.raises(UserError, match="`teacher_logits`, `teacher_hidden_states_3`"):
        build_trainer(tmp_path, bert(1), None, (3,), hidden_weight=1.0).train()
