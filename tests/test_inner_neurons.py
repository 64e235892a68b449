"""Students that keep all layers and some of their inner neurons."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, BatchEncoding

import run_distillation
import run_lora
from experiments.tiny_classifiers import tiny_classifier
from layer_distillation.encoder_layers import num_layers
from layer_distillation.errors import UserError
from layer_distillation.inner_neurons import inner_projections, inner_width, keep_neurons
from layer_mapping import build_student, select_layers
from lora_adapters.loading import load_adapter
from tests.script_runs import read_record, run_main
from training.arguments import StudentArguments
from training.neuron_choice import most_important, neuron_importance

# Separate maps, gates in one map and in two, `Conv1D`, and a config with another name for the width.
ARCHITECTURES = ("bert", "deberta-v2", "modernbert", "llama", "phi3", "gpt2", "distilbert")


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, 6:] = 0
    return {"input_ids": torch.randint(3, 99, (3, 9), generator=generator) * mask, "attention_mask": mask}


def logits_with_factors(model, batch, factors):
    """The logits when the outputs of the inner neurons of each layer are multiplied by factors."""
    hooks = [
        projection.register_forward_pre_hook(lambda _, inputs, factor=factor: (inputs[0] * factor,))
        for projection, factor in zip(inner_projections(model), factors, strict=True)
    ]
    logits = model(**batch).logits
    for hook in hooks:
        hook.remove()
    return logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_student_computes_what_its_teacher_does_with_the_other_inner_neurons_at_zero(architecture, batch, tmp_path):
    teacher = tiny_classifier(architecture)
    generator = np.random.default_rng(0)
    neurons = [np.sort(generator.permutation(inner_width(teacher))[:20]) for _ in range(num_layers(teacher))]
    factors = torch.zeros(num_layers(teacher), inner_width(teacher))
    for factor, kept in zip(factors, neurons, strict=True):
        factor[kept] = 1
    keep_neurons(teacher, neurons).save_pretrained(tmp_path)
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected, all_neurons = logits_with_factors(teacher, batch, factors), teacher(**batch).logits
        torch.testing.assert_close(student(**batch).logits, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, all_neurons, atol=1e-3)


def test_layers_and_neurons_are_chosen_together(batch):
    teacher = tiny_classifier("bert")
    neurons = [range(0, 64, 2), range(32)]
    student = build_student(teacher, [2, 5], neurons)
    torch.testing.assert_close(
        student(**batch).logits, keep_neurons(build_student(teacher, [2, 5]), neurons)(**batch).logits
    )
    torch.testing.assert_close(
        student.bert.encoder.layer[0].output.dense.weight, teacher.bert.encoder.layer[1].output.dense.weight[:, ::2]
    )


@pytest.mark.parametrize("architecture", ["mobilebert", "mixtral", "openai-gpt"])
def test_feed_forward_parts_of_another_structure_are_refused(architecture):
    teacher = tiny_classifier(architecture)
    with pytest.raises(UserError, match="--layer_strategy narrow"):
        keep_neurons(teacher, [range(8)] * 6)


def test_importance_is_the_squared_derivative_of_the_logit_by_a_factor_on_the_neuron(batch):
    # With one logit the random sign has no effect.
    teacher = tiny_classifier("bert", num_labels=1)
    expected = torch.zeros(6, 64)
    for row in range(3):
        factors = torch.ones(6, 64, requires_grad=True)
        one = {name: values[row : row + 1] for name, values in batch.items()}
        expected += torch.autograd.grad(logits_with_factors(teacher, one, factors).sum(), factors)[0].square() / 3
    dataset = Dataset.from_dict({name: values.tolist() for name, values in batch.items()})
    importance = neuron_importance(teacher, dataset, collate, batch_size=2)
    np.testing.assert_allclose(importance, expected.numpy(), rtol=1e-4)
    kept = most_important(importance, 5)
    assert [set(layer) for layer in kept] == [set(np.argsort(row)[-5:]) for row in expected.numpy()]


def collate(rows):
    return BatchEncoding({name: torch.tensor([row[name] for row in rows]) for name in rows[0]})


def test_narrow_keeps_every_layer_and_takes_no_depth():
    assert select_layers("narrow", 4) == (1, 2, 3, 4)
    with pytest.raises(UserError, match="--num_student_layers"):
        select_layers("narrow", 4, 2)
    with pytest.raises(UserError, match="--student_intermediate_size .*100"):
        StudentArguments("odd", student_intermediate_size=100)
    with pytest.raises(UserError, match="--student_intermediate_size .*100 with --layers 1,2"):
        StudentArguments("narrow", layers="1,2", student_intermediate_size=100)
    with pytest.raises(UserError, match="--student_name_or_path .*--student_intermediate_size"):
        StudentArguments(student_name_or_path="bert", student_intermediate_size=100)


@pytest.mark.usefixtures("script_caches")
def test_a_narrow_student_is_trained_recorded_and_rebuilt_for_its_adapter(make_teacher, files, tmp_path):
    arguments = ["--teacher_name_or_path", make_teacher(["bad", "good"]), *files, "--max_steps", 2]
    arguments += ["--layer_strategy", "narrow", "--student_intermediate_size", 8]
    run_main(run_distillation, *arguments, "--output_dir", tmp_path / "student")
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    record = read_record(tmp_path / "student")["student"]
    assert record["num_layers"] == len(record["layers"]) == num_layers(student)
    assert [len(kept) for kept in record["neurons"]] == [inner_width(student)] * num_layers(student) == [8] * 4
    run_main(run_lora, *arguments, "--output_dir", tmp_path / "adapter")
    assert inner_width(load_adapter(tmp_path / "adapter").merge_and_unload()) == 8
