"""Scores the models of a comparison on SST-2 on 10,000 sentences that none of them was trained on.

    python -m experiments.kept_sentences outputs/full-depth-sst2 docs/results/full_depth_sst2_kept
    python -m experiments.intervals docs/results/full_depth_sst2_kept --against distill-odd

The sentences are those of the training split that `better_students` keeps for choosing. There are eleven times as many
as in the validation split, so that they add less than a third as much to the width of an interval. Models compute in
bfloat16 where the hardware does; methods that keep no checkpoint are left out. The second argument is a folder for the
packed predictions; those that it has are not computed again.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from comparison.predictions import Predictions
from experiments.student_recipes import kept_sentences
from layer_distillation.arguments import bf16_in_hardware
from layer_distillation.model_outputs import compute_logits
from layer_distillation.problem_types import SINGLE_LABEL


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path, help="output folder of run_comparison.py")
    parser.add_argument("predictions", type=Path, help="folder for the predictions")
    args = parser.parse_args()
    sentences = kept_sentences()
    runs = sorted(file.parent for file in args.comparison.glob("runs/*/config.json"))
    for folder in [args.comparison / "teacher", *runs]:
        file = args.predictions / f"{folder.name}.npz"
        if not file.is_file():
            predictions = predict(folder, sentences)
            predictions.write(file)
            print(folder.name, np.mean(predictions.answers == predictions.labels), flush=True)


def predict(folder: Path, sentences: Dataset) -> Predictions:
    """Returns what the classifier in a folder says about sentences with the columns `sentence` and `label`."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenized = sentences.map(
        lambda rows: tokenizer(rows["sentence"], truncation=True, max_length=128),
        batched=True,
        remove_columns=sentences.column_names,
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16_in_hardware()):
        logits = compute_logits(model, tokenized, DataCollatorWithPadding(tokenizer))
    return Predictions.from_logits(logits, np.array(sentences["label"]), SINGLE_LABEL)


if __name__ == "__main__":
    main()
