"""Tests of the benchmarks of training: that what they compare can be compared, and that they count right."""

import argparse
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.profile_step import PARTS, profile_epoch, step_flop
from benchmarks.scaling import run, scaling_table
from benchmarks.sweep_speed import STRATEGIES, summary, sweep
from benchmarks.training_setup import (
    CountingCollator,
    Setup,
    add_setup_arguments,
    in_own_process,
    our_trainer,
    peak_memory_mb,
    prepare,
    score,
    train_like_the_notebook,
)
from benchmarks.training_speed import VARIANTS, Turn, Variant, comparison_table, cost_of_cache, steps_a_turn, train
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


def test_collator_counts_the_texts_tokens_and_what_is_computed():
    collator = CountingCollator(pad)
    examples = random_examples(8).remove_columns("labels")
    for start in (0, 4):
        collator(list(examples.select(range(start, start + 4))))
    lengths = [len(ids) for ids in examples["input_ids"]]
    assert collator.shapes == [(4, max(lengths[:4])), (4, max(lengths[4:]))]
    assert collator.padding_share == pytest.approx(1 - sum(lengths) / (4 * max(lengths[:4]) + 4 * max(lengths[4:])))


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.method != "textbrewer"], ids=str)
def test_a_variant_trains_as_many_turns_as_it_is_given(setup, variant):
    if variant.method == "cached":
        cost_of_cache(setup, variant.bf16, rounds=1)
    connection, collator = Connection(), CountingCollator(setup.collator)
    student = train(variant, setup, num_turns=3, collator=collator, turn=Turn(connection))
    assert connection.messages[0::2] == ["ready"] * 3
    assert len(connection.messages) == 6 and all(seconds > 0 for seconds in connection.messages[1::2])
    assert len(collator.shapes) >= 3 * steps_a_turn(260) == 6
    assert 0 <= score(student, setup)["macro_f1"] <= 1


def test_plain_fine_tuning_and_distillation_see_the_same_batches(setup):
    shapes = {}
    for method in ("finetune", "no_cache"):
        collator = CountingCollator(setup.collator)
        train(Variant(method, False), setup, num_turns=4, collator=collator, turn=Turn(Connection()))
        shapes[method] = collator.shapes
    assert shapes["finetune"] == shapes["no_cache"]


def test_notebook_loop_and_ours_minimise_the_same_loss(tmp_path):
    teacher, students, batch = bert(3), [bert(2), bert(2)], pad(list(random_examples(16)))
    train_like_the_notebook(students[0], teacher, [dict(batch)], num_epochs=1)
    settings = {"use_cpu": True, "bf16": False}
    trainer = our_trainer(Setup(tmp_path), students[1], random_examples(16), pad, teacher, **settings)
    trainer.compute_loss(students[1].train(), batch).backward()
    for theirs, ours in zip(*(student.parameters() for student in students), strict=True):
        assert torch.allclose(theirs.grad, ours.grad, rtol=1e-4, atol=1e-6)


def test_cost_of_the_cache_leaves_the_cache_for_the_variants(setup):
    row = cost_of_cache(setup, False, rounds=2)
    assert len(row["bare"]) == len(row["built"]) == 2
    assert row["num_examples"] * 2 * 4 <= row["bytes"] < 10_000


def test_ratios_are_those_within_a_round():
    rows = [
        {"method": method, "precision": "float32", "turn_seconds": seconds, "peak_mb": 100.0}
        for method, turns in (("cached", (1.0, 2.0, 3.0)), ("finetune", (2.0, 2.0, 2.0)))
        for seconds in turns
    ]
    table = comparison_table(rows)
    assert "| 1.000 [0.500 - 1.500] | <= 1.03" in table and "| 1.000 [1.000 - 1.000] | <= 1.05" in table
    assert "TextBrewer" not in table


def test_summary_of_a_sweep_compares_the_same_seeds():
    rows = [
        {"method": method, "precision": precision, "seed": seed, "seconds": seconds}
        | {f"macro_f1_{strategy}": macro_f1 for strategy in STRATEGIES}
        for method, precision, seed, seconds, macro_f1 in (
            ("notebook", "float32", 0, 100.0, 0.70),
            ("notebook", "float32", 1, 200.0, 0.72),
            ("ours", "float32", 0, 50.0, 0.71),
            ("ours", "float32", 1, 50.0, 0.72),
        )
    ]
    assert "| 3.00 [2.00 - 4.00] | >= 3" in summary(rows) and "| +0.50" in summary(rows)


@pytest.mark.parametrize("method", ["notebook", "ours"])
def test_a_sweep_scores_a_student_of_every_strategy(setup, method):
    row = sweep(method, False, 0, setup)
    assert row["seconds"] > 0
    assert all(0 <= row[f"macro_f1_{strategy}"] <= 1 for strategy in STRATEGIES)


def test_scaling_compares_memory_after_the_steps_of_the_smallest_size(setup):
    row = run(setup, False, smallest=100)
    assert row["examples"] == 260 and row["step"] == 4
    assert 0 < row["peak_mb_at_step"] <= row["peak_mb"]
    assert scaling_table([row, row]).count("(x 1.000)") == 8


def test_operations_of_a_step_are_those_that_pytorch_counts():
    model = bert(3, attn_implementation="eager").train()
    batch = pad(list(random_examples(4)))
    with FlopCounterMode(display=False) as counter:
        model(**batch).loss.backward()
    assert step_flop(model.config, *batch["input_ids"].shape) == counter.get_total_flops()


def test_the_parts_of_a_step_add_up(setup):
    epoch = profile_epoch(setup, "finetune", False)
    assert all(epoch[part] > 0 for part in PARTS)
    assert epoch["data"] < epoch["forward and loss"] + epoch["backward"]


def peak_before_and_after_an_allocation():
    before = peak_memory_mb()
    torch.ones(100_000_000)
    return before, peak_memory_mb()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_peak_memory_of_a_process_of_its_own_grows_by_what_is_allocated():
    before, after = in_own_process(peak_before_and_after_an_allocation)
    assert after - before == pytest.approx(400, abs=20)
