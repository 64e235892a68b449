"""Chooses the layers that a student copies by evidence from the training data.

    python run_distillation.py --layer_strategy search --search_budget 0.5 ...
    torchrun --nproc_per_node 2 run_distillation.py --layer_strategy search ...
    python run_distillation.py --layer_strategy block_influence ...

`search` is successive halving (Jamieson and Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter
Optimization", https://arxiv.org/abs/1502.07943) over sets of layers. In every rung each remaining set makes a
student. Each student is trained from the teacher's layers in a short run with its own warm-up and decay. The better
half goes to the next rung, whose runs are longer. The score is the divergence from the teacher on training examples
that no trial trains on, so that the validation split stays untouched.

Scores of untrained or briefly trained students mislead. Of the 20 possible 3-layer students of a 6-layer SST-2
teacher, layers 4, 5 and 6 score best before training and worst after it. For the first tens of steps, students that
keep layer 6 lead, because the head was trained on its output (`docs/ANALYSIS.md`). So the search runs few long trials
rather than many short ones.

`cka` and `block_influence` keep the layers that change their input most, by the measures of
`training.layer_similarity.layer_changes`. They cost one pass of the teacher over some examples and are baselines for
the search. A new measure of the teacher's layers is an entry of `layer_changes`; another kind of choice is a branch of
`choose_layers`.
"""

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PrinterCallback, set_seed

from distill_trainer import DistillationTrainer
from layer_distillation.arguments import ONLY_TRAIN, DistillationTrainingArguments
from layer_distillation.atomic_files import write_json
from layer_distillation.encoder_layers import num_layers
from layer_distillation.engines import release_engine
from layer_distillation.fingerprints import fingerprint_model
from layer_distillation.loss_table import LAYER_LOSSES
from layer_distillation.losses import kl_divergence_loss
from layer_distillation.stored_columns import TEACHER_LOGITS
from layer_mapping import build_student, student_depth
from training.arguments import StudentArguments
from training.inputs import Inputs
from training.layer_similarity import layer_changes
from training.output_folder import WITHOUT_EFFECT
from training.run import Run
from training.search_plan import ENOUGH_STEPS, Layers, SearchPlan, plan_search
from training.stored_or_live import with_teacher_logits
from training.tables import format_layers, markdown_table

logger = logging.getLogger(__name__)

SEARCH_FILE = "layer_search.json"
# Examples that the teacher's layers are compared on.
NUM_EXAMPLES = 1000
Trials = dict[tuple[int, Layers], dict[str, float]]  # by rung, from 1, and layers: `loss` and `seconds`


def choose_layers(source: PreTrainedModel, student_args: StudentArguments, run: Run) -> tuple[Layers, dict]:
    """Chooses the layers for one of the `EVIDENCE_STRATEGIES`, the same ones on every process.

    Args:
        source: the model to choose from, on the training device: the teacher, or a student of it.
        run: the run that follows. Its teacher gives the outputs that trials learn from and are scored by; a search
            writes `layer_search.json` to its output folder, and continues from what it finds there.

    Returns:
        1-based layers of the source, and what the choice rests on, for the record of the run.

    Raises:
        UserError: as `plan_search`.
    """
    choose = _search if student_args.layer_strategy == "search" else _most_changing
    return choose(source, student_args, run)


# ---- How much layers change their input ----


def _most_changing(source: PreTrainedModel, student_args: StudentArguments, run: Run) -> tuple[Layers, dict]:
    depth, inputs = student_depth(num_layers(source), student_args.num_student_layers), run.inputs
    examples = inputs.training_sample(NUM_EXAMPLES, run.args.seed)
    changes = layer_changes(source, examples, inputs.collator, run.args.per_device_eval_batch_size)
    (changes,) = broadcast_object_list([changes])  # other devices round otherwise
    layers = most_changing_layers(changes[student_args.layer_strategy], depth)
    by_layer = ", ".join(f"{k}: {value:.3f}" for k, value in enumerate(changes[student_args.layer_strategy], start=1))
    logger.info(f"How much each layer changes its input, by {student_args.layer_strategy}: {by_layer}")
    return layers, {"examples": len(examples), **{name: values.tolist() for name, values in changes.items()}}


def most_changing_layers(changes: Sequence[float], depth: int) -> Layers:
    """Returns the `depth` layers with the highest values, in increasing order.

    Args:
        changes: of layers 1..N; of equal ones the lower layer is kept.
    """
    by_change = sorted(range(1, len(changes) + 1), key=lambda layer: -changes[layer - 1])
    return tuple(sorted(by_change[:depth]))


def _search(source: PreTrainedModel, student_args: StudentArguments, run: Run) -> tuple[Layers, dict]:
    training_args, inputs = run.args, run.inputs
    teacher = run.teacher.load(training_args.device)
    dataset = with_teacher_logits(inputs, teacher, run.teacher.args, training_args)
    del teacher
    plan = plan_search(source, student_args, training_args, len(dataset))
    training, held_out = split_held_out(dataset, plan.num_held_out, training_args.seed)
    file = Path(training_args.output_dir) / SEARCH_FILE
    made_from = {"layers_of": fingerprint_model(source), **run.record.request}
    made_from["settings"] = {name: of for name, of in made_from["settings"].items() if name not in WITHOUT_EFFECT}
    trials = _kept_trials(file, plan, made_from)
    shortest = min((steps for _, steps in plan.rungs), default=ENOUGH_STEPS)
    if shortest < ENOUGH_STEPS:
        logger.warning(
            f"The first trials of the layer search have {shortest} steps each, which may say little about whole runs: "
            f"{ENOUGH_STEPS} or more are better. Raise --search_budget, or name a strategy such as 'uniform'."
        )

    is_main = training_args.process_index == 0
    bar = tqdm(total=plan.num_trials, desc="Layer search", disable=training_args.disable_tqdm or not is_main)
    remaining = list(plan.candidates)
    for rung, (_, steps) in enumerate(plan.rungs, start=1):
        for layers in remaining:
            if (rung, layers) not in trials:
                set_seed(training_args.seed)
                student = run.prepared(build_student(source, layers))
                args = trial_arguments(training_args, steps, plan.full_run)
                trials[rung, layers] = run_trial(student, args, training, held_out, inputs)
                if is_main:
                    _write(file, plan, made_from, trials)
            bar.update()
        ranking = sorted((trials[rung, layers]["loss"], layers) for layers in remaining)
        remaining = [layers for _, layers in ranking[: len(remaining) // 2]]
    bar.close()

    (chosen,) = remaining
    if is_main:
        _write(file, plan, made_from, trials, chosen)
    seconds = sum(trial["seconds"] for trial in trials.values())
    logger.info(
        f"Layer search: {plan.num_trials} trials of {len(plan.candidates)} sets of layers, {plan.cost:.2f} of a run "
        f"({seconds:.0f} s). Divergence from the teacher on {plan.num_held_out} training examples held back, after "
        f"each rung's steps; {format_layers(chosen)} is chosen.\n{tournament_table(plan, trials)}"
    )
    return chosen, {
        "candidates": len(plan.candidates),
        "trials": plan.num_trials,
        "training_steps": plan.training_steps,
        "cost_in_runs": plan.cost,
        "seconds": seconds,
        "held_out_examples": plan.num_held_out,
    }


def split_held_out(dataset: Dataset, num_held_out: int, seed: int) -> tuple[Dataset, Dataset]:
    """Returns examples to train on and examples to score on, drawn with the seed, in the order of the data set."""
    order = np.random.default_rng(seed).permutation(len(dataset))
    held_out, training = np.split(order, [num_held_out])
    return tuple(dataset.select(np.sort(part), keep_in_memory=True) for part in (training, held_out))


def trial_arguments(
    training_args: DistillationTrainingArguments, steps: int, full_run: int
) -> DistillationTrainingArguments:
    """Returns training arguments for a trial of `steps` steps.

    The warm-up is scaled to the trial's length. A trial evaluates, saves and reports nothing. Students are compared in
    their predictions alone, not in their layers: each would be compared with other layers of the teacher.
    """
    warmup_steps = training_args.warmup_steps
    if warmup_steps >= 1:  # below 1 it is a share of the steps already
        warmup_steps = math.ceil(warmup_steps * steps / full_run)
    return training_args.without_losses(*LAYER_LOSSES).derived(
        max_steps=steps, warmup_steps=warmup_steps, report_to=[], disable_tqdm=True, **ONLY_TRAIN
    )


def run_trial(
    student: PreTrainedModel,
    args: DistillationTrainingArguments,
    training: Dataset,
    held_out: Dataset,
    inputs: Inputs,
) -> dict[str, float]:
    """Trains a student; returns its `loss` on the examples held back, infinite if it diverged, and the `seconds`."""
    start = time.perf_counter()
    trainer = DistillationTrainer(
        model=student,
        args=args,
        train_dataset=training,
        data_collator=inputs.collator,
        processing_class=inputs.tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    teacher_logits = torch.tensor(np.array(held_out[TEACHER_LOGITS]))
    student_logits = torch.from_numpy(trainer.predict(held_out).predictions).view_as(teacher_logits)
    release_engine()
    losses = kl_divergence_loss(student_logits, teacher_logits, args.temperature, inputs.data.labels.problem_type)
    loss = losses.mean().item()
    trial = {"loss": loss if math.isfinite(loss) else math.inf, "seconds": time.perf_counter() - start}
    (trial,) = broadcast_object_list([trial])  # one answer: processes that choose otherwise would wait for each other
    return trial


def tournament_table(plan: SearchPlan, trials: Trials) -> str:
    """Returns a table with a row for every candidate, the winner first, with its loss in each rung it reached."""
    columns = [f"Rung {rung}: {steps} steps" for rung, (_, steps) in enumerate(plan.rungs, start=1)]
    losses = {
        layers: [trials[rung, layers]["loss"] for rung in range(1, len(columns) + 1) if (rung, layers) in trials]
        for layers in plan.candidates
    }
    ranking = sorted(losses, key=lambda layers: (-len(losses[layers]), losses[layers][-1:], layers))
    return markdown_table(
        [
            {
                "Layers": format_layers(layers),
                **{column: f"{loss:.4f}" for column, loss in zip(columns, losses[layers])},
            }
            for layers in ranking
        ]
    )


def _write(
    file: Path,
    plan: SearchPlan,
    made_from: dict,
    trials: Trials,
    chosen: Layers | None = None,
) -> None:
    rows = [
        {"rung": rung, "layers": layers, "steps": plan.rungs[rung - 1][1], **trial}
        for (rung, layers), trial in trials.items()
    ]
    write_json(file, {"chosen": chosen, "plan": asdict(plan), "trials": rows, "made_from": made_from})


def _kept_trials(file: Path, plan: SearchPlan, made_from: dict) -> Trials:
    """Returns the finished trials in the file, none if they are of another search. The main process decides."""
    kept = json.loads(file.read_text()) if file.is_file() else None
    (kept,) = broadcast_object_list([kept])
    if kept is None:
        return {}
    same = json.loads(json.dumps({"plan": asdict(plan), "made_from": made_from}, default=str))
    if any(kept[part] != same[part] for part in same):
        logger.warning(f"{file} is of a search with another teacher or plan: the search starts again.")
        return {}
    trials = {
        (trial["rung"], tuple(trial["layers"])): {name: trial[name] for name in ("loss", "seconds")}
        for trial in kept["trials"]
    }
    logger.info(f"{len(trials)} finished trials of the layer search are read from {file}.")
    return trials
