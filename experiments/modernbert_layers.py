"""How students of ModernBERT start and end with each strategy, where the first layer loses its norm: SST-2.

    python -m experiments.modernbert_layers

Layer 1 of ModernBERT has no norm before its attention. A student that starts with another layer has that layer's norm
folded into its projections (`layer_distillation/first_norm.py`). Here it is compared with the same student that keeps
the norm, which starts as the exact layers but cannot be saved, and with students that start with layer 1, among them
the first layers and one late layer of global attention.

The teacher is small and trained from scratch: 8 layers, 128 wide, windows of 8 tokens in two layers of three. Its
students of 4 layers are distilled from it on the same sentences. Results go to `docs/results/modernbert_layers.csv`
and `.md`, packed predictions of the validation split to `docs/results/modernbert_layers`.
"""

import copy

import numpy as np
import torch
from datasets import Dataset, load_dataset
from transformers import (
    AutoTokenizer,
    DataCollatorWithPadding,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedModel,
    set_seed,
)

from benchmarks.results import RESULTS, ROOT, write_results
from comparison.bootstrap import difference, pooled_seed_variance
from comparison.metrics import accuracy
from comparison.predictions import Predictions
from distill_trainer import DistillationTrainer, DistillationTrainingArguments
from experiments.known_figures import scores_of
from experiments.runs import scaled_spread
from layer_distillation.losses import kl_divergence_loss, task_loss
from layer_distillation.model_outputs import compute_logits
from layer_distillation.pretrained import PACKAGED_TEACHER, resolve_checkpoint
from layer_distillation.problem_types import SINGLE_LABEL
from layer_distillation.stored_columns import TEACHER_LOGITS
from layer_mapping import build_student, join_layers, select_layers
from training.tables import grouped, markdown_table

NAME = "modernbert_layers"
DEPTH = 8
LATE_GLOBAL = (1, 2, 3, 7)
LAYERS = {name: select_layers(name, DEPTH) for name in ("odd", "top", "even", "bottom")} | {"late_global": LATE_GLOBAL}
WITH_NORM = {"even_with_norm": "even", "bottom_with_norm": "bottom"}
SEEDS = (0, 1, 2)
NUM_SENTENCES = 5_000
COLUMNS = {
    "start_loss": ("Validation loss, step 0", 1),
    "start_kl": ("KL from the teacher, step 0", 1),
    "eval_loss": ("Validation loss", 1),
    "eval_kl": ("KL from the teacher", 1),
    "eval_accuracy": ("Validation accuracy (%)", 100),
}


def main():
    tokenizer = AutoTokenizer.from_pretrained(resolve_checkpoint(PACKAGED_TEACHER))
    study = Study(tokenizer)
    rows = [
        {"method": "teacher", "strategy": "", "seed": "", "layers": "all", **study.scores(study.teacher, "teacher")}
    ]
    for seed in SEEDS:
        for strategy in (*LAYERS, *WITH_NORM):
            rows.append(study.train_student(strategy, seed))
            print(rows[-1], flush=True)
    columns = {name: "" for row in rows for name in row}
    write_results(NAME, [columns | row for row in rows], table(rows))


class Study:
    """The data, and the teacher that is trained on it."""

    def __init__(self, tokenizer):
        self.tokenizer, self.collator = tokenizer, DataCollatorWithPadding(tokenizer)
        self.validation = self.tokenized("validation")
        train = self.tokenized(f"train[:{NUM_SENTENCES}]")
        set_seed(0)
        self.teacher = ModernBertForSequenceClassification(
            ModernBertConfig(
                vocab_size=len(tokenizer),
                hidden_size=128,
                num_hidden_layers=DEPTH,
                num_attention_heads=4,
                intermediate_size=256,
                local_attention=8,
                max_position_embeddings=128,
                pad_token_id=tokenizer.pad_token_id,
                cls_token_id=tokenizer.cls_token_id,
                sep_token_id=tokenizer.sep_token_id,
            )
        )
        self.train(self.teacher, train, seed=0, num_train_epochs=6, ce_weight=1, kl_weight=0)
        logits = compute_logits(self.teacher, train, self.collator)
        self.sentences = train.add_column(TEACHER_LOGITS, list(logits))
        self.teacher_logits = torch.from_numpy(compute_logits(self.teacher, self.validation, self.collator))

    def tokenized(self, split: str) -> Dataset:
        data = load_dataset("nyu-mll/glue", "sst2", split=split).rename_column("label", "labels")
        return data.map(
            lambda rows: self.tokenizer(rows["sentence"], truncation=True, max_length=128),
            batched=True,
            remove_columns=["sentence", "idx"],
        )

    def train(self, model: PreTrainedModel, sentences: Dataset, **settings) -> None:
        args = DistillationTrainingArguments(
            output_dir=str(ROOT / "outputs" / NAME),
            learning_rate=5e-4,
            warmup_steps=100,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **settings,
        )
        DistillationTrainer(model=model, args=args, train_dataset=sentences, processing_class=self.tokenizer).train()
        model.eval()

    def train_student(self, strategy: str, seed: int) -> dict:
        """Returns the row of a student, before and after its training."""
        set_seed(seed)
        layers = LAYERS[WITH_NORM.get(strategy, strategy)]
        student = build_student(self.teacher, layers)
        if strategy in WITH_NORM:  # the layer as it is in the teacher
            student.model.layers[0] = copy.deepcopy(self.teacher.model.layers[layers[0] - 1])
        start = self.scores(student)
        self.train(student, self.sentences, seed=seed, num_train_epochs=2)
        row = {"method": "distill", "strategy": strategy, "seed": seed, "layers": join_layers(layers)}
        return row | {
            "start_loss": start["eval_loss"],
            "start_kl": start["eval_kl"],
            **self.scores(student, f"distill-{strategy}-{seed}"),
        }

    def scores(self, model: PreTrainedModel, file: str = "") -> dict[str, float]:
        """Returns what a model reaches on the validation split; its predictions go to a file, if one is named."""
        logits, labels = compute_logits(model, self.validation, self.collator), np.array(self.validation["labels"])
        if file:
            predictions = Predictions.from_logits(logits, labels, SINGLE_LABEL)
            predictions.write(RESULTS / NAME / f"{file}.npz")
        logits = torch.from_numpy(logits)
        return {
            "eval_loss": task_loss(logits, torch.from_numpy(labels)).mean().item(),
            "eval_kl": kl_divergence_loss(logits, self.teacher_logits).mean().item(),
            "eval_accuracy": float((logits.argmax(dim=1).numpy() == labels).mean()),
        }


def table(rows: list[dict]) -> str:
    """Returns one line for each strategy: means over seeds, and the lead over `odd` with its 95% interval."""
    scores = scores_of(NAME)[accuracy.name]
    seeds, lines = pooled_seed_variance(scores.values()), []
    for (method, strategy), runs in grouped(rows, key=lambda row: (row["method"], row["strategy"])).items():
        margin = "-"
        if strategy not in ("", "odd"):
            margin = difference(scores[method, strategy], scores["distill", "odd"], seeds).in_print
        line = {"Layers": f"{strategy.replace('_', ' ') or 'teacher'} ({runs[0]['layers']})"}
        for key, (title, factor) in COLUMNS.items():
            line[title] = scaled_spread([run.get(key) for run in runs], factor)
        lines.append(line | {"Accuracy minus that of odd (points)": margin})
    return markdown_table(lines)


if __name__ == "__main__":
    main()
