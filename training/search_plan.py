"""What a search for layers is going to try, and what it costs.

plan = plan_search(teacher, student_args, training_args, num_examples)
plan.candidates, plan.rungs, plan.cost
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.encoder_layers import num_layers
from layer_distillation.errors import UserError
from layer_mapping import selections_by_position, student_depth
from training.arguments import StudentArguments
from training.run import num_steps

# The most candidates: all sets of layers take part if there are no more and the budget gives each `ENOUGH_STEPS`.
MAX_CANDIDATES = 64
# Training steps after which trials begin to predict the ranking of full runs (`experiments/trial_length.py`).
ENOUGH_STEPS = 100
# Training steps of the shortest trial: shorter ones say nothing.
MIN_STEPS = 5
# Training examples that trials are scored on; scoring more would leave less of the budget for training.
HELD_OUT_SHARE, MAX_HELD_OUT = 0.1, 500
# The backward pass costs twice the forward pass, so training on an example costs three times as much as scoring it.
SCORES_A_TRAINING = 3
Layers = tuple[int, ...]


@dataclass(frozen=True)
class SearchPlan:
    """What a search is going to do.

    Attributes:
        candidates: sets of layers, 1-based.
        rungs: number of candidates and training steps of each, a pair for every rung.
        num_held_out: training examples that are scored on and not trained on.
        scoring: what scoring one student costs, in training steps.
        full_run: training steps of the run that follows.
    """

    candidates: tuple[Layers, ...]
    rungs: tuple[tuple[int, int], ...]
    num_held_out: int
    scoring: float
    full_run: int

    @property
    def num_trials(self) -> int:
        return sum(size for size, _ in self.rungs)

    @property
    def training_steps(self) -> int:
        """Training steps of all trials together."""
        return sum(size * steps for size, steps in self.rungs)

    @property
    def cost(self) -> float:
        """Cost of training and scoring, as a multiple of the run that follows."""
        return (self.training_steps + self.num_trials * self.scoring) / self.full_run


def plan_search(
    source: PreTrainedModel,
    student_args: StudentArguments,
    training_args: DistillationTrainingArguments,
    num_examples: int,
) -> SearchPlan:
    """Plans a search for layers of a model.

    Raises:
        UserError: the budget is too small for the named strategies, there are too few examples to hold any back, or
            the run compares nothing but layers.
    """
    if not training_args.uses("ce", "kl", "cosine"):
        raise UserError(
            "The trials of a layer search learn from labels and from the teacher's predictions, but the weights of "
            "these losses are 0. Give --kl_weight a positive value, or name a strategy such as 'uniform'."
        )
    depth = student_depth(num_layers(source), student_args.num_student_layers)
    num_held_out = held_out_size(training_args, num_examples)
    full_run = num_steps(training_args, num_examples)
    scoring = num_held_out / training_args.examples_a_step / SCORES_A_TRAINING
    budget = student_args.search_budget * full_run

    named = named_sets(num_layers(source), depth)
    # Two at least where there are two: to search is to compare.
    fewest = min(max(len(named), 2), math.comb(num_layers(source), depth))
    if any(steps < MIN_STEPS for _, steps in plan_rungs(fewest, budget, scoring)):
        sizes = _halve(fewest)
        least = (len(sizes) * fewest * MIN_STEPS + sum(sizes) * scoring) / full_run
        raise UserError(
            f"--search_budget {student_args.search_budget} of a run of {full_run} steps is too small to try even "
            f"{fewest} sets of {depth} layers for {MIN_STEPS} steps each. Give at least "
            f"{math.floor(100 * least + 1) / 100}, or name a strategy such as 'uniform'."
        )
    number = max(fewest, _most_candidates(budget, scoring))
    candidates = candidate_sets(num_layers(source), depth, number, training_args.seed)
    rungs = plan_rungs(len(candidates), budget, scoring)
    return SearchPlan(tuple(candidates), tuple(rungs), num_held_out, scoring, full_run)


def held_out_size(training_args: DistillationTrainingArguments, num_examples: int) -> int:
    """Returns how many training examples are held out to score trials on, at least a batch.

    Raises:
        UserError: that would leave none to train on.
    """
    num_held_out = max(training_args.examples_a_pass, min(int(HELD_OUT_SHARE * num_examples), MAX_HELD_OUT))
    if num_held_out >= num_examples:
        raise UserError(
            f"The layer search scores on a batch of training examples, {num_held_out}, and trains on the others, but "
            f"there are {num_examples}. Lower --per_device_train_batch_size, or name a strategy such as 'uniform'."
        )
    return num_held_out


def plan_rungs(num_candidates: int, budget: float, scoring: float) -> list[tuple[int, int]]:
    """Returns the number of candidates and the training steps of each, for every rung of a tournament.

    The budget that the scoring of all trials leaves is spent on training, in equal parts for every rung.

    Args:
        budget: of the whole tournament, in training steps.
        scoring: what scoring one student costs, in training steps.
    """
    sizes = _halve(num_candidates)
    training = budget - sum(sizes) * scoring
    return [(size, math.floor(training / len(sizes) / size)) for size in sizes]


def _halve(number: int) -> list[int]:
    """Returns how many candidates each rung has, until one is left: `11` gives `[11, 5, 2]`."""
    sizes = []
    while number > 1:
        sizes.append(number)
        number //= 2
    return sizes


def _most_candidates(budget: float, scoring: float) -> int:
    """Returns the largest number of candidates with which every trial still has `ENOUGH_STEPS`."""
    enough = [
        all(steps >= ENOUGH_STEPS for _, steps in plan_rungs(number, budget, scoring))
        for number in range(1, MAX_CANDIDATES + 1)
    ]
    return max(number for number, is_enough in enumerate(enough, start=1) if is_enough)


def candidate_sets(num_teacher_layers: int, depth: int, number: int, seed: int) -> list[Layers]:
    """Returns all sets of `depth` layers, or a sample of `number` sets if more exist.

    A sample holds the sets of the named strategies and a random choice stratified by mean depth: random sets are
    sorted by the mean of their layers, the order is cut into equal parts, and one set is drawn from each part. The
    sample may be smaller than `number` where few sets exist.
    """
    every_layer = range(1, num_teacher_layers + 1)
    if math.comb(num_teacher_layers, depth) <= number:
        return list(itertools.combinations(every_layer, depth))
    named = named_sets(num_teacher_layers, depth)
    number -= len(named)
    draws = np.random.default_rng(seed)
    drawn = {tuple(sorted(draws.choice(every_layer, depth, replace=False).tolist())) for _ in range(100 * number)}
    pool = sorted(drawn - set(named), key=lambda layers: (sum(layers), layers))
    strata = [pool[i * len(pool) // number : (i + 1) * len(pool) // number] for i in range(number)]
    return named + [stratum[draws.integers(len(stratum))] for stratum in strata if stratum]


def named_sets(num_teacher_layers: int, depth: int) -> list[Layers]:
    """Returns the sets of the strategies by position, each set once."""
    return list(dict.fromkeys(layers for _, layers in selections_by_position(num_teacher_layers, depth)))
