"""Tests of `layer_search`: the plan of a tournament, its trials, and the runs that end with the layers it chose."""

import copy
import itertools
import json
import logging
import math
import re
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import run_lora
from distill_trainer import DistillationTrainer
from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.errors import UserError
from tests.script_runs import read_record, run_elsewhere, run_here, run_main, sentences, weights
from tests.tiny_models import TINY_CLASSIFIERS
from training import layer_search, search_plan
from training.arguments import StudentArguments
from training.layer_search import SEARCH_FILE, most_changing_layers, split_held_out, trial_arguments
from training.layer_similarity import layer_changes
from training.search_plan import (
    ENOUGH_STEPS,
    HELD_OUT_SHARE,
    MAX_CANDIDATES,
    MAX_HELD_OUT,
    MIN_STEPS,
    candidate_sets,
    named_sets,
    plan_rungs,
    plan_search,
)

pytestmark = pytest.mark.usefixtures("script_caches")


# ---- Plan ----


def test_every_rung_has_the_same_share_of_the_steps_and_half_of_the_candidates():
    assert plan_rungs(20, budget=1000, scoring=0) == [(20, 12), (10, 25), (5, 50), (2, 125)]
    assert plan_rungs(3, budget=100, scoring=10) == [(3, 23)]
    assert plan_rungs(1, budget=100, scoring=10) == []


@pytest.mark.parametrize("scoring", [0, 0.4, 7])
def test_training_and_scoring_never_cost_more_than_the_budget_and_leave_less_than_a_step_a_trial(scoring):
    for number, budget in itertools.product(range(2, MAX_CANDIDATES + 1), (900, 1875, 12_345.6)):
        rungs = plan_rungs(number, budget, scoring)
        trials = sum(size for size, _ in rungs)
        cost = sum(size * steps for size, steps in rungs) + trials * scoring
        assert budget - trials < cost <= budget
        sizes = [size for size, _ in rungs]
        assert sizes[0] == number and sizes[-1] // 2 == 1
        assert all(after == before // 2 for before, after in itertools.pairwise(sizes))


def test_few_sets_of_layers_all_take_part():
    sets = candidate_sets(6, 3, number=20, seed=0)
    assert sets == list(itertools.combinations(range(1, 7), 3))


def test_a_sample_holds_the_named_strategies_and_differs_with_the_seed_alone():
    named = [(1, 2, 3, 4, 5, 6), (7, 8, 9, 10, 11, 12), (2, 4, 6, 8, 10, 12), (1, 3, 5, 7, 9, 11)]
    assert named_sets(12, 6) == named
    samples = [candidate_sets(12, 6, number=20, seed=seed) for seed in (0, 0, 1)]
    for sample in samples:
        assert sample[:4] == named
        assert len(set(sample)) == len(sample) == 20
        assert all(layers == tuple(sorted(set(layers))) and len(layers) == 6 for layers in sample)
    assert samples[0] == samples[1] != samples[2]
    assert named_sets(12, 5) == [(1, 2, 3, 4, 5), (8, 9, 10, 11, 12), (2, 5, 7, 10, 12)]


@pytest.mark.parametrize("seed", range(4))
def test_a_sample_comes_from_every_depth_alike(seed):
    sums = sorted(sum(layers) for layers in itertools.combinations(range(1, 13), 6))
    sample = sorted(sum(layers) for layers in candidate_sets(12, 6, 24, seed)[4:])
    for position, value in enumerate(sample):
        below, up_to = np.searchsorted(sums, value, "left"), np.searchsorted(sums, value, "right")
        share = (below + up_to) / 2 / len(sums)
        assert share == pytest.approx((position + 0.5) / 20, abs=0.08)


def test_the_layers_that_change_most_are_kept_in_order():
    assert most_changing_layers([0.1, 0.4, 0.2, 0.3], 2) == (2, 4)
    assert most_changing_layers([0.2, 0.2, 0.2], 2) == (1, 2)


@pytest.fixture(scope="module")
def training_args(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("args"))
    return DistillationTrainingArguments(
        folder, use_cpu=True, bf16=False, report_to="none", per_device_train_batch_size=32, num_train_epochs=3
    )


def plan(training_args, num_examples=20_000, name="bert", num_layers=6, **arguments):
    student_args = StudentArguments(layer_strategy="search", **arguments)
    return plan_search(TINY_CLASSIFIERS[name](num_layers, 2), student_args, training_args, num_examples)


def test_the_budget_is_in_units_of_the_run_and_covers_the_scoring(training_args):
    half, double = (plan(training_args, 200_000, search_budget=budget) for budget in (0.5, 2))
    for search, budget in ((half, 0.5), (double, 2)):
        assert search.full_run == 3 * 6250
        assert search.num_held_out == MAX_HELD_OUT
        assert len(search.candidates) == math.comb(6, 3)
        trials = 20 + 10 + 5 + 2
        assert search.num_trials == trials
        # Scoring an example costs a third of a step's share of it.
        assert search.cost == pytest.approx((search.training_steps + trials * MAX_HELD_OUT / 32 / 3) / 18750)
        assert budget - trials / 18750 < search.cost <= budget
    assert double.training_steps > 3 * half.training_steps


def test_a_smaller_budget_leaves_fewer_candidates_with_enough_steps_each(training_args):
    numbers = []
    for budget in (8, 2, 1, 0.5):
        search = plan(training_args, search_budget=budget)
        numbers.append(len(search.candidates))
        assert set(named_sets(6, 3)) <= set(search.candidates)
        assert search.rungs[0][1] >= ENOUGH_STEPS
        assert search.cost <= budget
    assert numbers[0] == 20 > numbers[1] > numbers[2] > numbers[3] == 4


def test_the_named_strategies_are_tried_even_if_their_trials_are_short(training_args):
    search = plan(training_args, num_examples=2500)
    assert search.num_held_out == HELD_OUT_SHARE * 2500
    assert set(search.candidates) == set(named_sets(6, 3))
    assert MIN_STEPS <= search.rungs[0][1] < ENOUGH_STEPS
    assert search.cost <= 0.5


def test_where_there_is_nothing_to_choose_no_trial_is_run(training_args):
    search = plan(training_args, num_student_layers=6, search_budget=0.001)
    assert (search.candidates, search.rungs, search.cost) == (((1, 2, 3, 4, 5, 6),), (), 0)


@pytest.mark.parametrize("num_examples", [130, 999, 20_000])
def test_a_budget_that_is_too_small_is_refused_with_one_that_is_enough(training_args, num_examples):
    with pytest.raises(UserError, match="--search_budget 0.001 .*4 sets of 3 layers") as error:
        plan(training_args, num_examples, search_budget=0.001)
    least = max(map(float, re.findall(r"\d+\.\d+", str(error.value))))
    assert set(named_sets(6, 3)) <= set(plan(training_args, num_examples, search_budget=least).candidates)
    with pytest.raises(UserError, match="--search_budget"):
        plan(training_args, num_examples, search_budget=least - 0.02)


def test_too_few_examples_to_hold_a_batch_back_are_refused(training_args):
    with pytest.raises(UserError, match="32.*--per_device_train_batch_size"):
        plan(training_args, num_examples=32)


def test_what_is_scored_on_is_drawn_with_the_seed_and_not_trained_on():
    dataset = Dataset.from_dict({"number": range(100)})
    splits = [split_held_out(dataset, 20, seed) for seed in (0, 0, 1)]
    (training, held_out), again, other = [[part["number"][:] for part in split] for split in splits]
    assert sorted(training + held_out) == list(range(100)) and len(held_out) == 20
    assert training == sorted(training) and held_out == sorted(held_out)
    assert [training, held_out] == again
    assert held_out != other[1]


@pytest.mark.parametrize(("warmup", "expected"), [(0.06, 0.06), (0, 0), (100, 10), (1, 1)])
def test_a_trial_is_a_run_of_its_own_with_a_warm_up_in_proportion(training_args, warmup, expected):
    trial = trial_arguments(training_args.derived(warmup_steps=warmup), steps=100, full_run=1000)
    assert trial.warmup_steps == expected
    assert (trial.max_steps, trial.save_strategy, trial.eval_strategy, trial.report_to) == (100, "no", "no", [])
    assert training_args.max_steps == -1, "the run's own are left alone"


def test_a_trial_does_not_evaluate_before_it_starts_either(training_args):
    args = copy.copy(training_args)
    args.eval_on_start = True
    assert not trial_arguments(args, steps=100, full_run=1000).eval_on_start


def test_trials_learn_from_predictions_and_not_from_layers_which_differ_from_set_to_set(training_args):
    args = copy.copy(training_args)
    args.hidden_weight, args.linear_to = 1.0, {"hidden_weight": 0.5, "kl_weight": 0.0}
    trial = trial_arguments(args, steps=100, full_run=1000)
    assert not trial.uses("hidden", "attention", "relation") and trial.uses("ce", "kl")
    assert trial.linear_to == {"kl_weight": 0.0}
    assert args.uses("hidden"), "the run's own are left alone"
    with pytest.raises(UserError, match="--kl_weight"):
        plan(args.without_losses("ce", "kl", "cosine"))


# ---- Runs ----


TRAINING = ["--per_device_train_batch_size", 8, "--num_train_epochs", 3, "--save_strategy", "no"]
SEARCH = ["--layer_strategy", "search", "--search_budget", 5]  # of a run of 15 steps
SHORT_SEARCH = ["--layer_strategy", "search", "--search_budget", 3, "--num_student_layers", 3]


@contextmanager
def watched_trials(stop_after=None):
    """Gives the trainers of all trials, with what they predict; the trial after `stop_after` of them is broken off.

    Runs are so short here that only trials of a few steps give more than the named strategies a place.
    """
    trainers = []

    class WatchedTrainer(DistillationTrainer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            if len(trainers) == stop_after:
                raise KeyboardInterrupt
            trainers.append(self)

        def predict(self, dataset):
            self.scored_on = dataset
            self.output = super().predict(dataset)
            return self.output

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_search, "DistillationTrainer", WatchedTrainer)
        for module in (layer_search, search_plan):
            patch.setattr(module, "ENOUGH_STEPS", MIN_STEPS)
        yield trainers


def read_search(folder):
    return json.loads((folder / SEARCH_FILE).read_text())


def losses(folder):
    return {(trial["rung"], *trial["layers"]): trial["loss"] for trial in read_search(folder)["trials"]}


def texts(dataset):
    return {tuple(ids) for ids in dataset["input_ids"]}


@pytest.fixture(scope="module")
def arguments(teacher, files):
    return ["--teacher_name_or_path", teacher, *files, *TRAINING]


@pytest.fixture(scope="module")
def searched(arguments, tmp_path_factory):
    """The folder of a run with a search, and the trainers of its trials."""
    folder = tmp_path_factory.mktemp("searched") / "student"
    with watched_trials() as trainers:
        run_here(*arguments, *SEARCH, "--output_dir", folder)
    return folder, trainers


def test_the_tournament_is_saved_and_costs_no_more_than_its_budget(searched):
    folder, trainers = searched
    trials = read_search(folder)["trials"]
    rungs = [[trial for trial in trials if trial["rung"] == rung] for rung in (1, 2)]
    assert [len(rung) for rung in rungs] == [6, 3] and len(trials) == 9
    assert {tuple(trial["layers"]) for trial in rungs[0]} == set(itertools.combinations(range(1, 5), 2))
    # Each trial scores a batch of 8 examples, a third of a step.
    assert 5 * 15 - 9 < sum(trial["steps"] for trial in trials) + 9 / 3 <= 5 * 15
    assert [trainer.state.global_step for trainer in trainers] == [trial["steps"] for trial in trials]
    assert rungs[1][0]["steps"] == 2 * rungs[0][0]["steps"]


def test_the_better_half_goes_on_and_the_best_of_the_last_rung_is_chosen(searched):
    folder, _ = searched
    search = read_search(folder)
    first, second = (
        {tuple(trial["layers"]): trial["loss"] for trial in search["trials"] if trial["rung"] == rung}
        for rung in (1, 2)
    )
    assert set(second) == set(sorted(first, key=first.get)[:3])
    assert search["chosen"] == list(min(second, key=second.get))
    assert read_record(folder)["student"]["layers"] == search["chosen"]


def test_every_trial_starts_anew_with_its_own_warm_up_and_decay(searched):
    _, trainers = searched
    for trainer in trainers:
        optimizer_steps = trainer.state.global_step
        assert trainer.lr_scheduler.last_epoch == optimizer_steps == trainer.state.max_steps
        assert trainer.lr_scheduler.get_last_lr()[0] == 0


def test_no_trial_trains_on_what_is_scored_on_and_both_are_training_examples(searched, teacher):
    _, trainers = searched
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    of_training = {tuple(tokenizer(text)["input_ids"]) for text, _ in sentences(40)}
    assert len(of_training) == 40
    for trainer in trainers:
        trained, scored = texts(trainer.train_dataset), texts(trainer.scored_on)
        assert len(scored) == 8
        assert not trained & scored
        assert trained | scored == of_training


def test_the_score_is_the_divergence_from_the_teacher_at_the_temperature_of_the_run(searched, teacher):
    folder, trainers = searched
    model = AutoModelForSequenceClassification.from_pretrained(teacher).eval()
    temperature = 2.0
    for trainer, trial in zip(trainers, read_search(folder)["trials"], strict=True):
        expected = []
        for ids, student in zip(trainer.scored_on["input_ids"], trainer.output.predictions, strict=True):
            with torch.no_grad():
                of_teacher = model(input_ids=torch.tensor([ids])).logits[0].double().numpy()
            p, q = (np.exp(logits / temperature) for logits in (of_teacher, student.astype(float)))
            p, q = p / p.sum(), q / q.sum()
            expected.append(temperature**2 * (p * np.log(p / q)).sum())
        assert trial["loss"] == pytest.approx(np.mean(expected), rel=1e-3, abs=1e-5)


def test_the_record_has_the_choice_and_its_cost(searched):
    folder, _ = searched
    student, trials = read_record(folder)["student"], read_search(folder)["trials"]
    assert student["layer_strategy"] == "search"
    choice = student["layer_choice"]
    assert (choice["candidates"], choice["trials"], choice["held_out_examples"]) == (6, 9, 8)
    assert choice["training_steps"] == sum(trial["steps"] for trial in trials)
    assert choice["cost_in_runs"] == pytest.approx((choice["training_steps"] + 3) / 15)
    assert choice["seconds"] == pytest.approx(sum(trial["seconds"] for trial in trials))


def test_the_student_is_the_one_that_these_layers_give_without_a_search(searched, arguments, tmp_path):
    folder, _ = searched
    layers = ",".join(map(str, read_search(folder)["chosen"]))
    run_here(*arguments, "--layers", layers, "--output_dir", tmp_path / "student")
    assert weights(tmp_path / "student") == weights(folder)


def test_a_search_that_is_broken_off_goes_on_and_ends_as_if_it_had_not_been(searched, arguments, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    expected, _ = searched
    with watched_trials(stop_after=7) as trainers, pytest.raises(KeyboardInterrupt):
        run_here(*arguments, *SEARCH, "--output_dir", tmp_path / "student")
    assert len(trainers) == len(losses(tmp_path / "student")) == 7
    assert read_search(tmp_path / "student")["chosen"] is None
    torch.rand(5)  # the random state is another one
    with watched_trials() as trainers:  # with a setting that changes nothing
        run_here(*arguments, *SEARCH, "--output_dir", tmp_path / "student", "--logging_steps", 50)
    assert len(trainers) == 2
    assert losses(tmp_path / "student") == losses(expected)
    assert weights(tmp_path / "student") == weights(expected)
    table = caplog.text[caplog.text.rindex("| Layers") :].splitlines()
    assert table[0].split("|")[2].strip().endswith("6 steps")
    assert table[2].split("|")[1].strip() == ",".join(map(str, read_search(expected)["chosen"]))


def test_trials_of_another_search_are_not_taken_for_this_one(training_args, tmp_path, caplog):
    search = plan(training_args, num_layers=4, search_budget=1)
    trials = {(1, (1, 2)): {"loss": 0.5, "seconds": 1.0}}
    made_from = {"layers_of": "f00", "settings": {"seed": 1}}
    file = tmp_path / SEARCH_FILE
    layer_search._write(file, search, made_from, trials)
    assert layer_search._kept_trials(file, search, made_from) == trials
    assert layer_search._kept_trials(tmp_path / "none.json", search, made_from) == {}
    assert layer_search._kept_trials(file, search, made_from | {"layers_of": "another"}) == {}
    assert layer_search._kept_trials(file, plan(training_args, num_layers=4, search_budget=2), made_from) == {}
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2 and all(str(file) in warning for warning in warnings), "the file is not used"


@pytest.fixture(scope="module")
def searched_on_two_processes(make_teacher, files, tmp_path_factory):
    """The folders of a search on one process and on two, and what the two have written."""
    folder = tmp_path_factory.mktemp("two_processes")
    # Without dropout, which differs with the number of processes.
    arguments = ["--teacher_name_or_path", make_teacher(["bad", "good"], dropout=0.0), *files, *TRAINING]
    # Adam turns the rounding noise of gradients that are 0 into full steps otherwise.
    arguments += [*SHORT_SEARCH, "--no_teacher_cache", "--adam_epsilon", "1e-5"]
    run_here(*arguments, "--output_dir", folder / "one")
    arguments += ["--per_device_train_batch_size", 4, "--output_dir", folder / "two"]
    process = run_elsewhere(*arguments, num_processes=2)
    assert process.returncode == 0, process.stderr[-6000:]
    return folder / "one", folder / "two", process.stderr


@pytest.mark.distributed
def test_two_processes_choose_what_one_does_also_without_stored_teacher_outputs(searched_on_two_processes):
    one, two, _ = searched_on_two_processes
    assert read_search(two)["plan"] == read_search(one)["plan"]
    assert losses(two) == pytest.approx(losses(one), rel=1e-2)
    assert read_record(two)["student"]["layers"] == read_record(one)["student"]["layers"]


@pytest.mark.distributed
def test_trials_that_are_too_short_to_say_much_are_reported_once(searched_on_two_processes):
    _, two, stderr = searched_on_two_processes
    steps = read_search(two)["trials"][0]["steps"]
    assert steps < ENOUGH_STEPS
    (warning,) = [line for line in stderr.splitlines() if line.startswith("WARNING training.layer_search")]
    assert {str(steps), str(ENOUGH_STEPS), "--search_budget"} <= set(re.findall(r"[\w-]+", warning))


def test_lora_searches_with_adapters_on(arguments, tmp_path):
    with watched_trials() as trainers:
        run_main(run_lora, *arguments, *SHORT_SEARCH, "--output_dir", tmp_path / "adapter")
    assert len(trainers) == 6
    assert all(isinstance(trainer.model, PeftModel) for trainer in trainers)
    assert read_record(tmp_path / "adapter")["student"]["layers"] == read_search(tmp_path / "adapter")["chosen"]


def test_the_layers_that_change_most_are_measured_on_training_examples(arguments, teacher, tmp_path):
    arguments = [*arguments, "--num_train_epochs", 1, "--num_student_layers", 3]
    run_here(*arguments, "--layer_strategy", "block_influence", "--output_dir", tmp_path / "student")
    student = read_record(tmp_path / "student")["student"]
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    model = AutoModelForSequenceClassification.from_pretrained(teacher).eval()
    dataset = Dataset.from_list([dict(tokenizer(text)) for text, _ in sentences(40)])
    changes = layer_changes(model, dataset, lambda rows: tokenizer.pad(rows, return_tensors="pt"))
    assert student["layer_strategy"] == "block_influence"
    assert student["layer_choice"]["examples"] == 40
    for name, values in changes.items():
        assert student["layer_choice"][name] == pytest.approx(values, abs=1e-4)
    least = int(np.argmin(changes["block_influence"])) + 1
    assert student["layers"] == [layer for layer in (1, 2, 3, 4) if layer != least]


def test_a_budget_that_is_too_small_is_refused_before_anything_is_written(arguments, tmp_path):
    with pytest.raises(UserError, match=r"--search_budget 0\.5 .*2\.8"):
        run_here(*arguments, "--layer_strategy", "search", "--output_dir", tmp_path / "student")
    assert not (tmp_path / "student").exists()
