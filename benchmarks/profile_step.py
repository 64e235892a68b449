"""Where the time of a training step goes, and the least time that the processor or GPU could take for it.

    python -m benchmarks.profile_step                                       # the sample data set
    python -m benchmarks.profile_step --train_file train.csv --test_file test.csv --examples 2048
    python -m benchmarks.profile_step --teacher random-bert-base            # where there is a GPU

Plain fine-tuning and distillation from stored teacher outputs, with dropout and with `--student_dropout 0`, take
turns, one epoch each, over the same batches. On a GPU the clock waits for the device after every part, which makes the
step a little slower than it is in training.

The same command measures the limit of a step. For the forward and backward pass this is the time of the operations in
matrix products, at the rate of one large matrix product: of those that a step computes, and of those that it would
compute if the head read all tokens. For AdamW it is the time of the bytes that it moves, at the rate of a large
addition in place. Writes `docs/results/NAME.csv` and `NAME.md`.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import mean, median
from time import perf_counter

import torch
from transformers import PretrainedConfig, PreTrainedModel, TrainerCallback, set_seed

from benchmarks.measuring import describe_machine, device, synchronize
from benchmarks.results import write_results
from benchmarks.training_setup import (
    PLAIN_FINE_TUNING,
    PRECISIONS,
    CountingCollator,
    Setup,
    add_setup_arguments,
    prepare,
    student_of,
    training_arguments,
    with_stored_outputs,
)
from distill_trainer import DistillationTrainer
from layer_distillation.arguments import bf16_in_hardware
from training.command_line import keep_freed_memory
from training.tables import markdown_table

PARTS = ("data", "forward and loss", "backward", "gradient clipping", "AdamW", "rest")
# Settings by method, and what the tables call it.
METHODS = {"finetune": PLAIN_FINE_TUNING, "cached": {}, "no_dropout": {"student_dropout": 0.0}}
TITLES = {"finetune": "Plain fine-tuning", "cached": "Stored outputs", "no_dropout": "Stored outputs, no dropout"}


def main():
    args = parse_arguments()
    keep_freed_memory()
    precisions = [bf16 for bf16 in PRECISIONS if bf16_in_hardware() or not bf16]
    variants = [(method, bf16) for bf16 in precisions for method in METHODS]
    with tempfile.TemporaryDirectory() as folder:
        setup = prepare(args, folder)
        student = student_of(setup.load_teacher())
        epochs = {variant: [] for variant in variants}
        for index in range(args.rounds + 1):
            for variant in variants if index % 2 else reversed(variants):
                epochs[variant].append(profile_epoch(setup, *variant))
    rows = [
        {
            "method": method,
            "precision": PRECISIONS[bf16],
            "ms_a_step": round(median(epoch["ms_a_step"] for epoch in counted), 3),
            **{part: round(median(epoch[part] for epoch in counted), 3) for part in PARTS},
            **{name: round(counted[0][name], 3) for name in ("gflop_a_step", "gflop_of_all_tokens")},
        }
        for (method, bf16), (_, *counted) in epochs.items()
    ]
    bandwidth = memory_rate()
    rates = {PRECISIONS[bf16]: matrix_rate(torch.bfloat16 if bf16 else torch.float32) for bf16 in precisions}
    for row in rows:
        row["matrix_gflop_per_second"] = round(rates[row["precision"]], 1)
        row["memory_gb_per_second"] = round(bandwidth, 2)
        for limit, gflop in (("limit_matrix_ms", "gflop_a_step"), ("limit_all_tokens_ms", "gflop_of_all_tokens")):
            row[limit] = round(1000 * row[gflop] / row["matrix_gflop_per_second"], 3)
        row["limit_adamw_ms"] = round(1000 * adamw_bytes(student) / 1e9 / bandwidth, 3)
    write_results(args.name, rows, f"{describe_machine()}\n\n{parts_table(rows)}\n\n{limit_table(rows)}")


# ---- the parts of a step ----


class ProfiledTrainer(DistillationTrainer):
    """Adds up the seconds of each part of its steps, in `seconds`; the time outside of all parts is the rest."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seconds = Counter()
        self.add_callback(StepClock(self))
        backward = self.accelerator.backward

        def timed_backward(*args, **kwargs):
            with self.clock("backward"):
                backward(*args, **kwargs)

        self.accelerator.backward = timed_backward

    @contextmanager
    def clock(self, part: str) -> Iterator[None]:
        """Adds the time of a `with` block to a part."""
        synchronize()
        started = perf_counter()
        yield
        synchronize()
        self.seconds[part] += perf_counter() - started

    def create_optimizer(self, *args, **kwargs):
        optimizer = super().create_optimizer(*args, **kwargs)
        step = optimizer.step

        def timed_step(*args, **kwargs):
            with self.clock("AdamW"):
                return step(*args, **kwargs)

        # Not by a callback before it, for which gradients would be clipped at once.
        optimizer.step = timed_step
        return optimizer

    def get_batch_samples(self, *args, **kwargs):
        with self.clock("data"):
            return super().get_batch_samples(*args, **kwargs)

    def compute_loss(self, *args, **kwargs):
        with self.clock("forward and loss"):
            return super().compute_loss(*args, **kwargs)


class StepClock(TrainerCallback):
    """Times what no method of `Trainer` holds: clipping, as it is within a training, and the whole epoch."""

    def __init__(self, trainer: ProfiledTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        clip = self.trainer.accelerator.clip_grad_norm_

        def timed_clip(*args, **kwargs):
            with self.trainer.clock("gradient clipping"):
                return clip(*args, **kwargs)

        self.trainer.accelerator.clip_grad_norm_ = timed_clip

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.epoch = self.trainer.clock("all")
        self.epoch.__enter__()

    def on_epoch_end(self, args, state, control, **kwargs):
        self.epoch.__exit__(None, None, None)


def profile_epoch(setup: Setup, method: str, bf16: bool) -> dict[str, float]:
    """Trains a student for one epoch.

    Args:
        method: one of `METHODS`.

    Returns:
        Means over the steps: milliseconds of each part and of the whole step (`ms_a_step`), and the student's
        operations in 10^9 (`gflop_a_step`), also if all tokens were read (`gflop_of_all_tokens`).
    """
    teacher = setup.load_teacher()
    set_seed(0)
    student, train_dataset = student_of(teacher), setup.splits["train"]
    if method != "finetune":
        train_dataset = with_stored_outputs(setup, teacher, setup.folder / f"cache-{PRECISIONS[bf16]}", bf16)
    collator = CountingCollator(setup.collator)
    trainer = ProfiledTrainer(
        model=student,
        args=training_arguments(setup.folder, bf16=bf16, num_train_epochs=1, seed=0, **METHODS[method]),
        train_dataset=train_dataset,
        data_collator=collator,
    )
    trainer.train()
    seconds = trainer.seconds
    seconds["rest"] = seconds["all"] - sum(seconds[part] for part in PARTS)
    num_steps = trainer.state.global_step
    gflop = {
        name: mean(step_flop(student.config, *shape, all_tokens=all_tokens) for shape in collator.shapes) / 1e9
        for name, all_tokens in (("gflop_a_step", False), ("gflop_of_all_tokens", True))
    }
    return {
        **{part: 1000 * seconds[part] / num_steps for part in PARTS},
        "ms_a_step": 1000 * seconds["all"] / num_steps,
        **gflop,
    }


# ---- the limit ----


def step_flop(config: PretrainedConfig, num_examples: int, length: int, *, all_tokens: bool = True) -> int:
    """Returns the operations in the matrix products of a BERT encoder's forward and backward pass.

    Multiplications and additions count as one operation each. A product of (m, k) and (k, n) takes 2mkn operations,
    and its backward pass two products of the same size. Everything else (embeddings, norms, GELU, softmax, dropout) is
    left out: it is limited by memory, not by arithmetic.

    Args:
        all_tokens: whether the last layer computes everything for every token, as in transformers, or only its
            attention, as in our steps (`layer_distillation/unread_tokens.py`).
    """
    width, inner = config.hidden_size, config.intermediate_size
    tokens = num_examples * length
    until_attention = 3 * width * width + 2 * length * width  # query, key, value; scores and weighted sum
    after_attention = width * width + 2 * width * inner  # output, and the two products of the feed-forward part
    in_last = tokens if all_tokens else num_examples
    num_layers = config.num_hidden_layers
    encoder = num_layers * tokens * until_attention + ((num_layers - 1) * tokens + in_last) * after_attention
    head = num_examples * (width * width + width * config.num_labels)  # pooler and classifier, for the first token
    return 3 * 2 * (encoder + head)


def adamw_bytes(model: PreTrainedModel) -> int:
    """Returns the bytes that a step of AdamW reads (weight, gradient, moments) and writes (weight, moments)."""
    return 7 * 4 * model.num_parameters()


def matrix_rate(dtype: torch.dtype) -> float:
    """Returns the rate of a large matrix product in 10^9 operations a second, the best of several."""
    size = 8192 if torch.cuda.is_available() else 2048
    a, b = (torch.randn(size, size, device=device()).to(dtype) for _ in range(2))
    return 2 * size**3 / 1e9 / best_time(lambda: a @ b)


def memory_rate() -> float:
    """Returns the rate of a large addition in place in 10^9 bytes a second, read and written, the best of several.

    AdamW works in place too. A copy would understate the rate: caches also read the memory that it overwrites, and
    these bytes are not counted.
    """
    source = torch.zeros(2**26, device=device())
    target = torch.ones_like(source)
    return 3 * source.nbytes / 1e9 / best_time(lambda: target.add_(source))


def best_time(function, repetitions: int = 10) -> float:
    """Returns the shortest time of a call, in seconds."""
    seconds = []
    for _ in range(repetitions):
        synchronize()
        started = perf_counter()
        function()
        synchronize()
        seconds.append(perf_counter() - started)
    return min(seconds)


# ---- tables ----


def parts_table(rows: list[dict]) -> str:
    """Returns the table of milliseconds by part."""
    lines = []
    for part in (*PARTS, "ms_a_step"):
        cells = {
            f"{TITLES[row['method']]}, {row['precision']}": f"{row[part]:.1f} ({row[part] / row['ms_a_step']:.0%})"
            for row in rows
        }
        lines.append({"ms a step": "all" if part == "ms_a_step" else part, **cells})
    return markdown_table(lines)


def limit_table(rows: list[dict]) -> str:
    """Returns the table that compares the measured times with the limit: of our steps, and of steps of all tokens."""
    lines = []
    for row in (row for row in rows if row["method"] != "finetune"):
        share, share_of_all = (
            f"{(row[limit] + row['limit_adamw_ms']) / row['ms_a_step']:.0%}"
            for limit in ("limit_matrix_ms", "limit_all_tokens_ms")
        )
        lines.append(
            {
                "Step": f"{TITLES[row['method']]}, {row['precision']}",
                "GFLOP a step": f"{row['gflop_a_step']:.1f}",
                "Matrix product (GFLOP/s)": f"{row['matrix_gflop_per_second']:,.0f}",
                "Limit of forward and backward (ms)": f"{row['limit_matrix_ms']:.1f}",
                "Measured (ms)": f"{row['forward and loss'] + row['backward']:.1f}",
                "Memory (GB/s)": f"{row['memory_gb_per_second']:.1f}",
                "Limit of AdamW (ms)": f"{row['limit_adamw_ms']:.1f}",
                "AdamW (ms)": f"{row['AdamW']:.1f}",
                "Limit of both / step": share,
                "The same for all tokens": f"{share_of_all} of {row['gflop_of_all_tokens']:.1f} GFLOP",
            }
        )
    return markdown_table(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_setup_arguments(parser)
    parser.add_argument(
        "--rounds", type=int, default=3, help="epochs of each kind that are counted; one more warms up"
    )
    parser.add_argument("--name", default="step_profile", help="name of the result files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
