"""Trains students in ways that the default recipe does not try, and compares them on sentences kept for choosing.

    python -m experiments.better_students --sentences 5000 --recipes default no_dropout corrected --seeds 0 1 2
    python -m experiments.better_students --table

The task is SST-2; the students have half of the teacher's operations. The first sentences of the training split are
for training. 10,000 other sentences of that split, whose rows are in `docs/results/sst2_choosing_rows.json`, are for
choosing between recipes; no model is trained on them. The validation split is for reporting.

The teacher is that of `run_distillation.py examples/sst2.json --max_train_samples SENTENCES --teacher_output_dir
outputs/better_students/teachers/SENTENCES`. A student is trained once: its results go to
`docs/results/better_students.jsonl`, one line a student, and its weights stay in `outputs/better_students/students`.
`--table` writes `docs/results/better_students.md` from the lines alone. `--cost` measures processor time with one
thread, and writes `docs/results/better_students_cost.md`.
"""

import argparse
import base64
import json
import tempfile
import time
from collections.abc import Sequence
from operator import itemgetter
from statistics import median

import numpy as np
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, set_seed

from benchmarks.results import RESULTS
from comparison.bootstrap import Interval, Scores, bootstrap, difference, holm, p_value_in_print, pooled_seed_variance
from comparison.metrics import accuracy
from distill_trainer import DistillationTrainingArguments
from experiments.runs import scaled_spread
from experiments.shapes import averaged
from experiments.student_recipes import (
    RECIPES,
    STRATEGIES,
    Recipe,
    Task,
    copied,
    load_task,
    narrow,
    student_folder,
    title_of,
)
from layer_distillation.model_outputs import MODEL_INPUTS, compute_logits, longest_first
from training.tables import grouped, markdown_table

RUNS = RESULTS / "better_students.jsonl"
TABLE = RESULTS / "better_students.md"
COST = RESULTS / "better_students_cost.md"
SPLITS = {"choosing": "Accuracy, choosing (%)", "validation": "Accuracy, validation (%)"}


def main():
    args = parse_arguments()
    if args.table:
        TABLE.write_text(table(read_runs()) + "\n")
        return
    if args.cost:
        COST.write_text(cost_table(load_task(args.sentences)) + "\n")
        return
    done = {(run["sentences"], run["recipe"], run["seed"]) for run in read_runs()}
    task = load_task(args.sentences)
    if (args.sentences, "teacher", 0) not in done:
        add_run(task, "teacher", 0, task.teacher)
    for seed in args.seeds:
        for name in args.recipes:
            if (args.sentences, name, seed) not in done:
                train_and_score(task, name, seed)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=20000, help="training sentences; default: 20000")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=["default"], help="default: default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--table", action="store_true", help="write the table, train nothing")
    parser.add_argument("--cost", action="store_true", help="measure processor time, train nothing")
    return parser.parse_args()


def train_and_score(task: Task, name: str, seed: int) -> None:
    """Trains a student, writes its weights to a folder, and adds a line for it and for each average of its weights."""
    recipe, folder = RECIPES[name], student_folder(task.sentences, name, seed)
    averages = Averages(recipe.averages)
    seeds = range(recipe.soup_of * seed, recipe.soup_of * (seed + 1))
    student = averaged([train(task, recipe, seed, averages) for seed in seeds])
    student.save_pretrained(folder)
    add_run(task, name, seed, student)
    for average, weights in averages.means.items():
        student.load_state_dict(weights)
        add_run(task, f"{name}+{average}", seed, student)


def train(task: Task, recipe: Recipe, seed: int, averages: "Averages") -> PreTrainedModel:
    """Returns a student that is trained."""
    set_seed(seed)
    student, data = recipe.build(task), recipe.data(task)
    epochs = recipe.epochs if recipe.as_long_as is None else recipe.epochs * len(recipe.as_long_as(task)) / len(data)
    if recipe.head_first:
        fit_head(student, task)
    with tempfile.TemporaryDirectory() as folder:
        args = DistillationTrainingArguments(
            output_dir=folder,
            seed=seed,
            student_dropout=recipe.student_dropout,
            ce_weight=recipe.ce_weight,
            kl_weight=1 - recipe.ce_weight,
            num_train_epochs=epochs,
            save_strategy="no",
            logging_steps=100,
            report_to="none",
            disable_tqdm=True,
        )
        trainer = recipe.trainer(
            model=student, args=args, train_dataset=data, processing_class=task.tokenizer, callbacks=[averages]
        )
        trainer.train()
    return student


class Averages(TrainerCallback):
    """Averages of the weights over the steps of a training.

    Args:
        kinds: for each name, the decay of an exponential moving average, or "last epoch" for the plain mean of the
            weights after each step of the last epoch.
    """

    def __init__(self, kinds: dict[str, float | str]):
        self.kinds, self.counts = kinds, dict.fromkeys(kinds, 0)
        self.means: dict[str, dict[str, torch.Tensor]] = {}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        in_last_epoch = state.epoch > args.num_train_epochs - 1
        for name, kind in self.kinds.items():
            if kind == "last epoch" and not in_last_epoch:
                continue
            self.counts[name] += 1
            # The first steps of an exponential average are a plain one, so that the start is soon forgotten.
            share = 1 / self.counts[name]
            if kind != "last epoch":
                share = max(share, 1 - kind)
            weights = model.state_dict()
            mean = self.means.setdefault(name, {key: value.clone() for key, value in weights.items()})
            for key, value in weights.items():
                if value.is_floating_point():
                    mean[key].lerp_(value, share)


def fit_head(student: PreTrainedModel, task: Task) -> None:
    """Replaces the last linear map by that of a logistic regression on what reaches it, for two classes."""
    features = inputs_of(student, student.classifier, task)
    fitted = LogisticRegression(max_iter=1000).fit(features, task.train["labels"])
    weight, bias = torch.tensor(fitted.coef_[0]), torch.tensor(fitted.intercept_[0])
    with torch.no_grad():
        student.classifier.weight.copy_(torch.stack([-weight / 2, weight / 2]))
        student.classifier.bias.copy_(torch.stack([-bias / 2, bias / 2]))


def inputs_of(model: PreTrainedModel, module: nn.Module, task: Task) -> np.ndarray:
    """Returns what reaches a module for the training sentences, `(examples, features)`, in their order."""
    rows = []
    hook = module.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].float().numpy()))
    compute_logits(model.eval(), task.train, task.collator)
    hook.remove()
    features = np.empty((task.sentences, rows[0].shape[1]), dtype=np.float32)
    features[longest_first(task.train)] = np.concatenate(rows)
    return features


# ---- results ----


def add_run(task: Task, recipe: str, seed: int, model: PreTrainedModel) -> None:
    """Scores a model on all splits and adds a line to the file of runs."""
    run = {"sentences": task.sentences, "recipe": recipe, "seed": seed}
    for name, split in task.splits.items():
        logits = compute_logits(model.eval(), split, task.collator)
        probabilities, labels = softmax(logits, axis=1), np.array(split["labels"])
        right = logits.argmax(axis=1) == labels
        run[f"{name}_accuracy"] = round(float(right.mean()), 5)
        run[f"{name}_loss"] = round(float(-np.log(probabilities[np.arange(len(labels)), labels]).mean()), 5)
        run[f"{name}_right"] = base64.b64encode(np.packbits(right)).decode()
    print({key: value for key, value in run.items() if not key.endswith("right")}, flush=True)
    with open(RUNS, "a") as stream:
        stream.write(json.dumps(run) + "\n")


def read_runs() -> list[dict]:
    return [json.loads(line) for line in RUNS.read_text().splitlines()] if RUNS.is_file() else []


def scores_of(runs: Sequence[dict], split: str) -> Scores:
    """Returns the scores of runs that differ in their seed, from the packed marks of their right predictions."""
    length = {"choosing": 10000, "validation": 872}[split]
    right = np.stack([np.unpackbits(np.frombuffer(base64.b64decode(run[f"{split}_right"]), np.uint8)) for run in runs])
    # With 1 as label of every example, a prediction of 1 is a right one.
    ones, fresh = np.ones(length, dtype=int), runs[0]["recipe"] == "random"
    return bootstrap(accuracy, ones, right[:, :length].astype(int), fresh=fresh)


def table(runs: Sequence[dict]) -> str:
    """Returns the table of all recipes: means over seeds, and leads over another recipe with their 95% intervals.

    The p-values are of the lead on the kept sentences, corrected by Holm for all recipes, or all strategies, with as
    many sentences.
    """
    rows = []
    for sentences, of_sentences in grouped(runs, key=itemgetter("sentences")).items():
        groups = grouped(of_sentences, key=itemgetter("recipe"))
        leads = {split: leads_in(groups, split) for split in SPLITS}
        compared = list(leads["choosing"])
        p_values = {}
        for family in grouped(compared, key=lambda name: name in STRATEGIES).values():
            of_family = holm([leads["choosing"][name].p_value for name in family])
            p_values.update(zip(family, of_family, strict=True))
        for recipe, members in groups.items():
            row = {"Sentences": f"{sentences:,}", "Recipe": title_of(recipe), "Seeds": str(len(members))}
            row["Against"] = title_of(against(recipe)) if recipe in compared else ""
            for split, title in SPLITS.items():
                row[title] = scaled_spread([run[f"{split}_accuracy"] for run in members], 100)
                row[f"Lead, {split} (points)"] = str(leads[split].get(recipe, ""))
            row["p, corrected"] = p_value_in_print(p_values[recipe]) if recipe in p_values else ""
            rows.append(row)
    return markdown_table(rows)


def leads_in(groups: dict[str, list[dict]], split: str) -> dict[str, Interval]:
    """Returns the lead of each recipe with enough seeds over the one that it is compared with.

    An average of weights is compared with its own run as if their seeds differed, so its interval is too wide.
    """
    # Two seeds say too little about how far seeds differ.
    scores = {name: scores_of(members, split) for name, members in groups.items() if len(members) > 2}
    if not scores:
        return {}
    single_trainings = [name for name in scores if "+" not in name and RECIPES[name].soup_of == 1]
    seeds = pooled_seed_variance(scores[name] for name in single_trainings)
    return {
        name: difference(scores[name], scores[against(name)], seeds)
        for name in scores
        if name != "default" and against(name) in scores
    }


def against(recipe: str) -> str:
    """Returns the recipe that a recipe, or an average of its weights, is compared with."""
    name, _, average = recipe.partition("+")
    return name if average else RECIPES[name].against


def cost_table(task: Task, rounds: int = 15) -> str:
    """Returns the processor time of a batch of 32 sentences, in turns: medians over rounds."""
    torch.set_num_threads(1)
    models = {"teacher": task.teacher, "`odd`": copied(task, "odd"), "`narrow`": narrow(task)}
    columns = [*MODEL_INPUTS, "labels"]
    batch = task.collator(task.splits["validation"].select_columns(columns)[:32])
    forward, step = ({name: [] for name in models} for _ in range(2))
    for _ in range(rounds):
        for name, model in models.items():
            start = time.process_time()
            with torch.inference_mode():
                model.eval()(**batch)
            forward[name].append(time.process_time() - start)
            start = time.process_time()
            model.train().requires_grad_(True)(**batch).loss.backward()
            step[name].append(time.process_time() - start)
    return markdown_table(
        [
            {
                "Model": name,
                "Parameters": f"{model.num_parameters():,}",
                **{
                    title: f"{1000 * median(times[name]):.0f} ({median(times[name]) / median(times['teacher']):.2f})"
                    for title, times in (("Forward (ms)", forward), ("Forward and backward (ms)", step))
                },
            }
            for name, model in models.items()
        ]
    )


if __name__ == "__main__":
    main()
