"""Distils a model of BERT-base's size, from random weights, for three steps, and writes down the peak memory.

    torchrun --nproc_per_node 2 tests/workers/memory_worker.py FILE --deepspeed examples/ds_zero3.json

Rank 0 writes to FILE the peak resident memory of each process in MB, and what the libraries alone take.
"""

import argparse
import json
import resource
from pathlib import Path

import torch
from accelerate.utils import gather_object
from transformers import BertConfig, BertForSequenceClassification

from distill_trainer import DistillationTrainer
from layer_distillation.whole_weights import whole_weights
from layer_mapping import build_student, select_layers
from tests.workers.train_worker import arguments, pad, random_examples


def peak_megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--deepspeed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    args = arguments(
        options.file.parent / "student", deepspeed=options.deepspeed, per_device_train_batch_size=1, max_steps=3
    )
    before = peak_megabytes()
    torch.manual_seed(0)
    with whole_weights():
        teacher = BertForSequenceClassification(BertConfig(num_labels=3))
    student = build_student(teacher, select_layers("even", 12))
    trainer = DistillationTrainer(
        model=student, teacher_model=teacher, args=args, train_dataset=random_examples(8), data_collator=pad
    )
    del teacher, student
    trainer.train()
    peaks = gather_object([peak_megabytes()])
    if trainer.is_world_process_zero():
        options.file.write_text(json.dumps({"peak_mb": peaks, "libraries_mb": before}))
    # Or a thread of gloo's that is still running at exit now and then ends the process with an error.
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
