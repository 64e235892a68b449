"""The ways to make and train students that `better_students.py` compares, and the sentences of SST-2 that it uses.

task = load_task(5000)
student = RECIPES["narrow_no_dropout"].build(task)
"""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets, load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from benchmarks.results import RESULTS, ROOT
from distill_trainer import DistillationTrainer
from experiments.other_training import RDropTrainer, Replacement
from experiments.shapes import averaged, importance_to_loss
from layer_distillation.encoder_layers import find_layer_list, num_layers
from layer_distillation.inner_neurons import inner_width, keep_neurons
from layer_distillation.model_outputs import compute_logits
from layer_distillation.stored_columns import TEACHER_LOGITS
from layer_mapping import build_random_student, build_student, select_layers
from training.neuron_choice import most_important, neuron_importance

OUTPUTS = ROOT / "outputs" / "better_students"
TEACHERS, STUDENTS = OUTPUTS / "teachers", OUTPUTS / "students"
ROWS = RESULTS / "sst2_choosing_rows.json"
BATCH_SIZE = 32  # as `DistillationTrainingArguments` has it


# ---- the task ----


@dataclass(frozen=True)
class Task:
    """The data of one number of training sentences, with what its teacher says.

    Attributes:
        train: tokenized, with the teacher's logits in `teacher_logits`.
        splits: tokenized, by the names "choosing" and "validation".
    """

    train: Dataset
    splits: dict[str, Dataset]
    teacher: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def collator(self) -> DataCollatorWithPadding:
        return DataCollatorWithPadding(self.tokenizer)

    @property
    def sentences(self) -> int:
        return len(self.train)

    @cached_property
    def more_text(self) -> Dataset:
        """All sentences of the training split that are neither kept nor the teacher's, as `train`."""
        rest = sentences_for_training()
        others = tokenized(rest.select(range(self.sentences, len(rest))), self.tokenizer)
        return with_logits(others, self.teacher, self.collator)

    def first(self, number: int) -> Dataset:
        return self.train.select(range(min(number, self.sentences)))


def load_task(sentences: int) -> Task:
    folder = TEACHERS / str(sentences)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    teacher = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    train = tokenized(sentences_for_training().select(range(sentences)), tokenizer)
    splits = {"choosing": kept_sentences(), "validation": load_dataset("nyu-mll/glue", "sst2", split="validation")}
    return Task(
        train=with_logits(train, teacher, DataCollatorWithPadding(tokenizer)),
        splits={name: tokenized(split, tokenizer) for name, split in splits.items()},
        teacher=teacher,
        tokenizer=tokenizer,
    )


def student_folder(sentences: int, recipe: str, seed: int) -> Path:
    """Returns where the weights of a trained student are."""
    return STUDENTS / f"{sentences}-{recipe}-{seed}"


def kept_sentences() -> Dataset:
    """Returns the sentences of SST-2's training split that no model is trained on."""
    return load_dataset("nyu-mll/glue", "sst2", split="train").select(json.loads(ROWS.read_text()))


def sentences_for_training() -> Dataset:
    """Returns SST-2's training split without the kept sentences, in its order."""
    train, kept = load_dataset("nyu-mll/glue", "sst2", split="train"), set(json.loads(ROWS.read_text()))
    return train.select([row for row in range(len(train)) if row not in kept])


def tokenized(texts: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Returns `sentence` tokenized, beside `labels`."""
    tokens = texts.map(lambda rows: tokenizer(rows["sentence"], truncation=True, max_length=128), batched=True)
    others = set(texts.column_names) - {"label"}
    return tokens.rename_column("label", "labels").remove_columns(list(others))


def with_logits(tokens: Dataset, teacher: PreTrainedModel, collator: Callable) -> Dataset:
    return tokens.add_column(TEACHER_LOGITS, list(compute_logits(teacher, tokens, collator)))


# ---- students before their training ----


def copied(task: Task, strategy: str) -> PreTrainedModel:
    if strategy == "random":
        return build_random_student(task.teacher)
    return build_student(task.teacher, select_layers(strategy, num_layers(task.teacher)))


def merged(task: Task) -> PreTrainedModel:
    """Returns a student whose layer k is the mean of the teacher's layers 2k - 1 and 2k."""
    return averaged([copied(task, "odd"), copied(task, "even")])


def replacing(task: Task, strategy: str) -> PreTrainedModel:
    """Returns a student whose layer k replaces the teacher's layers 2k - 1 and 2k during the first epoch."""
    student = copied(task, strategy)
    teacher_layers = copy.deepcopy(task.teacher.get_submodule(find_layer_list(task.teacher))).requires_grad_(False)
    steps = -(-task.sentences // BATCH_SIZE)
    for number, layer in enumerate(student.get_submodule(find_layer_list(student))):
        hook = Replacement(teacher_layers[2 * number : 2 * number + 2], calls=steps)
        layer.register_forward_hook(hook, with_kwargs=True)
    return student


def narrowed(task: Task, importance: np.ndarray) -> PreTrainedModel:
    """Returns a student with all layers and a quarter of their inner neurons: half of the teacher's operations."""
    return keep_neurons(task.teacher, most_important(importance, importance.shape[1] // 4))


def narrow(task: Task) -> PreTrainedModel:
    """Returns the student of `--layer_strategy narrow`."""
    return narrowed(task, neuron_importance(task.teacher, task.first(2000), task.collator, BATCH_SIZE))


def narrow_by_loss(task: Task) -> PreTrainedModel:
    return narrowed(task, importance_to_loss(task.teacher, task.first(2000), task.collator))


def narrow_at_random(task: Task) -> PreTrainedModel:
    """Returns the control, with inner neurons drawn at random."""
    shape = (num_layers(task.teacher), inner_width(task.teacher))
    return narrowed(task, np.random.default_rng(torch.initial_seed()).random(shape))


# ---- what students learn from ----


def own_text(task: Task) -> Dataset:
    return task.train


def corrected(task: Task) -> Dataset:
    """Returns the sentences; where the teacher is wrong, its highest logit and that of the label are exchanged."""
    logits, labels = np.array(task.train[TEACHER_LOGITS]), np.array(task.train["labels"])
    rows, guesses = np.arange(len(labels)), logits.argmax(axis=1)
    logits[rows, guesses], logits[rows, labels] = logits[rows, labels], logits[rows, guesses].copy()
    return replaced_logits(task.train, logits)


def several_teachers(task: Task) -> Dataset:
    """Returns the sentences with the mean of the logits of the task's teacher and of those of the seeds 43 and 44."""
    folders = [TEACHERS / f"{task.sentences}-{seed}" for seed in (43, 44)]
    others = [AutoModelForSequenceClassification.from_pretrained(folder).eval() for folder in folders]
    logits = [compute_logits(teacher, task.train, task.collator) for teacher in (task.teacher, *others)]
    return replaced_logits(task.train, np.mean(logits, axis=0))


def replaced_logits(sentences: Dataset, logits: np.ndarray) -> Dataset:
    return sentences.remove_columns(TEACHER_LOGITS).add_column(TEACHER_LOGITS, list(logits))


def all_text(task: Task) -> Dataset:
    return concatenate_datasets([task.train, task.more_text])


def with_random_fifth(task: Task) -> Dataset:
    """Returns the sentences and a fifth of the other ones, drawn at random."""
    order = np.random.default_rng(torch.initial_seed()).permutation(len(task.more_text))
    return with_texts(task, task.more_text, order)


def with_chosen_fifth(task: Task) -> Dataset:
    """Returns the sentences and a fifth of the other ones, which teacher and student choose.

    Of the half that the teacher is surest of, they are those that the student of `teacher_alone` is least sure of.
    """
    folder = student_folder(task.sentences, "teacher_alone", torch.initial_seed())
    student = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    sure_teacher = margins(np.array(task.more_text[TEACHER_LOGITS]))
    sure_student = margins(compute_logits(student, task.more_text, task.collator))
    surest = np.argsort(-sure_teacher)[: len(sure_teacher) // 2]
    return with_texts(task, task.more_text, surest[np.argsort(sure_student[surest])])


def with_tweets(task: Task) -> Dataset:
    """Returns the sentences and as many tweets, drawn at random, as a fifth of the other sentences."""
    tweets = load_dataset("tdavidson/hate_speech_offensive", split="train").select_columns(["tweet"])
    tweets = tweets.rename_column("tweet", "sentence").shuffle(torch.initial_seed()).select(range(fifth_of_rest(task)))
    # The labels have no weight, but the examples of both sources need the same columns.
    tokens = tokenized(tweets.add_column("label", [0] * len(tweets)), task.tokenizer)
    read_by_teacher = with_logits(tokens, task.teacher, task.collator).cast(task.train.features)
    return with_texts(task, read_by_teacher, range(len(tokens)))


def with_texts(task: Task, texts: Dataset, order: Sequence[int]) -> Dataset:
    """Returns the sentences and the first texts of an order, a fifth as many as there are other sentences."""
    return concatenate_datasets([task.train, texts.select(order[: fifth_of_rest(task)])])


def fifth_of_rest(task: Task) -> int:
    return len(task.more_text) // 5


def margins(logits: np.ndarray) -> np.ndarray:
    """Returns by how much the logits of two classes differ, `(examples,)`."""
    return np.abs(logits[:, 0] - logits[:, 1])


# ---- recipes ----


@dataclass(frozen=True)
class Recipe:
    """A way to make and train a student.

    Attributes:
        title: what the table calls it.
        build: makes the student of a task.
        data: makes what the student is trained on.
        trainer: the trainer's class.
        student_dropout: as the argument of this name.
        ce_weight: weight of the labels in the loss; that of the teacher's logits is the rest of 1.
        head_first: whether the head is fitted to the features of the untrained student.
        epochs: number of training epochs.
        as_long_as: what makes the data of which so many epochs set the number of steps; by default, its own.
        soup_of: number of students, trained with other seeds, whose weights are averaged.
        averages: names of running averages of the weights that are scored too, and their kind (see `Averages`).
        against: the recipe that it is compared with.
    """

    title: str
    build: Callable[[Task], PreTrainedModel] = partial(copied, strategy="odd")
    data: Callable[[Task], Dataset] = own_text
    trainer: type[DistillationTrainer] = DistillationTrainer
    student_dropout: float | None = None
    ce_weight: float = 0.5
    head_first: bool = False
    epochs: float = 2
    as_long_as: Callable[[Task], Dataset] | None = None
    soup_of: int = 1
    averages: dict[str, float | str] = field(default_factory=dict)
    against: str = "default"


# Without labels: `more_text` differs from `as_many_steps` in the text alone, and that from this one in the steps. The
# recipes with a fifth of the other text are compared with `as_many_steps_fifth` in the same way.
teacher_alone = partial(Recipe, ce_weight=0)
STRATEGIES = ("top", "bottom", "even", "random")
RECIPES = {
    "default": Recipe("default", averages={"ema_99": 0.99, "ema_998": 0.998, "last_epoch": "last epoch"}),
    "no_dropout": Recipe("no dropout", student_dropout=0.0),
    "soup": Recipe("mean of the weights of three students", soup_of=3),
    "corrected": Recipe("the teacher's mistakes corrected", data=corrected),
    "several_teachers": Recipe("mean logits of three teachers", data=several_teachers),
    "merged": Recipe("means of two neighboring layers", merged),
    "replacing": Recipe("`odd`, layers replaced one by one", partial(replacing, strategy="odd")),
    "replacing_even": Recipe(
        "`even`, layers replaced one by one", partial(replacing, strategy="even"), against="even"
    ),
    "r_drop": Recipe("R-Drop", trainer=RDropTrainer),
    "head_first": Recipe("the head is fitted first", head_first=True),
    "labels_alone": Recipe("the labels alone", ce_weight=1),
    **{strategy: Recipe(f"`{strategy}`", partial(copied, strategy=strategy)) for strategy in STRATEGIES},
    "top_head_first": Recipe(
        "`top`, the head is fitted first", partial(copied, strategy="top"), head_first=True, against="top"
    ),
    "narrow_by_loss": Recipe("`narrow`, neurons by the loss", narrow_by_loss),
    "narrow_by_loss_no_dropout": Recipe(
        "`narrow`, neurons by the loss, no dropout", narrow_by_loss, student_dropout=0.0
    ),
    "narrow_no_dropout": Recipe("`narrow`, no dropout", narrow, student_dropout=0.0),
    "narrow_at_random": Recipe("`narrow`, neurons at random", narrow_at_random),
    "no_dropout_longer": Recipe("no dropout, 4 epochs", student_dropout=0.0, epochs=4),
    "narrow_longer": Recipe("`narrow`, no dropout, 4 epochs", narrow, student_dropout=0.0, epochs=4),
    "teacher_alone": teacher_alone("the teacher alone"),
    "as_many_steps": teacher_alone(
        "the teacher alone, as many steps as all text", as_long_as=all_text, against="teacher_alone"
    ),
    "more_text": teacher_alone("the teacher alone, all text", data=all_text, against="as_many_steps"),
    "narrow_more_text": teacher_alone(
        "`narrow`, no dropout, the teacher alone, all text", narrow, all_text, student_dropout=0.0, against="more_text"
    ),
    "as_many_steps_fifth": teacher_alone(
        "the teacher alone, as many steps as a fifth more", as_long_as=with_random_fifth, against="teacher_alone"
    ),
    "random_fifth": teacher_alone(
        "the teacher alone, a random fifth more", data=with_random_fifth, against="as_many_steps_fifth"
    ),
    "chosen_fifth": teacher_alone(
        "the teacher alone, a chosen fifth more", data=with_chosen_fifth, against="random_fifth"
    ),
    "tweets": teacher_alone("the teacher alone, tweets more", data=with_tweets, against="as_many_steps_fifth"),
}


def title_of(recipe: str) -> str:
    """Returns the title of a recipe, or of `RECIPE+AVERAGE`."""
    name, _, average = recipe.partition("+")
    titles = {
        "ema_99": "moving average 0.99",
        "ema_998": "moving average 0.998",
        "last_epoch": "mean of the last epoch",
    }
    title = RECIPES[name].title if name in RECIPES else name
    return f"{title}, {titles[average]}" if average else title
