"""What the timings of training share: data, teacher, student, and the loop that our trainer is compared with.

    setup = prepare(parser.parse_args(), folder)      # with the arguments of `add_setup_arguments`
    teacher = setup.load_teacher()
    our_trainer(setup, student_of(teacher), setup.splits["train"], {"bf16": False}, teacher_model=teacher).train()

All ways of training start from the same student. All minimize half cross-entropy with the labels and half KL to the
teacher at T = 2, with AdamW at the same learning rate in batches of 32. So they differ only in how they compute it.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset, DatasetDict, load_from_disk
from sklearn.metrics import accuracy_score, f1_score
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    set_seed,
)

from benchmarks.measuring import device
from distill_trainer import DistillationTrainer, DistillationTrainingArguments
from layer_distillation.model_outputs import compute_logits
from layer_distillation.pretrained import PACKAGED_TEACHER, resolve_checkpoint
from layer_distillation.teacher_outputs import add_teacher_hidden_states, add_teacher_logits
from layer_mapping import build_student, num_layers, select_layers
from text_data.arguments import DataArguments
from training.arguments import TeacherArguments
from training.inputs import load_inputs
from training.teacher import TeacherStart, fine_tune, load_teacher

RANDOM_BERT_BASE = "random-bert-base"
BATCH_SIZE, EVAL_BATCH, LEARNING_RATE, TEMPERATURE = 32, 64, 1e-4, 2.0
PLAIN_FINE_TUNING = {"ce_weight": 1.0, "kl_weight": 0.0}
PRECISIONS = {False: "float32", True: "bfloat16"}


@dataclass(frozen=True)
class Setup:
    """A folder with tokenized splits and a teacher, from which every process can start."""

    folder: Path

    @property
    def splits(self) -> DatasetDict:
        return load_from_disk(str(self.folder / "data"))

    @property
    def collator(self) -> DataCollatorWithPadding:
        return DataCollatorWithPadding(AutoTokenizer.from_pretrained(self.folder / "teacher"))

    def load_teacher(self) -> PreTrainedModel:
        teacher = AutoModelForSequenceClassification.from_pretrained(self.folder / "teacher", dtype="float32")
        return teacher.to(device()).eval()


class CountingCollator:
    """Pads a batch, and counts the tokens of the texts and the shapes that the models compute on.

    Attributes:
        real_tokens: tokens of all batches without padding.
        shapes: examples and padded length of each batch.
    """

    def __init__(self, collator: Callable):
        self.collator = collator
        self.real_tokens = 0
        self.shapes: list[tuple[int, int]] = []

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = dict(self.collator(rows))
        self.real_tokens += sum(len(row["input_ids"]) for row in rows)
        self.shapes.append(tuple(batch["input_ids"].shape))
        return batch

    @property
    def padding_share(self) -> float:
        """Padding's share of all tokens computed on, from 0 to 1."""
        return 1 - self.real_tokens / sum(examples * length for examples, length in self.shapes)


def add_setup_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that choose data and teacher."""
    parser.add_argument("--train_file", help="csv file with the columns text and label; unset: the sample data set")
    parser.add_argument("--test_file", help="csv file with the same columns, for the scores")
    parser.add_argument("--label_order", help="comma-separated label names in the order of the teacher's ids")
    parser.add_argument("--examples", type=int, help="number of training examples, from the first; unset: all")
    parser.add_argument("--test_examples", type=int, help="number of test examples, from the first; unset: all")
    parser.add_argument(
        "--teacher",
        default=PACKAGED_TEACHER,
        help="fine-tuned classifier, or encoder to fine-tune on the training examples first; "
        f"{RANDOM_BERT_BASE}: BERT-base with random weights, to measure speed (default: %(default)s)",
    )


def prepare(args: argparse.Namespace, folder: str | Path) -> Setup:
    """Prepares the data and the teacher that the arguments of `add_setup_arguments` name."""
    data_args = DataArguments(
        train_file=args.train_file,
        test_file=args.test_file,
        label_order=args.label_order,
        validation_split_percentage=10 if args.train_file else None,
        max_train_samples=args.examples,
        max_predict_samples=args.test_examples,
    )
    return prepare_data(data_args, args.teacher, folder)


def prepare_data(data_args: DataArguments, teacher: str, folder: str | Path, fine_tuned: bool = True) -> Setup:
    """Tokenizes the data and prepares the teacher in the folder; a new head stays untrained if not `fine_tuned`."""
    folder = Path(folder)
    is_random = teacher == RANDOM_BERT_BASE
    path = resolve_checkpoint(PACKAGED_TEACHER if is_random else teacher)
    teacher_args = TeacherArguments(teacher_name_or_path=path, teacher_output_dir=str(folder / "fine-tuned"))
    training_args = training_arguments(folder)
    inputs = load_inputs(path, teacher_args, data_args, training_args)
    if is_random:
        labels = inputs.data.labels
        config = BertConfig(id2label=labels.id2label, label2id=labels.label2id, problem_type=labels.problem_type)
        set_seed(0)
        start = TeacherStart(path, BertForSequenceClassification(config), True, teacher_args)
    else:
        start = load_teacher(path, teacher_args, inputs.data.labels)
    model = start.model
    if fine_tuned and not start.is_trained:
        model, _ = fine_tune(start, training_args, inputs)
    model.save_pretrained(folder / "teacher")
    inputs.tokenizer.save_pretrained(folder / "teacher")
    inputs.tokenized.save_to_disk(str(folder / "data"))
    return Setup(folder)


def student_of(teacher: PreTrainedModel, strategy: str = "even") -> PreTrainedModel:
    """Returns a student of half of the teacher's layers."""
    return build_student(teacher, select_layers(strategy, num_layers(teacher)))


def training_arguments(folder: Path, **settings) -> DistillationTrainingArguments:
    """Returns the arguments that all ways of training share, changed by `settings`."""
    defaults = {
        "output_dir": str(folder / "run"),
        "per_device_train_batch_size": BATCH_SIZE,
        "per_device_eval_batch_size": EVAL_BATCH,
        "learning_rate": LEARNING_RATE,
        "temperature": TEMPERATURE,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return DistillationTrainingArguments(**{**defaults, **settings})


def our_trainer(
    setup: Setup, student: PreTrainedModel, train_dataset: Dataset, settings: dict, **parts
) -> DistillationTrainer:
    """Returns our trainer.

    Args:
        settings: training arguments, by name.
        parts: further arguments of `DistillationTrainer`, such as `teacher_model` and `data_collator`.
    """
    arguments = training_arguments(setup.folder, **settings)
    return DistillationTrainer(model=student, args=arguments, train_dataset=train_dataset, **parts)


def with_stored_outputs(setup: Setup, teacher: PreTrainedModel, cache_dir: Path, bf16: bool) -> Dataset:
    """Returns the training split with the teacher's logits, which are computed once and then read from the cache."""
    return add_teacher_logits(
        setup.splits["train"], teacher, cache_dir=cache_dir, collator=setup.collator, bf16=bf16, batch_size=EVAL_BATCH
    )


def with_stored_hidden_states(
    setup: Setup, train_dataset: Dataset, teacher: PreTrainedModel, layers: Sequence[int], bf16: bool
) -> Dataset:
    """Returns the data set with further columns: the hidden states of these layers of the teacher."""
    return add_teacher_hidden_states(
        train_dataset,
        teacher,
        layers,
        cache_dir=setup.folder / f"hidden-states-{PRECISIONS[bf16]}",
        collator=setup.collator,
        max_bytes=2**63,
        batch_size=EVAL_BATCH,
        bf16=bf16,
    )


def random_batches(train_dataset: Dataset, collator: Callable, seed: int) -> DataLoader:
    """Returns batches in random order, without regard to length."""
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(train_dataset, batch_size=BATCH_SIZE, shuffle=True, collate_fn=collator, generator=generator)


def train_like_the_notebook(
    student: PreTrainedModel, teacher: PreTrainedModel, batches: Iterable[dict], num_epochs: int
) -> None:
    """Trains as the loop of the common notebooks: random batches, the teacher in every step, float32, plain AdamW."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE)
    student.train()
    for _ in range(num_epochs):
        total_loss = 0.0
        for batch in batches:
            batch = {name: values.to(student.device) for name, values in batch.items()}
            labels = batch.pop("labels")
            with torch.no_grad():
                teacher_logits = teacher(**batch).logits
            student_logits = student(**batch).logits
            kl = F.kl_div(
                F.log_softmax(student_logits / TEMPERATURE, dim=-1),
                F.softmax(teacher_logits / TEMPERATURE, dim=-1),
                reduction="batchmean",
            )
            loss = 0.5 * F.cross_entropy(student_logits, labels) + 0.5 * TEMPERATURE**2 * kl
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total_loss += loss.item()


def score(student: PreTrainedModel, setup: Setup) -> dict[str, float]:
    """Returns accuracy and macro-F1 on the test split, in float32 whatever the precision of the training was."""
    test = setup.splits["test"]
    predictions = compute_logits(student.eval(), test, setup.collator).argmax(axis=1)
    return {
        "accuracy": accuracy_score(test["labels"], predictions),
        "macro_f1": f1_score(test["labels"], predictions, average="macro"),
    }
