"""Tests of `layer_similarity`: linear CKA against its kernel form, and measures that padding does not change."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence

from experiments.tiny_classifiers import tiny_classifier
from layer_distillation.encoder_layers import find_layer_list
from layer_mapping import build_student
from tests.tiny_models import TINY_CLASSIFIERS
from training.layer_similarity import cka_matrix, layer_changes, layer_features, linear_cka, sentence_features

ROWS = [{"input_ids": list(range(5, 5 + length)), "attention_mask": [1] * length} for length in (3, 12, 7, 20, 5)]


def collate(rows):
    return {name: pad_sequence([torch.tensor(row[name]) for row in rows], batch_first=True) for name in rows[0]}


def hsic(first, second):
    """Hilbert-Schmidt independence criterion of two linear kernels, from its definition."""
    number = len(first)
    centering = np.eye(number) - 1 / number
    return np.trace(first @ first.T @ centering @ second @ second.T @ centering) / (number - 1) ** 2


@pytest.fixture
def features():
    draws = np.random.default_rng(0)
    return draws.normal(size=(40, 6)) + 3, draws.normal(size=(40, 9)) - 1


def test_it_is_the_normalized_independence_criterion_of_the_linear_kernels(features):
    first, second = features
    expected = hsic(first, second) / np.sqrt(hsic(first, first) * hsic(second, second))
    assert linear_cka(first, second) == pytest.approx(expected)


def test_it_is_1_for_rotated_scaled_and_shifted_features_and_small_for_unrelated_ones(features):
    first, second = features
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))
    assert linear_cka(first, 7 * first @ rotation + 2) == pytest.approx(1)
    assert linear_cka(first, second) < 0.3


def states_alone(model, row):
    """The embeddings of an example and the output of every layer, `(tokens, hidden)` each, the last one too."""
    outputs, layers = [], model.get_submodule(find_layer_list(model))
    handle = layers[-1].register_forward_hook(lambda *args: outputs.append(args[-1]))
    with torch.no_grad():
        states = model(**collate([row]), output_hidden_states=True).hidden_states
    handle.remove()
    (last,) = outputs
    return [state[0].numpy() for state in (*states[:-1], last[0] if isinstance(last, tuple) else last)]


@pytest.mark.parametrize("name", TINY_CLASSIFIERS)
def test_features_are_the_mean_hidden_states_of_the_real_tokens_whatever_the_padding(name):
    model = TINY_CLASSIFIERS[name](4, 2)
    dataset = Dataset.from_list(ROWS)
    features = layer_features(model, dataset, collate, batch_size=2)
    assert features.shape == (4, 5, 32)
    for index, row in enumerate(ROWS):
        expected = [state.mean(axis=0) for state in states_alone(model, row)[1:]]
        np.testing.assert_allclose(features[:, index], expected, atol=2e-4)


def test_features_in_bfloat16_are_those_in_float32_but_for_the_rounding():
    model = TINY_CLASSIFIERS["bert"](4, 2)
    dataset = Dataset.from_list(ROWS)
    rounded, expected = (layer_features(model, dataset, collate, bf16=bf16) for bf16 in (True, False))
    assert rounded.dtype == np.float32 and not np.array_equal(rounded, expected)
    np.testing.assert_allclose(rounded, expected, atol=0.05)


def test_a_student_is_alike_its_teacher_layer_by_layer_as_long_as_its_layers_follow_each_other():
    teacher = TINY_CLASSIFIERS["bert"](4, 2)
    dataset = Dataset.from_list(ROWS)
    student = build_student(teacher, (1, 2))
    similarity = cka_matrix(*(layer_features(model, dataset, collate) for model in (teacher, student)))
    assert similarity.shape == (4, 2)
    assert np.diagonal(similarity) == pytest.approx([1, 1])
    assert similarity[3, 0] < 0.999


@pytest.mark.parametrize("name", TINY_CLASSIFIERS)
def test_changes_are_those_of_each_example_by_itself_from_the_definitions(name):
    model = TINY_CLASSIFIERS[name](4, 2)
    cosines, means = [], []
    for row in ROWS:
        states = [state.astype(np.float64) for state in states_alone(model, row)]
        means.append([state.mean(axis=0) for state in states])
        lengths = [np.sqrt((state**2).sum(axis=1)) for state in states]
        cosines.append([(states[k] * states[k + 1]).sum(axis=1) / (lengths[k] * lengths[k + 1]) for k in range(4)])
    influence = [1 - np.concatenate([row[k] for row in cosines]).mean() for k in range(4)]
    features = [np.array([row[k] for row in means]) for k in range(5)]
    cka = [
        1
        - hsic(features[k], features[k + 1])
        / np.sqrt(hsic(features[k], features[k]) * hsic(features[k + 1], features[k + 1]))
        for k in range(4)
    ]
    changes = layer_changes(model, Dataset.from_list(ROWS), collate, batch_size=2)
    assert changes["block_influence"] == pytest.approx(influence, abs=1e-4)
    assert changes["cka"] == pytest.approx(cka, abs=1e-4)
    assert min(cka) > 1e-3 and min(influence) > 1e-3, "nothing to tell apart"


@pytest.mark.parametrize("name", ["squeezebert", "xlnet"])
def test_models_whose_layers_cannot_be_read_give_the_states_that_they_return(name):
    model = tiny_classifier(name).eval()
    row = {"input_ids": [1, 5, 6, 7, 2, 3], "attention_mask": [1] * 6}
    features = layer_features(model, Dataset.from_list([row]), collate)
    with torch.no_grad():
        states = model(**collate([row]), output_hidden_states=True).hidden_states[1:]
    np.testing.assert_allclose(features[:, 0], [state[0].mean(dim=0).numpy() for state in states], atol=2e-4)


@pytest.mark.parametrize("number", [3, 4])
def test_a_layer_that_hands_on_what_it_gets_changes_nothing(number):
    model = TINY_CLASSIFIERS["modernbert"](4, 2)  # a layer adds to its input
    layer = model.model.layers[number - 1]
    with torch.no_grad():
        layer.attn.Wo.weight.zero_()
        layer.mlp.Wo.weight.zero_()
        model.model.final_norm.weight.uniform_(0.1, 3)  # which is no part of the last layer
    for changes in layer_changes(model, Dataset.from_list(ROWS), collate).values():
        assert changes[number - 1] == pytest.approx(0, abs=1e-5)
        assert np.argmin(changes) == number - 1


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_features_of_sentences_are_the_means_of_what_the_head_gets(name):
    model = TINY_CLASSIFIERS[name](4, 2)
    features = sentence_features(model, Dataset.from_list(ROWS), collate, batch_size=2)
    assert features.shape == (5, 32)
    for index, row in enumerate(ROWS):
        with torch.no_grad():
            state = model.base_model(**collate([row])).last_hidden_state[0]
        np.testing.assert_allclose(features[index], state.mean(dim=0).numpy(), atol=2e-4)
