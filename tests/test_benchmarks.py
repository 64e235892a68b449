"""Tests of the timings of training: that what they compare can be compared, and that they count right."""

import argparse
import itertools
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import profile_step, sweep_speed
from benchmarks.measuring import in_own_process
from benchmarks.profile_step import PARTS, profile_epoch, step_flop
from benchmarks.scaling import run, scaling_table
from benchmarks.speed_tables import comparison_table
from benchmarks.training_setup import (
    CountingCollator,
    Setup,
    add_setup_arguments,
    our_trainer,
    prepare,
    score,
    student_of,
    train_like_the_notebook,
)
from benchmarks.training_speed import (
    Turns,
    Variant,
    cache_dir,
    cost_of_cache,
    steps_a_turn,
    train,
)
from layer_distillation.unread_tokens import unread_tokens_left_out
from tests.script_runs import sentences, write_csv
from tests.workers.train_worker import bert, pad, random_examples

pytestmark = pytest.mark.usefixtures("script_caches")


class Connection:
    """Stands for the process that gives the turns."""

    def __init__(self):
        self.messages = []

    def send(self, message):
        self.messages.append(message)

    def recv(self):
        return "go"


@pytest.fixture(scope="module")
def setup(teacher, tmp_path_factory, request):
    request.getfixturevalue("script_caches")
    train_file, test_file = (tmp_path_factory.mktemp("data") / f"{split}.csv" for split in ("train", "test"))
    write_csv(train_file, sentences(300, 0))
    write_csv(test_file, sentences(20, 300))
    parser = argparse.ArgumentParser()
    add_setup_arguments(parser)
    arguments = ["--train_file", train_file, "--test_file", test_file, "--teacher", teacher, "--examples", 260]
    return prepare(parser.parse_args(map(str, arguments)), tmp_path_factory.mktemp("setup"))


@pytest.fixture(scope="module")
def trained(setup):
    """Connection and batch shapes of variants that have had two turns."""
    variants = {}
    for variant in (*(Variant(name, False) for name in ("notebook", "finetune", "no_cache")), Variant("cached", True)):
        connection, collator = Connection(), CountingCollator(setup.collator)
        train(variant, setup, Turns(connection, number=2, steps=steps_a_turn(260)), collator)
        variants[variant.method] = connection, collator.shapes
    return variants


def test_collator_counts_the_texts_tokens_and_what_is_computed():
    collator = CountingCollator(pad)
    examples = random_examples(8).remove_columns("labels")
    for start in (0, 4):
        collator(list(examples.select(range(start, start + 4))))
    lengths = [len(ids) for ids in examples["input_ids"]]
    assert collator.shapes == [(4, max(lengths[:4])), (4, max(lengths[4:]))]
    assert collator.padding_share == pytest.approx(1 - sum(lengths) / (4 * max(lengths[:4]) + 4 * max(lengths[4:])))


def test_a_variant_trains_as_many_turns_as_it_is_given(trained):
    assert steps_a_turn(260) == 2
    for connection, shapes in trained.values():
        assert connection.messages[0::2] == ["ready"] * 2
        assert [type(seconds) for seconds in connection.messages[1::2]] == [float] * 2
        assert len(shapes) >= 2 * 2


def test_fine_tuning_and_both_ways_of_distillation_see_the_same_batches(trained):
    shapes = {method: shapes[:4] for method, (_, shapes) in trained.items()}
    assert shapes["finetune"] == shapes["no_cache"] == shapes["cached"] != shapes["notebook"]


def test_notebook_loop_and_ours_minimize_the_same_loss(tmp_path):
    teacher, students, batch = bert(3), [bert(2), bert(2)], pad(list(random_examples(16)))
    train_like_the_notebook(students[0], teacher, [dict(batch)], num_epochs=1)
    trainer = our_trainer(
        Setup(tmp_path), students[1], random_examples(16), {"bf16": False}, teacher_model=teacher, data_collator=pad
    )
    trainer.compute_loss(students[1].train(), batch).backward()
    for theirs, ours in zip(*(student.parameters() for student in students), strict=True):
        assert torch.allclose(theirs.grad, ours.grad, rtol=1e-4, atol=1e-6)


def test_scores_are_those_of_a_plain_loop_over_the_test_split(setup):
    student, test = student_of(setup.load_teacher()), setup.splits["test"]
    with torch.no_grad():
        rows = [setup.collator([{name: row[name] for name in row if name != "labels"}]) for row in test]
        predictions = [student(**row).logits.argmax().item() for row in rows]
    assert score(student, setup) == {
        "accuracy": accuracy_score(test["labels"], predictions),
        "macro_f1": f1_score(test["labels"], predictions, average="macro"),
    }


def test_cost_of_the_cache_leaves_the_cache_for_the_variants(setup):
    row = cost_of_cache(setup, False, rounds=1)
    assert len(row["bare"]) == len(row["built"]) == 1
    assert row["num_examples"] * 2 * 4 <= row["bytes"] < 10_000
    assert list(cache_dir(setup, False).rglob("*.arrow"))


def test_ratios_are_those_within_a_round():
    rows = [
        {"method": method, "precision": "float32", "turn_seconds": seconds, "peak_mb": 100.0}
        for method, turns in (("cached", (1.0, 2.0, 3.0)), ("finetune", (2.0, 2.0, 2.0)))
        for seconds in turns
    ]
    *_, seconds, memory = comparison_table(rows).splitlines()
    assert "1.000 [0.500 - 1.500]" in seconds and "1.000 [1.000 - 1.000]" in memory
    assert "TextBrewer" not in comparison_table(rows)


def test_summary_of_a_sweep_compares_the_same_seeds():
    rows = [
        {"method": method, "precision": "float32", "seed": seed, "seconds": seconds}
        | {f"macro_f1_{strategy}": macro_f1 for strategy in sweep_speed.STRATEGIES}
        for method, seed, seconds, macro_f1 in (
            ("notebook", 0, 100.0, 0.70),
            ("notebook", 1, 200.0, 0.72),
            ("ours", 0, 50.0, 0.71),
            ("ours", 1, 50.0, 0.72),
        )
    ]
    *_, ours = sweep_speed.summary(rows).splitlines()
    assert "| 3.00 [2.00 - 4.00] |" in ours and "| +0.50 " in ours


@pytest.mark.parametrize("method", ["notebook", "ours"])
def test_a_sweep_trains_and_scores_a_student_of_every_strategy(setup, method, monkeypatch):
    scored = []

    def score_and_keep(student, setup):
        scored.append(student)
        return {"macro_f1": 0.5 + len(scored)}

    monkeypatch.setattr(sweep_speed, "STRATEGIES", ("bottom", "odd"))
    monkeypatch.setattr(sweep_speed, "NUM_EPOCHS", 1)
    monkeypatch.setattr(sweep_speed, "score", score_and_keep)
    row = sweep_speed.sweep(method, False, 0, setup)
    assert (row["macro_f1_bottom"], row["macro_f1_odd"]) == (1.5, 2.5)
    for strategy, trained in zip(sweep_speed.STRATEGIES, scored, strict=True):
        start = student_of(setup.load_teacher(), strategy)
        moved = [(a - b).abs().max().item() for a, b in zip(trained.parameters(), start.parameters(), strict=True)]
        # AdamW moves a weight by about the learning rate, 1e-4, in each of 9 steps.
        assert 1e-4 < max(moved) < 2e-3


def test_scaling_compares_memory_after_the_steps_of_the_smallest_size(setup):
    row = run(setup, False, smallest=100)
    assert row["examples"] == 260 and row["step"] == 4
    assert row["peak_mb_at_step"] <= row["peak_mb"]
    assert scaling_table([row, row]).count("(x 1.000)") == 8


def test_operations_of_a_step_are_those_that_pytorch_counts():
    model = bert(3, attn_implementation="eager").train()
    batch = pad(list(random_examples(4)))
    for all_tokens in (True, False):
        left_out = nullcontext() if all_tokens else unread_tokens_left_out(model)
        with left_out, FlopCounterMode(display=False) as counter:
            model(**batch).loss.backward()
        expected = counter.get_total_flops()
        assert step_flop(model.config, *batch["input_ids"].shape, all_tokens=all_tokens) == expected


def test_the_parts_of_a_step_add_up(setup, monkeypatch):
    # A clock that goes on by a second whenever it is read: each part is timed once a step and takes one second, and
    # the epoch takes a second for each reading after its first.
    readings = itertools.count()
    monkeypatch.setattr(profile_step, "perf_counter", lambda: float(next(readings)))
    epoch = profile_epoch(setup, "finetune", False)
    *parts, rest = (epoch[part] for part in PARTS)
    num_steps = 9
    assert parts == [1000.0] * 5
    assert epoch["ms_a_step"] == pytest.approx(1000 * (2 * 5 * num_steps + 1) / num_steps)
    assert sum(parts) + rest == pytest.approx(epoch["ms_a_step"])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_peak_memory_of_a_process_of_its_own_grows_by_what_is_allocated(tmp_path, monkeypatch):
    (tmp_path / "allocation.py").write_text(
        "from benchmarks.measuring import peak_memory_mb\n"
        "def peaks():\n"
        "    before = peak_memory_mb()\n"
        "    block = b'1' * 400_000_000\n"
        "    return before, peak_memory_mb()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from allocation import peaks

    before, after = in_own_process(peaks)
    assert after - before == pytest.approx(400, abs=20)
