"""Gradients that are clipped within the step of the optimizer."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from distill_trainer import DistillationTrainer
from tests.workers.train_worker import arguments, bert, pad

ROWS = [{"input_ids": list(range(3, 20 + i)), "labels": i % 2} for i in range(12)]


class Seen(TrainerCallback):
    """Keeps the norms of the gradients after each step."""

    def __init__(self):
        self.norms, self.scales = [], []

    def on_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
        self.norms.append(nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())
        self.scales.append(optimizer.optimizer.grad_scale if hasattr(optimizer.optimizer, "grad_scale") else None)


class SeenBefore(Seen):
    """Also keeps them before each step."""

    def __init__(self):
        super().__init__()
        self.before = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.before.append(nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())


def train(folder, callback, monkeypatch, optimizer_cls_and_kwargs=None, base=DistillationTrainer, **options):
    """Returns the trainer after three steps, and how often `torch.nn.utils.clip_grad_norm_` was called in them."""
    calls, at_once = [], nn.utils.clip_grad_norm_
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda *a, **k: calls.append(1) or at_once(*a, **k))
    defaults = {"kl_weight": 0, "max_steps": 3, "per_device_train_batch_size": 4, "adam_epsilon": 1e-3}
    args = arguments(folder, **defaults, **options)
    torch.manual_seed(0)
    own = {"optimizer_cls_and_kwargs": optimizer_cls_and_kwargs} if optimizer_cls_and_kwargs else {}
    trainer = base(bert(2), args, pad, train_dataset=ROWS, callbacks=[callback], **own)
    trainer.train()
    return trainer, len(calls)


def norms(trainer):
    return [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]


@pytest.mark.parametrize("max_grad_norm", [1e-2, 1.0, 1e3])
def test_the_weights_and_norms_are_those_of_clipping_at_once(max_grad_norm, tmp_path, monkeypatch):
    found, calls = train(tmp_path, Seen(), monkeypatch, max_grad_norm=max_grad_norm)
    expected, calls_at_once = train(tmp_path, SeenBefore(), monkeypatch, max_grad_norm=max_grad_norm)
    assert (calls, calls_at_once) == (0, 3)
    assert norms(found) == pytest.approx(norms(expected), rel=1e-5)
    for (name, weight), other in zip(found.model.named_parameters(), expected.model.parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-5, atol=1e-6, msg=name)


def test_gradients_are_clipped_after_the_step_and_before_it_for_callbacks_that_look(tmp_path, monkeypatch):
    seen, seen_before = Seen(), SeenBefore()
    trainer, _ = train(tmp_path, seen, monkeypatch, max_grad_norm=1e-2)
    train(tmp_path, seen_before, monkeypatch, max_grad_norm=1e-2)
    assert seen.norms == pytest.approx([1e-2] * 3, rel=1e-3) and min(norms(trainer)) > 0.1
    assert seen_before.before == seen_before.norms == pytest.approx([1e-2] * 3, rel=1e-3)


def test_later_steps_of_the_optimizer_scale_nothing(tmp_path, monkeypatch):
    seen = Seen()
    trainer, _ = train(tmp_path, seen, monkeypatch, max_grad_norm=1e-2)
    optimizer = trainer.optimizer.optimizer
    assert seen.scales == [None] * 3 and optimizer.grad_scale is None and not optimizer._optimizer_step_post_hooks
    gradients = [torch.ones_like(p) for p in trainer.model.parameters()]
    for parameter, gradient in zip(trainer.model.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()
    optimizer.step()
    assert all(torch.equal(p.grad, one) for p, one in zip(trainer.model.parameters(), gradients, strict=True))
    assert "_clip_grad_norm" not in vars(trainer)
    trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), 1.0)  # at once again
    assert nn.utils.get_total_norm([p.grad for p in trainer.model.parameters()]).item() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd", "adafactor"])
def test_other_optimizers_get_clipped_gradients(optim, tmp_path, monkeypatch):
    seen = Seen()
    _, calls = train(tmp_path, seen, monkeypatch, max_grad_norm=1e-2, optim=optim)
    assert calls == 3 and seen.norms == pytest.approx([1e-2] * 3, rel=1e-3)


class OwnStep(torch.optim.AdamW):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter -= group["lr"] * parameter.grad


def test_an_optimizer_with_a_step_of_its_own_gets_clipped_gradients(tmp_path, monkeypatch):
    seen = Seen()
    _, calls = train(
        tmp_path, seen, monkeypatch, max_grad_norm=1e-2, optimizer_cls_and_kwargs=(OwnStep, {"fused": True})
    )
    assert calls == 3 and seen.norms == pytest.approx([1e-2] * 3, rel=1e-3)


class ClipsAPart(DistillationTrainer):
    def training_step(self, model, *args, **kwargs):
        loss = super().training_step(model, *args, **kwargs)
        self.accelerator.clip_grad_norm_(model.bert.embeddings.parameters(), 1e-3)
        return loss


class AsksForTheNorm(DistillationTrainer):
    def training_step(self, model, *args, **kwargs):
        loss = super().training_step(model, *args, **kwargs)
        self.accelerator.clip_grad_norm_(model.parameters(), float("inf"))
        return loss


class ClipsEverythingFirst(DistillationTrainer):
    """Changes gradients after it has clipped them."""

    def training_step(self, model, *args, **kwargs):
        loss = super().training_step(model, *args, **kwargs)
        self.accelerator.clip_grad_norm_(model.parameters(), 1e-2)
        model.classifier.weight.grad[0] = 0
        return loss


class LooksAfterClipping(DistillationTrainer):
    def _clip_grad_norm(self, model):
        norm = super()._clip_grad_norm(model)
        assert nn.utils.get_total_norm([p.grad for p in model.parameters()]).item() == pytest.approx(1e-2, rel=1e-3)
        return norm


class LooksWithTheNorm(DistillationTrainer):
    def _get_grad_norm(self, model, grad_norm=None):
        assert nn.utils.get_total_norm([p.grad for p in model.parameters()]).item() == pytest.approx(1e-2, rel=1e-3)
        return super()._get_grad_norm(model, grad_norm)


CLIP = (ClipsAPart, AsksForTheNorm, ClipsEverythingFirst)
LOOK = (LooksAfterClipping, LooksWithTheNorm)


@pytest.mark.parametrize(
    ("base", "max_grad_norm"), [*((base, 1e-2) for base in CLIP + LOOK), *((base, 0) for base in CLIP)]
)
def test_trainers_that_clip_by_themselves_clip_the_same(base, max_grad_norm, tmp_path, monkeypatch):
    found, _ = train(tmp_path, Seen(), monkeypatch, base=base, max_grad_norm=max_grad_norm)
    expected, _ = train(tmp_path, SeenBefore(), monkeypatch, base=base, max_grad_norm=max_grad_norm)
    for (name, weight), other in zip(found.model.named_parameters(), expected.model.parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-5, atol=1e-6, msg=name)


def test_gradients_of_several_batches_that_are_clipped_one_by_one_are_the_same(tmp_path, monkeypatch):
    options = {"base": ClipsEverythingFirst, "max_grad_norm": 1e-2, "gradient_accumulation_steps": 2}
    found, _ = train(tmp_path, Seen(), monkeypatch, **options)
    monkeypatch.setattr("layer_distillation.quick_steps.clipped_in_step", lambda trainer: nullcontext())
    expected, _ = train(tmp_path, Seen(), monkeypatch, **options)
    for (name, weight), other in zip(found.model.named_parameters(), expected.model.parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-5, atol=1e-6, msg=name)


def test_an_accelerator_that_clips_in_its_own_way_does_so(tmp_path, monkeypatch):
    class OwnWay(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            held[0].accelerator.clip_grad_norm_ = lambda parameters, *_: asked.append(len(list(parameters)))

    class Held(DistillationTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            held.append(self)

    held, asked = [], []
    trainer, _ = train(tmp_path, OwnWay(), monkeypatch, base=Held, max_grad_norm=1e-2)
    assert asked == 6 * [len(list(trainer.model.parameters()))]  # for the norm too, because it has returned none


def test_a_callback_that_comes_later_sees_clipped_gradients(tmp_path, monkeypatch):
    seen = SeenBefore()

    class Adds(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            trainer.add_callback(seen)

    class Held(DistillationTrainer):
        def __init__(self, *args, **kwargs):
            nonlocal trainer
            super().__init__(*args, **kwargs)
            trainer = self

    trainer = None
    train(tmp_path, Adds(), monkeypatch, base=Held, max_grad_norm=1e-2)
    assert seen.before == pytest.approx([1e-2] * 3, rel=1e-3)


def test_a_method_of_a_callback_that_is_set_later_sees_clipped_gradients(tmp_path, monkeypatch):
    seen, look = Seen(), SeenBefore()
    seen.on_pre_optimizer_step = look.on_pre_optimizer_step
    train(tmp_path, seen, monkeypatch, max_grad_norm=1e-2)
    assert look.before == pytest.approx([1e-2] * 3, rel=1e-3)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_skipped_step_leaves_no_scale_to_the_next(set_to_none, tmp_path, monkeypatch):
    class SkipsTheSecond(Seen):
        def on_train_begin(self, args, state, control, optimizer=None, model=None, **kwargs):
            step, number = optimizer.optimizer.step, iter(range(3))
            optimizer.optimizer.step = lambda *args, **kwargs: None if next(number) == 1 else step(*args, **kwargs)
            monkeypatch.setattr(model, "zero_grad", lambda: optimizer.optimizer.zero_grad(set_to_none))

    seen = SkipsTheSecond()
    trainer, _ = train(tmp_path, seen, monkeypatch, max_grad_norm=1e-2)
    assert [seen.norms[0], seen.norms[2]] == pytest.approx([1e-2] * 2, rel=1e-3)
    assert min(norms(trainer)) > 0.1


def test_groups_that_are_not_fused_are_clipped_at_once(tmp_path, monkeypatch):
    class NotFused(TrainerCallback):  # as a checkpoint of another optimizer leaves them
        def on_train_begin(self, args, state, control, optimizer=None, **kwargs):
            for group in optimizer.param_groups:
                group["fused"] = None

    _, calls = train(tmp_path, NotFused(), monkeypatch, max_grad_norm=1e-2)
    assert calls == 3


def test_after_an_error_in_a_step_nothing_waits(tmp_path, monkeypatch):
    class Fails(TrainerCallback):
        def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
            optimizers.append(optimizer.optimizer)
            monkeypatch.setattr(optimizers[0], "_init_group", lambda *args, **kwargs: 1 / 0)

    optimizers = []
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, Fails(), monkeypatch, max_grad_norm=1e-2)
    assert optimizers[0].grad_scale is None and not optimizers[0]._optimizer_step_post_hooks


def test_without_a_limit_nothing_is_scaled(tmp_path, monkeypatch):
    seen = Seen()
    trainer, _ = train(tmp_path, seen, monkeypatch, max_grad_norm=0)
    assert seen.norms == pytest.approx(norms(trainer), rel=1e-5) and min(seen.norms) > 0.1
