"""What a smaller vocabulary saves of a training step on a processor.

    python -m benchmarks.vocabulary_step

A whole step of a BERT classifier with 3 layers of MiniLM's size and random weights: forward and backward pass of 32
texts, clipping, and AdamW. The numbers of pieces are that of BERT's vocabulary, that of the pieces that the tweets of
docs/RESULTS.md use, and two smaller ones. They take turns of a few steps. Writes `docs/results/vocabulary_step.csv`
and `vocabulary_step.md`.
"""

import argparse
import itertools
import time

import torch
from transformers import BertForSequenceClassification

from benchmarks.attention import batch_for, model_of
from benchmarks.measuring import describe_machine, median_and_range, ratios_within_rounds
from benchmarks.results import write_results
from layer_distillation.arguments import bf16_in_hardware
from layer_distillation.clipping import norm_and_scale
from layer_distillation.dropout import dropout_drawn_quickly
from layer_distillation.unread_tokens import unread_tokens_left_out
from training.command_line import keep_freed_memory
from training.tables import markdown_table

SIZES = (30522, 14087, 8000, 4000)


def main():
    args = parse_arguments()
    keep_freed_memory()
    rows, table = [], []
    for bf16 in (False, True)[: 1 + bf16_in_hardware()]:
        students = {size: Student(size, bf16, args.length) for size in SIZES}
        turns = {size: [] for size in SIZES}
        for index in range(1 + args.rounds):  # the first is a warm-up
            for size in SIZES if index % 2 else reversed(SIZES):
                turns[size].append(round(students[size].milliseconds_a_step(args.steps), 1))
        counted = {size: measured[1:] for size, measured in turns.items()}
        precision = "bfloat16" if bf16 else "float32"
        for size, index in itertools.product(SIZES, range(args.rounds)):
            rows.append({"precision": precision, "pieces": size, "round": index + 1, "ms": counted[size][index]})
        table += [
            {
                "Precision": precision,
                "Pieces": f"{size:,}",
                "Parameters": f"{students[size].model.num_parameters():,}",
                "Step (ms)": median_and_range(counted[size], 0),
                "Times as fast": ratios_within_rounds(counted[SIZES[0]], counted[size]),
            }
            for size in SIZES
        ]
    write_results("vocabulary_step", rows, f"{describe_machine()}\n\n{markdown_table(table)}")


class Student:
    """A student in training.

    Args:
        size: number of pieces of the vocabulary.
        length: tokens of a text.
    """

    def __init__(self, size: int, bf16: bool, length: int):
        self.bf16 = bf16
        self.model: BertForSequenceClassification = model_of("eager" if bf16 else "sdpa", dropout=0.1, pieces=size)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)
        self.batch = batch_for(self.model, length)

    def milliseconds_a_step(self, steps: int) -> float:
        started = time.perf_counter()
        with dropout_drawn_quickly(), unread_tokens_left_out(self.model):
            for _ in range(steps):
                with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                    loss = self.model(**self.batch).loss
                loss.backward()
                _, self.optimizer.grad_scale = norm_and_scale(self.model.parameters(), 1.0)
                self.optimizer.step()
                self.model.zero_grad()
        return 1000 * (time.perf_counter() - started) / steps


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=32, help="tokens of a text; default: 32")
    parser.add_argument("--rounds", type=int, default=9, help="default: 9")
    parser.add_argument("--steps", type=int, default=4, help="of a turn; default: 4")
    return parser.parse_args()


if __name__ == "__main__":
    main()
