"""Trains tiny models under whatever engine the launcher has set up, and writes down what happened.

    torchrun --nproc_per_node 2 tests/workers/engine_worker.py TEACHERS FOLDER --deepspeed examples/ds_zero3.json
    accelerate launch --config_file examples/fsdp2.yaml tests/workers/engine_worker.py TEACHERS FOLDER

TEACHERS holds the checkpoints `bert` and `llama`. The global batch is 16 examples, in any split over
processes and accumulation steps. Rank 0 writes `FOLDER/METHOD.json`, and the trainer the weights to `FOLDER/METHOD/`.
"""

import argparse
import json
import os
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor
from transformers import AutoModelForSequenceClassification

from distill_trainer import DistillationTrainer
from layer_distillation.whole_weights import gathered, whole_weights
from layer_mapping import build_random_student, build_student
from tests.workers.train_worker import LOSS_WEIGHTS, arguments, bert, pad, random_examples, step_logs

GLOBAL_BATCH = 16
METHODS = ("distillation", "layers", "lora", "fine-tuned decoder")
# Of a student that is narrower than its teacher.
LAYER_WEIGHTS = {
    **{"ce_weight": 0.5, "kl_weight": 0.3, "hidden_weight": 0.4, "attention_weight": 0.5, "relation_weight": 0.3},
    "linear_to": {"kl_weight": 0.9, "temperature": 1.0},
}


def train(method, teachers, folder, **kwargs):
    """Ten optimizer steps over 17 examples: every second step has a single one."""
    loss_weights = {"fine-tuned decoder": {"ce_weight": 1, "kl_weight": 0}, "layers": LAYER_WEIGHTS}.get(
        method, LOSS_WEIGHTS
    )
    args = arguments(folder / method, **loss_weights, num_train_epochs=5, max_grad_norm=0.5, **kwargs)
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        # Accelerate knows FSDP on accelerators only, and would quietly train with DDP on processors.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    # After the arguments, as in any script: under ZeRO-3 each process gets its share of the weights.
    folder_of_teacher = teachers / ("llama" if method == "fine-tuned decoder" else "bert")
    teacher = AutoModelForSequenceClassification.from_pretrained(folder_of_teacher, dtype="float32")
    if method == "layers":
        with whole_weights():
            student = bert(2, hidden_size=16)
    else:
        student = build_student(teacher, [1, 3])
    if method == "lora":
        student = get_peft_model(student, LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"]))
    trainer = DistillationTrainer(
        model=student,
        teacher_model=None if method == "fine-tuned decoder" else teacher,
        teacher_layers=[1, 3],
        args=args,
        train_dataset=random_examples(17),
        eval_dataset=random_examples(13, seed=1),
        data_collator=pad,
    )
    metrics = trainer.train().metrics
    forwards = []
    teacher.register_forward_hook(lambda *_: forwards.append(1))
    predictions = trainer.predict(trainer.eval_dataset)
    teacher_weights, expected = whole_weights_of(teacher), load_file(folder_of_teacher / "model.safetensors")
    trainer.save_model()
    results = {
        "engine": trainer.accelerator.distributed_type,
        "steps": step_logs(trainer),
        "train": {name: value for name, value in metrics.items() if "loss" in name},
        "eval_loss": predictions.metrics["test_loss"],
        "predictions": predictions.predictions.tolist(),
        "is_sharded": is_sharded(trainer.model),
        "teacher": {
            "is_sharded": is_sharded(teacher),
            "is_training": teacher.training,
            "is_unchanged": same_weights(teacher_weights, expected),
            "forwards_in_evaluation": len(forwards),
        },
    }
    if trainer.is_world_process_zero():
        (folder / f"{method}.json").write_text(json.dumps(results))
    trainer.accelerator.free_memory()


def save_students(teachers, folder, **kwargs):
    """Writes the weights of a student of each teacher, as each process has built it, to `STUDENT_RANK.pt`."""
    args = arguments(folder, **kwargs)
    for name in ("bert", "llama"):
        teacher = AutoModelForSequenceClassification.from_pretrained(teachers / name, dtype="float32")
        torch.save(build_student(teacher, [3, 1]).state_dict(), folder / f"{name}_{args.process_index}.pt")
    torch.manual_seed(0)
    torch.save(build_random_student(teacher, 2).state_dict(), folder / f"random_{args.process_index}.pt")


def is_sharded(model):
    return any(hasattr(parameter, "ds_id") or isinstance(parameter, DTensor) for parameter in model.parameters())


def whole_weights_of(model):
    """Weights by name, gathered from all processes where an engine has shared them out."""
    with gathered(model):
        parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
        return {name: (p.full_tensor() if isinstance(p, DTensor) else p).clone() for name, p in parameters.items()}


def same_weights(weights, expected):
    return weights.keys() == expected.keys() and all(torch.equal(weights[name], expected[name]) for name in weights)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("teachers", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--deepspeed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.deepspeed:
        import deepspeed

        deepspeed.init_distributed("gloo")  # which `TrainingArguments` leaves out on processors
    save_students(args.teachers, args.folder, deepspeed=args.deepspeed)
    for method in METHODS:
        train(
            method,
            args.teachers,
            args.folder,
            per_device_train_batch_size=GLOBAL_BATCH // args.accumulation // int(os.environ.get("WORLD_SIZE", 1)),
            gradient_accumulation_steps=args.accumulation,
            deepspeed=args.deepspeed,
        )


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
