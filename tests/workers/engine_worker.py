"""Trains tiny models under whatever engine the launcher has set up, and writes down what happened.

    accelerate launch --config_file examples/fsdp2.yaml tests/workers/engine_worker.py FOLDER
    torchrun --nproc_per_node 2 tests/workers/engine_worker.py FOLDER --deepspeed examples/ds_zero3.json

The global batch is 16 examples, in any split over processes and accumulation steps. Rank 0 writes
`FOLDER/METHOD.json`, and the trained weights as the trainer saves them to `FOLDER/METHOD/`.
"""

import argparse
import json
import os
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from peft import LoraConfig, get_peft_model
from train_worker import LOSS_WEIGHTS, arguments, bert, pad, random_examples, step_logs

from distill_trainer import DistillationTrainer
from layer_mapping import build_student

GLOBAL_BATCH = 16
METHODS = ("distillation", "lora", "fine-tuning")


def train(method, folder, **kwargs):
    """Ten optimizer steps over 17 examples: every second step has a single one."""
    teacher = bert(3)
    student = build_student(teacher, [1, 3])
    if method == "lora":
        student = get_peft_model(student, LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"]))
    loss_weights = {"ce_weight": 1, "kl_weight": 0} if method == "fine-tuning" else LOSS_WEIGHTS
    args = arguments(folder / method, **loss_weights, num_train_epochs=5, max_grad_norm=0.5, **kwargs)
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        # Accelerate knows FSDP on accelerators only, and would quietly train with DDP on processors.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    trainer = DistillationTrainer(
        model=student,
        teacher_model=None if method == "fine-tuning" else teacher,
        args=args,
        train_dataset=random_examples(17),
        eval_dataset=random_examples(13, seed=1),
        data_collator=pad,
    )
    metrics = trainer.train().metrics
    predictions = trainer.predict(trainer.eval_dataset)
    trainer.save_model()
    if trainer.is_world_process_zero():
        results = {
            "steps": step_logs(trainer),
            "train": {name: value for name, value in metrics.items() if "loss" in name},
            "eval_loss": predictions.metrics["test_loss"],
            "predictions": predictions.predictions.tolist(),
        }
        (folder / f"{method}.json").write_text(json.dumps(results))
    trainer.accelerator.free_memory()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--deepspeed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    batch_size = GLOBAL_BATCH // args.accumulation // int(os.environ.get("WORLD_SIZE", 1))
    engine = {"deepspeed": args.deepspeed} if args.deepspeed else {}
    for method in args.methods:
        train(
            method,
            args.folder,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=args.accumulation,
            **engine,
        )


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
