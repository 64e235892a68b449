"""Speed, memory and quality of ways to distil, side by side: the notebook's loop, TextBrewer, fine-tuning, ours.

    python -m benchmarks.training_speed                                     # the sample data set
    python -m benchmarks.training_speed --train_file train.csv --test_file test.csv \\
        --examples 2048 --test_examples 1000
    python -m benchmarks.training_speed --teacher random-bert-base --torch_compile     # where there is a GPU
    python -m benchmarks.training_speed --name layer_losses_speed \\
        --variants cached-bfloat16 hidden_cached-bfloat16 hidden-bfloat16 attention-bfloat16 relation-bfloat16

Each variant trains in a process of its own. The processes take turns of a few steps: while one trains, the others
wait. The order is reversed every round, so that a change in the machine's speed affects all variants alike. The first
round warms up and is not counted. A turn has as many steps as `group_by_length` has batches in a group. The batches of
a group run from long texts to short ones, so every turn is the same part of an epoch. With few examples the groups are
small and our batches hold more padding. Writes `docs/results/NAME.csv`, `NAME.md` and `NAME.svg`.

Plain fine-tuning is `DistillationTrainer` with `kl_weight=0`: the same batches in the same order, without a teacher.
TextBrewer is its published GeneralDistiller with the same loss; pip fetches it into a temporary folder, unless
`--variants` leaves it out. All variants together take about 12 GB of memory.
"""

import argparse
import itertools
import math
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback, set_seed

from benchmarks.measuring import describe_machine, device, peak_memory_mb, synchronize
from benchmarks.results import RESULTS, write_results
from benchmarks.speed_tables import cache_table, comparison_table, draw, speed_table
from benchmarks.training_setup import (
    BATCH_SIZE,
    EVAL_BATCH,
    LEARNING_RATE,
    PLAIN_FINE_TUNING,
    PRECISIONS,
    TEMPERATURE,
    CountingCollator,
    Setup,
    add_setup_arguments,
    our_trainer,
    prepare,
    random_batches,
    score,
    student_of,
    train_like_the_notebook,
    with_stored_hidden_states,
    with_stored_outputs,
)
from layer_distillation.arguments import bf16_in_hardware
from layer_distillation.teacher_outputs import HiddenStatesCollator
from layer_mapping import num_layers, select_layers

# With what TextBrewer imports and this project does not install; pip gets `--no-deps` to leave the rest alone.
TEXTBREWER = ("textbrewer==0.2.1.post1", "tensorboardX", "protobuf")
SEED = 0


class Variant(NamedTuple):
    """A way of training in a precision."""

    method: str
    bf16: bool

    def __str__(self) -> str:
        return f"{self.method} {PRECISIONS[self.bf16]}"


# Settings of the losses on layers. All but `hidden_cached` run the teacher in every step.
LAYER_LOSSES = {
    "hidden_cached": {"hidden_weight": 1.0},
    "hidden": {"hidden_weight": 1.0},
    "attention": {"attention_weight": 1.0},
    "relation": {"relation_weight": 1.0},
}
VARIANTS = (
    Variant("notebook", False),
    Variant("textbrewer", False),
    Variant("finetune", False),
    Variant("no_cache", False),
    Variant("cached", False),
    Variant("finetune", True),
    Variant("no_cache", True),
    Variant("cached", True),
)
LAYER_VARIANTS = tuple(Variant(method, True) for method in LAYER_LOSSES)


def main():
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if any(variant.method == "textbrewer" for variant in args.variants):
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
            subprocess.run([*command, str(folder / "textbrewer"), *TEXTBREWER], check=True)
        setup = prepare(args, folder)
        cache_rows = [cost_of_cache(setup, bf16, args.rounds) for bf16 in sorted({v.bf16 for v in args.variants})]
        rows = take_turns(setup, args.variants, args.rounds, args.torch_compile)
        num_examples = len(setup.splits["train"])
    draw(rows, RESULTS / f"{args.name}.svg")
    data = Path(args.train_file).name if args.train_file else "the sample data set"
    rounds = f"{args.rounds} rounds of {steps_a_turn(num_examples)} steps"
    heading = f"{num_examples:,} examples of {data}, {rounds}; median [smallest - largest]. {describe_machine()}"
    report = [heading, speed_table(rows), comparison_table(rows), cache_table(cache_rows)]
    write_results(args.name, rows, "\n\n".join(report))


# ---- taking turns ----


class Turns:
    """The turns of one variant: the clock runs while it is the variant's turn.

    Args:
        connection: to the process that gives the turns: sends "ready", waits for a word, and sends the seconds.
        number: of turns.
        steps: of one turn.
    """

    def __init__(self, connection: Connection, number: int, steps: int):
        self.connection = connection
        self.number = number
        self.steps = steps

    def start(self) -> None:
        self.connection.send("ready")
        self.connection.recv()
        synchronize()
        self.started = time.perf_counter()

    def stop(self) -> None:
        synchronize()
        self.connection.send(time.perf_counter() - self.started)


class StepsInTurn(TrainerCallback):
    """Lets a `Trainer` train in turns."""

    def __init__(self, turns: Turns):
        self.turns = turns

    def on_train_begin(self, args, state, control, **kwargs):
        self.turns.start()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.turns.steps == 0:
            self.turns.stop()
            if state.global_step < state.max_steps:
                self.turns.start()


class BatchesInTurn:
    """The batches of all turns, for training loops that have no callbacks."""

    def __init__(self, loader: DataLoader, turns: Turns):
        self.loader = loader
        self.turns = turns

    def __len__(self) -> int:
        return self.turns.steps * self.turns.number

    def __iter__(self) -> Iterator[dict]:
        batches = itertools.chain.from_iterable(itertools.repeat(self.loader))
        for _ in range(self.turns.number):
            self.turns.start()
            yield from itertools.islice(batches, self.turns.steps)
            self.turns.stop()


def steps_a_turn(num_examples: int) -> int:
    """Returns the number of batches in a group of `get_length_grouped_indices`, which sorts each group by length."""
    return max(min(num_examples // (4 * BATCH_SIZE), 50), 1)


def take_turns(setup: Setup, variants: list[Variant], rounds: int, torch_compile: bool) -> list[dict]:
    """Trains all variants for one round that is not counted and `rounds` that are.

    Returns:
        A row for each variant and counted round.
    """
    context = multiprocessing.get_context("spawn")
    connections, seconds, results = {}, {variant: [] for variant in variants}, {}
    for variant in variants:
        connections[variant], theirs = context.Pipe()
        arguments = (variant, setup, rounds + 1, torch_compile, theirs)
        context.Process(target=train_in_turn, args=arguments, daemon=True).start()
        theirs.close()  # or waiting for a process that has died would never end
        connections[variant].recv()
    for index in range(rounds + 1):
        for variant in variants if index % 2 else reversed(variants):
            connections[variant].send("go")
            seconds[variant].append(connections[variant].recv())
            results[variant] = connections[variant].recv()
        print(f"round {index}:", ", ".join(f"{v} {times[-1]:.1f} s" for v, times in seconds.items()), flush=True)
    train_dataset = setup.splits["train"]
    turns_an_epoch = math.ceil(len(train_dataset) / BATCH_SIZE) / steps_a_turn(len(train_dataset))
    tokens_an_epoch = sum(len(ids) for ids in train_dataset["input_ids"])
    return [
        {
            "method": variant.method,
            "precision": PRECISIONS[variant.bf16],
            "round": index,
            "turn_seconds": round(seconds[variant][index], 4),
            "epoch_seconds": round(seconds[variant][index] * turns_an_epoch, 3),
            "tokens_per_second": round(tokens_an_epoch / turns_an_epoch / seconds[variant][index], 1),
            **results[variant],
        }
        for variant in variants
        for index in range(1, rounds + 1)
    ]


def train_in_turn(variant: Variant, setup: Setup, num_turns: int, torch_compile: bool, connection: Connection) -> None:
    """Trains a variant in turns and sends the results; this is all that the variant's process does."""
    collator = CountingCollator(setup.collator)
    turns = Turns(connection, num_turns, steps_a_turn(len(setup.splits["train"])))
    student = train(variant, setup, turns, collator, torch_compile)
    results = {"padding_share": collator.padding_share, "peak_mb": peak_memory_mb(), **score(student, setup)}
    connection.send({name: round(value, 4) for name, value in results.items()})


def train(
    variant: Variant, setup: Setup, turns: Turns, collator: Callable, torch_compile: bool = False
) -> torch.nn.Module:
    """Trains a student of the teacher's even layers the variant's way, and returns it."""
    teacher, train_dataset = setup.load_teacher(), setup.splits["train"]
    set_seed(SEED)
    student = student_of(teacher)
    if variant.method in ("notebook", "textbrewer"):
        batches = BatchesInTurn(random_batches(train_dataset, collator, SEED), turns)
        loop = train_like_the_notebook if variant.method == "notebook" else train_with_textbrewer
        sys.path.append(str(setup.folder / "textbrewer"))  # where pip has put it
        loop(student, teacher, batches, num_epochs=1)
        return student
    layers = select_layers("even", num_layers(teacher))
    if variant.method.endswith("cached"):
        train_dataset = with_stored_outputs(setup, teacher, cache_dir(setup, variant.bf16), variant.bf16)
    if variant.method == "hidden_cached":
        train_dataset = with_stored_hidden_states(setup, train_dataset, teacher, layers, variant.bf16)
        collator = HiddenStatesCollator(collator)
    settings = {
        "bf16": variant.bf16,
        "max_steps": turns.steps * turns.number,
        "seed": SEED,
        "torch_compile": torch_compile,
        **(PLAIN_FINE_TUNING if variant.method == "finetune" else LAYER_LOSSES.get(variant.method, {})),
    }
    our_trainer(
        setup,
        student,
        train_dataset,
        settings,
        teacher_model=None if variant.method in ("finetune", "cached", "hidden_cached") else teacher,
        teacher_layers=layers if variant.method in LAYER_LOSSES else None,
        data_collator=collator,
        callbacks=[StepsInTurn(turns)],
    ).train()
    return student


def train_with_textbrewer(student, teacher, batches: BatchesInTurn, num_epochs: int) -> None:
    """Trains with TextBrewer's `GeneralDistiller`."""
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

    def adapt(batch, outputs):
        return {"logits": outputs.logits, "losses": outputs.loss}

    distiller = GeneralDistiller(
        # No checkpoints, as in all other variants.
        TrainingConfig(device=str(device()), log_dir=None, output_dir=tempfile.gettempdir(), ckpt_frequency=0),
        # Its loss on the teacher is a cross-entropy, whose gradient is that of KL but for the factor T^2.
        DistillationConfig(temperature=TEMPERATURE, hard_label_weight=0.5, kd_loss_weight=0.5 * TEMPERATURE**2),
        teacher,
        student,
        adapt,
        adapt,
    )
    with distiller:
        distiller.train(torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE), batches, num_epochs=num_epochs)


# ---- the cache ----


def cache_dir(setup: Setup, bf16: bool) -> Path:
    return setup.folder / f"cache-{PRECISIONS[bf16]}"


def cost_of_cache(setup: Setup, bf16: bool, rounds: int) -> dict:
    """Measures building the cache against the teacher's forward pass over the same batches, in turns.

    The forward pass alone takes batches that lie padded in memory. Building the cache pads them, computes fingerprints
    of teacher and data, and writes the outputs to disk. The last cache stays for the variants that read it.

    Returns:
        Seconds of each round by kind (`bare`, `built`), and the size of the cache.
    """
    teacher, collator, train_dataset = setup.load_teacher(), setup.collator, setup.splits["train"]
    by_length = sorted(range(len(train_dataset)), key=lambda i: -len(train_dataset[i]["input_ids"]))
    inputs = train_dataset.remove_columns("labels")
    batches = [
        collator(inputs.select(by_length[start : start + EVAL_BATCH]).to_list()).to(device())
        for start in range(0, len(by_length), EVAL_BATCH)
    ]
    bare, built = [], []
    for index in range(rounds + 1):
        started = time.perf_counter()
        with torch.inference_mode(), torch.autocast(device().type, dtype=torch.bfloat16, enabled=bf16):
            for batch in batches:
                teacher(**batch)
        synchronize()
        between = time.perf_counter()
        folder = cache_dir(setup, bf16) if index == rounds else setup.folder / f"cache-{PRECISIONS[bf16]}-{index}"
        with_stored_outputs(setup, teacher, folder, bf16)
        built.append(time.perf_counter() - between)
        bare.append(between - started)
    return {
        "precision": PRECISIONS[bf16],
        "bare": bare[1:],
        "built": built[1:],
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        "num_examples": len(train_dataset),
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_setup_arguments(parser)
    names = {str(variant).replace(" ", "-"): variant for variant in (*VARIANTS, *LAYER_VARIANTS)}
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=names,
        default=[name for name in names if names[name] in VARIANTS and (bf16_in_hardware() or not names[name].bf16)],
        help="default: all variants without losses on layers; bfloat16 only where the hardware has it",
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="turns of each variant that are counted; one more warms up"
    )
    parser.add_argument(
        "--torch_compile",
        action="store_true",
        help="compile the student, except in the notebook's loop and TextBrewer",
    )
    parser.add_argument("--name", default="training_speed", help="name of the result files")
    args = parser.parse_args()
    args.variants = [names[name] for name in args.variants]
    return args


if __name__ == "__main__":
    main()
