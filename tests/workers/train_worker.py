"""Trains and evaluates tiny models with several splits of the same global batch, and writes down what happened.

    torchrun --nproc_per_node 2 tests/workers/train_worker.py FOLDER

Every process writes `FOLDER/rank_R.pt`. The tests import the functions to do the same in one process.
"""

import gc
import os
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import AutoModelForTokenClassification

from distill_trainer import DistillationTrainer
from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.label_loss import IGNORED_LABEL
from layer_distillation.model_outputs import compute_logits
from layer_distillation.stored_columns import TEACHER_LOGITS
from layer_distillation.teacher_outputs import add_teacher_logits
from tests.tiny_models import TINY_CLASSIFIERS, VOCAB_SIZE

NUM_LABELS = 3
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LOSS_WEIGHTS = {"ce_weight": 0.3, "kl_weight": 0.6, "cosine_weight": 0.2}

# Per-device batch and accumulation steps whose product with the number of processes is 16.
SPLITS = {1: [(16, 1), (4, 4)], 2: [(8, 1), (4, 2)]}
# The last step holds one example, or one full micro-batch and a part of the next.
SCENARIOS = {
    "17 in order": {"num_examples": 17, "train_sampling_strategy": "sequential"},
    "27 by length": {"num_examples": 27},
    # Of its four steps the last comes after the last log.
    "27 with logits": {
        "num_examples": 27,
        "with_logits": True,
        "train_sampling_strategy": "random",
        "logging_steps": 3,
    },
    # Predictions and labels of tokens, some of which have none.
    "27 of tokens": {"num_examples": 27, "of_tokens": True, "hidden_weight": 0.4},
}


def bert(num_layers, num_labels=NUM_LABELS, dropout=False, **config):
    return TINY_CLASSIFIERS["bert"](num_layers, num_labels, **({} if dropout else NO_DROPOUT), **config)


def random_examples(num_examples, seed=0, num_labels=NUM_LABELS):
    """Examples of 3 to 12 random tokens; the label depends on the first token, so there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for _ in range(num_examples):
        length = int(torch.randint(3, 13, (), generator=generator))
        input_ids = torch.randint(5, VOCAB_SIZE, (length,), generator=generator).tolist()
        examples.append(
            {
                "input_ids": input_ids,
                "attention_mask": [1] * length,
                "token_type_ids": torch.randint(2, (length,), generator=generator).tolist(),
                "labels": input_ids[0] % num_labels,
            }
        )
    return Dataset.from_list(examples)


def pad(examples):
    """Zeros up to the longest example of the batch, as tensors."""
    length = max(len(example["input_ids"]) for example in examples)
    batch = {}
    for name in examples[0]:
        values = [example[name] for example in examples]
        if name in ("input_ids", "attention_mask", "token_type_ids"):
            values = [value + [0] * (length - len(value)) for value in values]
        elif name == "labels" and isinstance(values[0], list) and isinstance(values[0][0], int):
            values = [value + [IGNORED_LABEL] * (length - len(value)) for value in values]
        batch[name] = torch.tensor(values)
    return batch


def arguments(output_dir, **kwargs):
    defaults = {
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 4,
        # Adam turns the rounding noise of gradients that are 0 (those of the key biases) into full steps otherwise.
        "adam_epsilon": 1e-5,
        "dataloader_pin_memory": False,
    }
    return DistillationTrainingArguments(output_dir=str(output_dir), **{**defaults, **kwargs})


def weights(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def step_logs(trainer):
    # Trainer counts the parts of an epoch in micro-batches, so `epoch` depends on the split.
    logs = [log for log in trainer.state.log_history if "loss" in log]
    return [{name: value for name, value in log.items() if name != "epoch"} for log in logs]


def token_classifier(num_layers):
    """`bert` with a head for every token."""
    model = bert(num_layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        classifier = AutoModelForTokenClassification.from_config(model.config)
    classifier.base_model.load_state_dict(model.base_model.state_dict(), strict=False)  # which has a pooler
    classifier.classifier.weight.data *= 10
    return classifier.eval()


def token_examples(num_examples, seed=0):
    """As `random_examples`, with a label for every token but the first, which depends on the token."""

    def label(row):
        return {"labels": [IGNORED_LABEL, *(token % NUM_LABELS for token in row["input_ids"][1:])]}

    return random_examples(num_examples, seed).remove_columns("labels").map(label)


def train(output_dir, num_examples, with_logits=False, of_tokens=False, **kwargs):
    """Trains a student of 1 layer from a teacher of 3; returns the logs, the predictions and the weights."""
    model, examples = (token_classifier, token_examples) if of_tokens else (bert, random_examples)
    teacher, train_dataset = model(3), examples(num_examples)
    if with_logits:
        logits = compute_logits(teacher, train_dataset, pad)
        train_dataset, teacher = train_dataset.add_column(TEACHER_LOGITS, logits.tolist()), None
    trainer = DistillationTrainer(
        model=model(1),
        teacher_model=teacher,
        teacher_layers=[3],
        args=arguments(output_dir, **LOSS_WEIGHTS, **kwargs),
        train_dataset=train_dataset,
        eval_dataset=examples(13, seed=1),
        data_collator=pad,
    )
    # Also so that the training below follows an evaluation, after which Trainer would not wrap the model in DDP.
    metrics = {"eval_loss before": trainer.evaluate()["eval_loss"]}
    metrics.update(trainer.train().metrics)
    predictions = trainer.predict(trainer.eval_dataset)
    metrics["eval_loss"] = predictions.metrics["test_loss"]
    return {
        "steps": step_logs(trainer),
        "metrics": {name: value for name, value in metrics.items() if "loss" in name},
        "predictions": predictions.predictions,
        "weights": weights(trainer.model),
    }


def results_by_configuration(output_dir, num_processes):
    """`train` in all scenarios and splits that suit the number of processes."""
    results = {}
    for scenario, kwargs in SCENARIOS.items():
        for batch_size, accumulation in SPLITS[num_processes]:
            results[scenario, batch_size, accumulation] = train(
                output_dir,
                per_device_train_batch_size=batch_size,
                gradient_accumulation_steps=accumulation,
                **kwargs,
            )
    dropped = train(output_dir, 27, per_device_train_batch_size=16 // num_processes, dataloader_drop_last=True)
    results["27 without the last batch", 16 // num_processes, 1] = dropped
    return results


def main(folder):
    torch.set_num_threads(1)
    gc.freeze()  # every training collects garbage, and the imports take long to visit
    state = PartialState(cpu=True)
    results = results_by_configuration(folder, state.num_processes)

    examples = random_examples(21)
    with_logits = add_teacher_logits(examples, bert(3), folder / "cache", pad, batch_size=4)
    results["cached logits"] = with_logits[TEACHER_LOGITS]
    # As on nodes with disks of their own, of which one has kept its cache.
    half_cached = add_teacher_logits(examples, bert(3), folder / ("new", "cache")[state.process_index], pad)
    results["half-cached logits"] = half_cached[TEACHER_LOGITS]
    torch.save(results, folder / f"rank_{state.process_index}.pt")
    state.wait_for_everyone()
    state.destroy_process_group()


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main(Path(sys.argv[1]))
