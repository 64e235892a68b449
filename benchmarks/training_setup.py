"""What the benchmarks of training share: the same data, teacher and student, and the loop that ours is compared with.

Every way of training starts from the same student and minimises the same loss, half cross-entropy with the labels and
half KL to the teacher at T = 2, with AdamW from the same learning rate in batches of 32: they differ in what they do
for it, not in what they are after.
"""

import argparse
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

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

from distill_trainer import DistillationTrainer
from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.encoder_layers import num_layers
from layer_distillation.model_outputs import compute_logits
from layer_distillation.pretrained import PACKAGED_TEACHER, resolve_checkpoint
from layer_distillation.teacher_outputs import add_teacher_hidden_states, add_teacher_logits
from layer_mapping import build_student, select_layers
from text_data.arguments import DataArguments
from training.arguments import TeacherArguments
from training.checkpoints import load_classifier
from training.inputs import load_inputs
from training.teacher import fine_tune

ROOT = Path(__file__).resolve().parent.parent

RANDOM_BERT_BASE = "random-bert-base"
BATCH_SIZE, LEARNING_RATE, TEMPERATURE = 32, 1e-4, 2.0
PLAIN_FINE_TUNING = {"ce_weight": 1.0, "kl_weight": 0.0}
PRECISIONS = {False: "float32", True: "bfloat16"}


@dataclass(frozen=True)
class Setup:
    """A folder with the tokenised splits and a teacher that is ready, for processes of their own to start from."""

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
    """Pads a batch, and keeps count of the texts' own tokens and of the shapes that the models compute on."""

    def __init__(self, collator: Callable):
        self.collator = collator
        self.real_tokens = 0
        self.shapes: list[tuple[int, int]] = []  # examples and padded length of each batch

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = dict(self.collator(rows))
        self.real_tokens += sum(len(row["input_ids"]) for row in rows)
        self.shapes.append(tuple(batch["input_ids"].shape))
        return batch

    @property
    def padding_share(self) -> float:
        return 1 - self.real_tokens / sum(examples * length for examples, length in self.shapes)


def add_setup_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--train_file", help="csv file with the columns text and label; unset: the embedded data set")
    parser.add_argument("--test_file", help="as --train_file, for the scores")
    parser.add_argument("--label_order", help="comma separated names, for a teacher that has them in another order")
    parser.add_argument("--examples", type=int, help="train on the first n examples only")
    parser.add_argument("--test_examples", type=int, help="score on the first n test examples only")
    parser.add_argument(
        "--teacher",
        default=PACKAGED_TEACHER,
        help="classifier, or an encoder that is fine-tuned on the training examples first; "
        f"{RANDOM_BERT_BASE}: BERT-base with random weights, for its speed alone",
    )


def prepare(args: argparse.Namespace, folder: str | Path) -> Setup:
    """Sets up what `add_setup_arguments` asked for."""
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
    """Tokenises the data and gets the teacher ready; not `fine_tuned`, a new head stays as it is."""
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
        model, is_trained = BertForSequenceClassification(config), True
    else:
        model, is_trained = load_classifier(path, inputs.data.labels, teacher_args)
    if fine_tuned and not is_trained:
        model, _ = fine_tune(model, teacher_args, training_args, inputs.tokenized, inputs.tokenizer)
    model.save_pretrained(folder / "teacher")
    inputs.tokenizer.save_pretrained(folder / "teacher")
    inputs.tokenized.save_to_disk(str(folder / "data"))
    return Setup(folder)


def student_of(teacher: PreTrainedModel, strategy: str = "even") -> PreTrainedModel:
    return build_student(teacher, select_layers(strategy, num_layers(teacher)))


def training_arguments(folder: Path, **settings) -> DistillationTrainingArguments:
    defaults = {
        "output_dir": str(folder / "run"),
        "per_device_train_batch_size": BATCH_SIZE,
        "learning_rate": LEARNING_RATE,
        "temperature": TEMPERATURE,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return DistillationTrainingArguments(**{**defaults, **settings})


def our_trainer(
    setup: Setup,
    student: PreTrainedModel,
    train_dataset: Dataset,
    collator: Callable,
    teacher: PreTrainedModel | None = None,
    callbacks: list | None = None,
    teacher_layers: Sequence[int] | None = None,
    **settings,
) -> DistillationTrainer:
    """Ours, with the teacher in every step, with its stored outputs, or without; `settings` are training arguments."""
    return DistillationTrainer(
        model=student,
        teacher_model=teacher,
        teacher_layers=teacher_layers,
        args=training_arguments(setup.folder, **settings),
        train_dataset=train_dataset,
        data_collator=collator,
        callbacks=callbacks,
    )


def with_stored_outputs(setup: Setup, teacher: PreTrainedModel, cache_dir: Path, bf16: bool) -> Dataset:
    """The training split as the scripts use it: with the teacher's outputs, computed once and then read."""
    batch_size = training_arguments(setup.folder).per_device_eval_batch_size
    return add_teacher_logits(setup.splits["train"], teacher, cache_dir, setup.collator, batch_size, bf16)


def with_stored_hidden_states(
    setup: Setup, train_dataset: Dataset, teacher: PreTrainedModel, layers: Sequence[int], bf16: bool
) -> Dataset:
    """The data set with the hidden states of these layers of the teacher beside what it has."""
    batch_size = training_arguments(setup.folder).per_device_eval_batch_size
    cache_dir, no_limit = setup.folder / f"hidden-states-{PRECISIONS[bf16]}", 2**63
    return add_teacher_hidden_states(
        train_dataset, teacher, layers, cache_dir, setup.collator, no_limit, batch_size, bf16
    )


def random_batches(train_dataset: Dataset, collator: Callable, seed: int) -> DataLoader:
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(train_dataset, batch_size=BATCH_SIZE, shuffle=True, collate_fn=collator, generator=generator)


def train_like_the_notebook(
    student: PreTrainedModel, teacher: PreTrainedModel, batches: Iterable[dict], num_epochs: int
) -> None:
    """The loop that everybody copies: random batches, each padded, the teacher in every step, float32, plain AdamW."""
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
    """Accuracy and macro-F1 on the test split, in float32 whatever the training's precision was."""
    test = setup.splits["test"]
    predictions = compute_logits(student.eval(), test, setup.collator).argmax(axis=1)
    return {
        "accuracy": accuracy_score(test["labels"], predictions),
        "macro_f1": f1_score(test["labels"], predictions, average="macro"),
    }


def device() -> torch.device:
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def synchronize() -> None:
    """Waits for the device, so that a clock measures what was computed and not what was asked for."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def peak_memory_mb() -> float:
    """Of the GPU as PyTorch counts it; without one, the most that was resident of this process (Linux)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    # `getrusage` would count the process that started this one: its peak is handed down.
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e6


def in_own_process(function: Callable, *args):
    """What the function returns in a fresh process: no memory, compiled kernel or thread of an earlier run counts."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *args).result()


def describe_machine() -> str:
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    return f"PyTorch {torch.__version__}, {where}."


def median_and_range(values: list[float], digits: int = 2) -> str:
    return f"{median(values):.{digits}f} [{min(values):.{digits}f} - {max(values):.{digits}f}]"
