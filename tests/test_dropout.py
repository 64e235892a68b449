"""The option that sets the student's dropout, and how dropout is drawn on a processor."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from distill_trainer import DistillationTrainer
from experiments.tiny_classifiers import tiny_classifier
from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.dropout import dropout_drawn_quickly, quick_dropout, set_dropout
from layer_distillation.errors import UserError

# Held in modules, and in numbers that the attention reads.
ARCHITECTURES = {
    "bert": {},
    "distilbert": {},
    "deberta-v2": {},
    "modernbert": {"attention_dropout": 0.5, "mlp_dropout": 0.5},
    "llama": {"attention_dropout": 0.5},
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_dropout_a_model_computes_the_same_in_training_as_in_evaluation(architecture):
    model = tiny_classifier(architecture, **ARCHITECTURES[architecture])
    ids = torch.arange(3, 21).view(2, 9)
    expected = model(input_ids=ids).logits
    model.train()
    assert not torch.allclose(model(input_ids=ids).logits, expected, atol=1e-4)
    set_dropout(model, 0.0)
    torch.testing.assert_close(model(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("none", [0.0, 0])
@pytest.mark.parametrize(
    ("architecture", "rates"),
    [
        ("modernbert", ("attention_dropout", "mlp_dropout", "embedding_dropout", "classifier_dropout")),
        ("llama", ("attention_dropout",)),
        ("starcoder2", ("attention_dropout", "residual_dropout", "embedding_dropout")),
        ("xlm", ("dropout", "attention_dropout", "summary_first_dropout")),
        ("xlnet", ("dropout", "summary_last_dropout")),
    ],
)
def test_a_rate_of_0_is_raised_as_any_other(architecture, rates, none):
    def in_training(built_with):
        model = tiny_classifier(architecture, **dict.fromkeys(rates, built_with))
        set_dropout(model, 0.3)
        torch.manual_seed(0)
        return model.train()(input_ids=torch.arange(3, 21).view(2, 9)).logits

    torch.testing.assert_close(in_training(none), in_training(0.2))


def test_what_switches_something_is_no_rate():
    model = tiny_classifier("esm")
    set_dropout(model, 0.3)
    assert model.esm.embeddings.token_dropout is False


@pytest.mark.parametrize(("rate", "is_warned"), [(0.3, True), (0.1, False)])
def test_a_rate_that_a_model_reads_from_its_config_is_named(rate, is_warned, caplog):
    set_dropout(tiny_classifier("persimmon", attention_dropout=0.1), rate)
    assert ("attention_dropout, 0.1: Persimmon" in caplog.text) == is_warned


def test_adapters_keep_their_dropout():
    model = get_peft_model(tiny_classifier("bert"), LoraConfig(target_modules=["query"], lora_dropout=0.3))
    set_dropout(model, 0.0)
    rates = {module.p for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.0, 0.3}


def test_a_rate_outside_0_to_1_is_refused():
    for rate in (-0.1, 1.0):
        with pytest.raises(UserError, match=f"--student_dropout .*{rate}"):
            DistillationTrainingArguments(student_dropout=rate)


@pytest.mark.parametrize("is_renewed", [False, True])
def test_the_trainer_sets_the_rate_of_every_student(is_renewed, tmp_path):
    args = DistillationTrainingArguments(
        output_dir=str(tmp_path), student_dropout=0.25, kl_weight=0, max_steps=1, report_to="none", save_strategy="no"
    )
    rows = [{"input_ids": [3, 4, 5], "labels": 1}] * 2
    model = {"model_init": lambda: tiny_classifier("bert")} if is_renewed else {"model": tiny_classifier("bert")}
    trainer = DistillationTrainer(args=args, train_dataset=rows, **model)
    trainer.train()
    rates = {module.p for module in trainer.model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.25} and trainer.model.config.hidden_dropout_prob == 0.1


# ---- Drawing ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("rate", [0.0002, 0.1, 0.5, 0.9])
def test_values_are_dropped_with_the_rate_and_the_rest_is_scaled(rate, dtype):
    torch.manual_seed(0)
    number = 2**20 + 3
    values = torch.full((number,), 3.0, dtype=dtype, requires_grad=True)
    dropped = quick_dropout(values, rate)
    standard_error = (rate * (1 - rate) / number) ** 0.5
    assert (dropped == 0).double().mean().item() == pytest.approx(rate, abs=4 * standard_error + 2**-17)
    scale = dropped[dropped != 0].unique() / 3
    assert scale.tolist() == pytest.approx([1 / (1 - rate)], rel=2 * torch.finfo(dtype).eps + 1e-4)
    dropped.sum().backward()
    torch.testing.assert_close(values.grad * 3, dropped.detach())


def test_values_are_dropped_independently_of_their_neighbors_and_of_other_draws():
    torch.manual_seed(0)
    first, second = (quick_dropout(torch.ones(2**20), 0.5) - 1 for _ in range(2))
    others = [first.roll(distance) for distance in (1, 2, 3, 4, 5, 8, 64)]
    for other in (second, *others):
        assert abs((first * other).mean()) < 4 / 2**10


@pytest.mark.parametrize(
    ("rate", "training", "inplace"), [(0.0, True, False), (1.0, True, False), (0.3, False, False)]
)
def test_where_nothing_is_drawn_it_is_the_function_of_torch(rate, training, inplace):
    values = torch.randn(5)
    expected = torch.nn.functional.dropout(values, rate, training)
    assert torch.equal(quick_dropout(values, rate, training, inplace), expected)


def test_in_place_values_are_dropped_in_place():
    values = torch.ones(64)
    assert quick_dropout(values, 0.5, inplace=True) is values and (values == 0).any()


def test_modules_and_functions_within_draw_quickly_and_after_it_as_before():
    values, module = torch.ones(1000), torch.nn.Dropout(0.25)

    def draw(function):
        torch.manual_seed(7)
        return function(values)

    quick, plain = draw(lambda values: quick_dropout(values, 0.25)), draw(module)
    assert not torch.equal(quick, plain)
    with dropout_drawn_quickly():
        assert torch.equal(draw(module), quick)
        assert torch.equal(draw(lambda values: torch.nn.functional.dropout(values, p=0.25)), quick)
    assert torch.equal(draw(module), plain)


def test_a_layer_that_is_computed_again_for_its_gradients_drops_the_same_values():
    def gradient(is_repeated):
        torch.manual_seed(0)
        model = tiny_classifier("bert")
        model.train()
        if is_repeated:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with dropout_drawn_quickly():
            model(input_ids=torch.arange(3, 21).view(2, 9), labels=torch.tensor([0, 1])).loss.backward()
        return model.get_input_embeddings().weight.grad

    torch.testing.assert_close(gradient(True), gradient(False))


@pytest.mark.parametrize(("precision", "of_a_layer"), [("float32", 2), ("bfloat16", 3)])
def test_the_trainer_draws_the_dropout_of_a_student_quickly(precision, of_a_layer, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("layer_distillation.dropout.quick_dropout", lambda *args, **_: calls.append(1) or args[0])
    args = DistillationTrainingArguments(
        output_dir=str(tmp_path),
        bf16=precision == "bfloat16",
        use_cpu=True,
        kl_weight=0,
        max_steps=2,
        report_to="none",
        save_strategy="no",
    )
    model = tiny_classifier("bert")
    DistillationTrainer(model, args, train_dataset=[{"input_ids": [3, 4, 5], "labels": 1}] * 2).train()
    layers = model.config.num_hidden_layers
    # Embeddings, two outputs of each layer, head; in bfloat16 also the attention.
    assert len(calls) == 2 * (1 + of_a_layer * layers + 1)
