"""Which attention and which dropout train fastest on a processor, by precision, dropout rate and length.

    python -m benchmarks.attention

Forward and backward pass of a BERT classifier with 3 layers of MiniLM's size and random weights, in batches of 32. The
variants take turns of a few steps: both attention implementations with PyTorch's dropout, and the eager one with that
of `layer_distillation/dropout.py`. `layer_distillation/attention.py` chooses by these figures. Writes
`docs/results/attention.csv` and `attention.md`.
"""

import argparse
import itertools
import time
from contextlib import nullcontext

import torch
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.measuring import describe_machine, median_and_range, ratios_within_rounds
from benchmarks.results import write_results
from layer_distillation.arguments import bf16_in_hardware
from layer_distillation.dropout import dropout_drawn_quickly
from training.command_line import keep_freed_memory
from training.tables import markdown_table

VARIANTS = ("sdpa", "eager", "eager, quick dropout")
BATCH_SIZE = 32


def main():
    args = parse_arguments()
    keep_freed_memory()
    rows, table = [], []
    settings = itertools.product((False, True)[: 1 + bf16_in_hardware()], (0.1, 0.0), args.lengths)
    for bf16, dropout, length in settings:
        models = {name: model_of(name.partition(",")[0], dropout) for name in VARIANTS}
        turns = {name: [] for name in models}
        for index in range(1 + args.rounds):
            for name in models if index % 2 else reversed(models):
                with dropout_drawn_quickly() if "quick" in name else nullcontext():
                    turns[name].append(milliseconds_a_step(models[name], length, bf16, args.steps))
        counted = {name: [round(ms, 1) for ms in of_variant[1:]] for name, of_variant in turns.items()}
        row = {"precision": "bfloat16" if bf16 else "float32", "dropout": dropout, "length": length}
        rows += [
            row | {"round": index + 1} | {f"{name} (ms)": of_variant[index] for name, of_variant in counted.items()}
            for index in range(args.rounds)
        ]
        titles = {"precision": "Precision", "dropout": "Dropout", "length": "Tokens of a text"}
        table.append(
            {titles[name]: str(value) for name, value in row.items()}
            | {f"{name} (ms)": median_and_range(of_variant, 0) for name, of_variant in counted.items()}
            | {"Times as fast as sdpa": ratios_within_rounds(counted["sdpa"], counted["eager, quick dropout"])}
        )
    write_results("attention", rows, f"{describe_machine()}\n\n{markdown_table(table)}")


def model_of(implementation: str, dropout: float, pieces: int = 30522) -> BertForSequenceClassification:
    """Returns a classifier to train, the same for every implementation, with so many pieces in its vocabulary."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=pieces,
        hidden_size=384,
        num_hidden_layers=3,
        num_attention_heads=12,
        intermediate_size=1536,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        attn_implementation=implementation,
    )
    return BertForSequenceClassification(config).train()


def batch_for(model: BertForSequenceClassification, length: int) -> dict[str, torch.Tensor]:
    """Returns random texts for a model; a quarter of them have half the length."""
    ids = torch.randint(model.config.vocab_size, (BATCH_SIZE, length))
    mask = torch.ones_like(ids)
    mask[::4, length // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.zeros(BATCH_SIZE, dtype=torch.long)}


def milliseconds_a_step(model: BertForSequenceClassification, length: int, bf16: bool, steps: int) -> float:
    """Returns the time of a forward and a backward pass."""
    batch = batch_for(model, length)
    started = time.perf_counter()
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(**batch).loss
        loss.backward()
        model.zero_grad()
    return 1000 * (time.perf_counter() - started) / steps


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", nargs="+", type=int, default=[32, 128], help="default: 32 128")
    parser.add_argument("--rounds", type=int, default=5, help="turns that count (default: 5)")
    parser.add_argument("--steps", type=int, default=2, help="of a turn (default: 2)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
