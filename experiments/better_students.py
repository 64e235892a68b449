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
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from statistics import median

import numpy as np
import torch
from datasets import Dataset, load_dataset
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    set_seed,
)

from benchmarks.results import RESULTS, ROOT
from comparison.bootstrap import Interval, Scores, bootstrap, difference, holm, p_value_in_print, pooled_seed_variance
from comparison.metrics import accuracy
from distill_trainer import DistillationTrainer, DistillationTrainingArguments
from experiments.runs import scaled_spread
from experiments.shapes import averaged, importance_to_loss
from layer_distillation.encoder_layers import num_layers
from layer_distillation.inner_neurons import inner_width, keep_neurons
from layer_distillation.model_outputs import MODEL_INPUTS, compute_logits, longest_first
from layer_distillation.stored_columns import TEACHER_LOGITS
from layer_mapping import build_random_student, build_student, select_layers
from training.neuron_choice import most_important, neuron_importance
from training.tables import grouped, markdown_table

OUTPUTS = ROOT / "outputs" / "better_students"
ROWS = RESULTS / "sst2_choosing_rows.json"
RUNS = RESULTS / "better_students.jsonl"
TABLE = RESULTS / "better_students.md"
COST = RESULTS / "better_students_cost.md"
SPLITS = {"choosing": "Accuracy, choosing (%)", "validation": "Accuracy, validation (%)"}


@dataclass(frozen=True)
class Task:
    """The data of one number of training sentences, with what its teacher says.

    Attributes:
        train: tokenized, with the teacher's logits in `teacher_logits`.
        splits: tokenized, by the names in `SPLITS`.
    """

    train: Dataset
    splits: dict[str, Dataset]
    teacher: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def collator(self) -> DataCollatorWithPadding:
        return DataCollatorWithPadding(self.tokenizer)

    def first(self, number: int) -> Dataset:
        return self.train.select(range(min(number, len(self.train))))


@dataclass(frozen=True)
class Recipe:
    """A way to make and train a student.

    Attributes:
        title: what the table calls it.
        build: makes the student of a task.
        logits: makes the logits that the student learns from; `None` for the teacher's.
        student_dropout: as the argument of this name.
        labels_alone: whether the student learns from the labels alone.
        head_first: whether the head is fitted to the features of the untrained student.
        epochs: number of training epochs.
        averages: names of running averages of the weights that are scored too, and their kind (see `Averages`).
    """

    title: str
    build: Callable[[Task], PreTrainedModel] = field(default=lambda task: copied(task, "odd"))
    logits: Callable[[Task], np.ndarray] | None = None
    student_dropout: float | None = None
    labels_alone: bool = False
    head_first: bool = False
    epochs: int = 2
    averages: dict[str, float | str] = field(default_factory=dict)


def copied(task: Task, strategy: str) -> PreTrainedModel:
    if strategy == "random":
        return build_random_student(task.teacher)
    return build_student(task.teacher, select_layers(strategy, num_layers(task.teacher)))


def merged(task: Task) -> PreTrainedModel:
    """Returns a student whose layer k is the mean of the teacher's layers 2k - 1 and 2k."""
    return averaged([copied(task, "odd"), copied(task, "even")])


def narrowed(task: Task, importance: np.ndarray) -> PreTrainedModel:
    """Returns a student with all layers and a quarter of their inner neurons: half of the teacher's operations."""
    return keep_neurons(task.teacher, most_important(importance, importance.shape[1] // 4))


def narrow(task: Task) -> PreTrainedModel:
    """Returns the student of `--layer_strategy narrow`."""
    return narrowed(task, neuron_importance(task.teacher, task.first(2000), task.collator, 32))


def narrow_by_loss(task: Task) -> PreTrainedModel:
    return narrowed(task, importance_to_loss(task.teacher, task.first(2000), task.collator))


def narrow_at_random(task: Task) -> PreTrainedModel:
    """Returns the control, with inner neurons drawn at random."""
    shape = (num_layers(task.teacher), inner_width(task.teacher))
    return narrowed(task, np.random.default_rng(torch.initial_seed()).random(shape))


def corrected(task: Task) -> np.ndarray:
    """Returns the teacher's logits; where the teacher is wrong, the highest and that of the label are exchanged."""
    logits, labels = np.array(task.train[TEACHER_LOGITS]), np.array(task.train["labels"])
    rows, guesses = np.arange(len(labels)), logits.argmax(axis=1)
    logits[rows, guesses], logits[rows, labels] = logits[rows, labels], logits[rows, guesses].copy()
    return logits


STRATEGIES = ("top", "bottom", "even", "random")
RECIPES = {
    "default": Recipe("default", averages={"ema_99": 0.99, "ema_998": 0.998, "last_epoch": "last epoch"}),
    "no_dropout": Recipe("no dropout", student_dropout=0.0),
    "corrected": Recipe("the teacher's mistakes corrected", logits=corrected),
    "merged": Recipe("means of two neighboring layers", merged),
    "head_first": Recipe("the head is fitted first", head_first=True),
    "labels_alone": Recipe("the labels alone", labels_alone=True),
    **{strategy: Recipe(f"`{strategy}`", partial(copied, strategy=strategy)) for strategy in STRATEGIES},
    "top_head_first": Recipe("`top`, the head is fitted first", lambda task: copied(task, "top"), head_first=True),
    "narrow": Recipe("`narrow`, neurons by the loss", narrow_by_loss),
    "narrow_no_dropout": Recipe("`narrow`, neurons by the loss, no dropout", narrow_by_loss, student_dropout=0.0),
    "narrow_by_logits_no_dropout": Recipe("`narrow`, no dropout", narrow, student_dropout=0.0),
    "narrow_at_random": Recipe("`narrow`, neurons at random", narrow_at_random),
    "no_dropout_longer": Recipe("no dropout, 4 epochs", student_dropout=0.0, epochs=4),
    "narrow_longer": Recipe("`narrow`, no dropout, 4 epochs", narrow, student_dropout=0.0, epochs=4),
}


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


def load_task(sentences: int) -> Task:
    folder = OUTPUTS / "teachers" / str(sentences)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    teacher = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    data = load_dataset("nyu-mll/glue", "sst2")
    train = data["train"].select(range(sentences))
    splits = {"train": train, "choosing": kept_sentences(), "validation": data["validation"]}
    tokenized = {
        name: split.map(lambda rows: tokenizer(rows["sentence"], truncation=True, max_length=128), batched=True)
        .rename_column("label", "labels")
        .remove_columns(["sentence", "idx"])
        for name, split in splits.items()
    }
    train = tokenized.pop("train")
    logits = compute_logits(teacher, train, DataCollatorWithPadding(tokenizer))
    task = Task(train.add_column(TEACHER_LOGITS, list(logits)), tokenized, teacher, tokenizer)
    if not any(run["recipe"] == "teacher" and run["sentences"] == sentences for run in read_runs()):
        add_run(task, "teacher", 0, teacher)
    return task


def kept_sentences() -> Dataset:
    """Returns the sentences of SST-2's training split that no model is trained on."""
    return load_dataset("nyu-mll/glue", "sst2", split="train").select(json.loads(ROWS.read_text()))


def train_and_score(task: Task, name: str, seed: int) -> None:
    recipe, sentences = RECIPES[name], len(task.train)
    folder = OUTPUTS / "students" / f"{sentences}-{name}-{seed}"
    set_seed(seed)
    student, train = recipe.build(task), task.train
    if recipe.logits is not None:
        train = train.remove_columns(TEACHER_LOGITS).add_column(TEACHER_LOGITS, list(recipe.logits(task)))
    if recipe.head_first:
        fit_head(student, task)
    args = DistillationTrainingArguments(
        output_dir=str(folder),
        seed=seed,
        student_dropout=recipe.student_dropout,
        num_train_epochs=recipe.epochs,
        save_strategy="no",
        logging_steps=100,
        report_to="none",
        disable_tqdm=True,
    )
    if recipe.labels_alone:
        args = args.for_labels_alone()
    averages = Averages(recipe.averages)
    trainer = DistillationTrainer(
        model=student, args=args, train_dataset=train, processing_class=task.tokenizer, callbacks=[averages]
    )
    trainer.train()
    student.save_pretrained(folder)
    add_run(task, name, seed, student)
    for average, weights in averages.means.items():
        student.load_state_dict(weights)
        add_run(task, f"{name}+{average}", seed, student)


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
    features = np.empty((len(task.train), rows[0].shape[1]), dtype=np.float32)
    features[longest_first(task.train)] = np.concatenate(rows)
    return features


# ---- results ----


def add_run(task: Task, recipe: str, seed: int, model: PreTrainedModel) -> None:
    """Scores a model on all splits and adds a line to the file of runs."""
    run = {"sentences": len(task.train), "recipe": recipe, "seed": seed}
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
    """Returns the table of all recipes: means over seeds, and leads over the default with their 95% intervals.

    The p-values are of the lead on the kept sentences, corrected by Holm for all recipes, or all strategies, with as
    many sentences.
    """
    rows = []
    for sentences, of_sentences in grouped(runs, key=itemgetter("sentences")).items():
        groups = grouped(of_sentences, key=itemgetter("recipe"))
        leads = {split: leads_over_default(groups, split) for split in SPLITS}
        compared = list(leads["choosing"])
        p_values = {}
        for family in grouped(compared, key=lambda name: name in STRATEGIES).values():
            of_family = holm([leads["choosing"][name].p_value for name in family])
            p_values.update(zip(family, of_family, strict=True))
        for recipe, members in groups.items():
            row = {"Sentences": f"{sentences:,}", "Recipe": title_of(recipe), "Seeds": str(len(members))}
            for split, title in SPLITS.items():
                row[title] = scaled_spread([run[f"{split}_accuracy"] for run in members], 100)
                row[f"Lead, {split} (points)"] = str(leads[split].get(recipe, ""))
            row["p, corrected"] = p_value_in_print(p_values[recipe]) if recipe in p_values else ""
            rows.append(row)
    return markdown_table(rows)


def leads_over_default(groups: dict[str, list[dict]], split: str) -> dict[str, Interval]:
    """Returns the leads of all recipes with enough seeds, by recipe."""
    # Two seeds say too little about how far seeds differ.
    compared = [name for name, members in groups.items() if len(members) > 2 and name != "default"]
    if not compared:
        return {}
    scores = {name: scores_of(groups[name], split) for name in ("default", *compared)}
    seeds = pooled_seed_variance(scores.values())
    return {name: difference(scores[name], scores["default"], seeds) for name in compared}


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


def title_of(recipe: str) -> str:
    name, _, average = recipe.partition("+")
    titles = {
        "ema_99": "moving average 0.99",
        "ema_998": "moving average 0.998",
        "last_epoch": "mean of the last epoch",
    }
    title = RECIPES[name].title if name in RECIPES else name
    return f"{title}, {titles[average]}" if average else title


if __name__ == "__main__":
    main()
