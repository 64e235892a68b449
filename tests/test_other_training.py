"""Tests of `experiments.other_training`: ways of training that the trainer does not have."""

import pytest
import torch
from datasets import Dataset

from distill_trainer import DistillationTrainer, DistillationTrainingArguments
from experiments.other_training import RDropTrainer, Replacement
from layer_mapping import build_student
from tests.tiny_models import TINY_CLASSIFIERS


def tiny_bert(num_layers, dropout):
    dropouts = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout, "classifier_dropout": 0.0}
    return TINY_CLASSIFIERS["bert"](num_layers, num_labels=2, **dropouts)


@pytest.fixture(scope="module")
def teacher():
    return tiny_bert(num_layers=2, dropout=0.0)


def test_the_teachers_layers_answer_first_and_the_students_layer_at_the_end(teacher):
    student = build_student(teacher, (1,))
    layer = student.bert.encoder.layer[0]
    with torch.no_grad():
        layer.output.dense.bias += 1.0
    before_hook = student.eval()(torch.tensor([[2, 3, 4]])).logits
    layer.register_forward_hook(Replacement(teacher.bert.encoder.layer, calls=3, start=0.0), with_kwargs=True)
    student.train()
    answers = [student(torch.tensor([[2, 3, 4]])).logits for _ in range(5)]
    assert torch.equal(answers[0], teacher(torch.tensor([[2, 3, 4]])).logits)
    assert torch.equal(answers[3], before_hook) and torch.equal(answers[4], before_hook)


def test_a_replaced_layer_answers_in_evaluation(teacher):
    student = build_student(teacher, (1,))
    expected = student(torch.tensor([[2, 3, 4]])).logits
    hook = Replacement(teacher.bert.encoder.layer, calls=3, start=0.0)
    student.bert.encoder.layer[0].register_forward_hook(hook, with_kwargs=True)
    assert torch.equal(student.eval()(torch.tensor([[2, 3, 4]])).logits, expected)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_r_drop_adds_how_far_two_passes_differ(dropout, tmp_path):
    model = tiny_bert(num_layers=1, dropout=dropout).train()
    args = DistillationTrainingArguments(str(tmp_path), ce_weight=1, kl_weight=0, report_to="none", use_cpu=True)
    data = Dataset.from_dict({"input_ids": [[2, 3, 4]] * 2, "labels": [0, 1]})
    inputs = {"input_ids": torch.tensor([[2, 3, 4], [2, 5, 6]]), "labels": torch.tensor([0, 1])}
    losses, logits = [], []
    trainer, r_drop = (kind(model, args, train_dataset=data) for kind in (DistillationTrainer, RDropTrainer))
    torch.manual_seed(0)
    for _ in range(2):
        loss, outputs = trainer.compute_loss(model, inputs, return_outputs=True)
        losses.append(loss)
        logits.append(outputs.logits.log_softmax(dim=-1))
    one, other = logits
    # KL(p || q) + KL(q || p) = sum of (p - q)(log p - log q)
    divergence = ((one.exp() - other.exp()) * (one - other)).sum(dim=-1).mean()
    torch.manual_seed(0)
    loss = r_drop.compute_loss(model, inputs)
    torch.testing.assert_close(loss, (sum(losses) + divergence) / 2)
    assert (divergence > 1e-6) == (dropout > 0)
