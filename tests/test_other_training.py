"""Tests of `experiments.other_training`, and of what `student_recipes` and `better_students` make of data and runs."""

import base64

import numpy as np
import pytest
import torch
from datasets import Dataset

from comparison.bootstrap import difference, pooled_seed_variance
from distill_trainer import DistillationTrainer, DistillationTrainingArguments
from experiments.better_students import leads_in, scores_of
from experiments.other_training import RDropTrainer, Replacement
from experiments.student_recipes import Task, corrected
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


def test_where_the_teacher_is_wrong_its_highest_logit_goes_to_the_label():
    train = Dataset.from_dict({"labels": [0, 1, 2], "teacher_logits": [[3.0, 1.0, 2.0]] * 3})
    task = Task(train, splits={}, teacher=None, tokenizer=None)
    assert corrected(task)["teacher_logits"][:] == [[3.0, 1.0, 2.0], [1.0, 3.0, 2.0], [2.0, 1.0, 3.0]]


def test_a_recipe_is_compared_with_its_control_and_the_default_with_nothing():
    def runs(recipe, shares):
        marks = [np.arange(10000) < 10000 * share for share in shares]
        rights = [base64.b64encode(np.packbits(mark)).decode() for mark in marks]
        return [{"recipe": recipe, "seed": seed, "choosing_right": right} for seed, right in enumerate(rights)]

    groups = {
        "default": runs("default", (0.90, 0.91, 0.92)),
        "as_many_steps": runs("as_many_steps", (0.93, 0.94, 0.95)),
        "more_text": runs("more_text", (0.92, 0.93, 0.94)),
        "soup": runs("soup", (0.5, 0.7, 0.9)),
        "merged": runs("merged", (0.5,)),
    }
    leads = leads_in(groups, "choosing")
    assert leads.keys() == {"more_text", "soup"}, "one run says nothing, and as_many_steps lacks its control"
    scores = {name: scores_of(members, "choosing") for name, members in groups.items()}
    # A mean of several students varies less than the others: it tells nothing about how far their seeds differ.
    seeds = pooled_seed_variance(scores[name] for name in ("default", "as_many_steps", "more_text"))
    assert leads["more_text"].points == difference(scores["more_text"], scores["as_many_steps"], seeds).points
