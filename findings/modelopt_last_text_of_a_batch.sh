#!/usr/bin/env bash
# nvidia-modelopt 0.47.0, transformers 5.24.0: KDTrainer distills a text classifier without the last text of each batch.
#
# Expected: the "distillation trainer for HuggingFace models" takes the mean of the divergence over all texts of a
# batch, or says that it takes language models only.
# Found: it drops the last position of the logits and the first of the labels, for the next token. A classifier has no
# positions: its logits are (texts, labels), so that the last text is dropped. It says nothing, and the student learns
# from 3 of 4 texts. With a batch size of 1 the loss is 0 in every step, the gradient too, and no weight changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 accelerate==1.15.0 datasets==5.2.0 \
    requests==2.34.2 nvidia-modelopt==0.47.0
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys

import torch
from modelopt.torch.distill.plugins.huggingface import KDTrainer
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

torch.manual_seed(0)
sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 50}
texts = torch.randint(5, 50, (4, 6))
examples = [{"input_ids": text, "labels": label} for text, label in zip(texts, torch.tensor([0, 1, 2, 0]))]


def trained(batch_size):
    config = BertConfig(**sizes, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    student, teacher = BertForSequenceClassification(config), BertForSequenceClassification(config)
    torch.nn.init.normal_(teacher.classifier.weight, std=3.0)
    with torch.no_grad():
        logs = [model(texts).logits.log_softmax(dim=-1) for model in (teacher, student)]
    before = [weight.detach().clone() for weight in student.parameters()]
    options = {"report_to": [], "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "logging_steps": 1}
    options |= {"per_device_train_batch_size": batch_size, "num_train_epochs": 1, "learning_rate": 0.01}
    arguments = TrainingArguments(output_dir=sys.argv[1], **options)
    trainer = KDTrainer(model=student, args=arguments, train_dataset=examples, distill_args={"teacher_model": teacher})
    batch = {"input_ids": texts, "labels": torch.tensor([0, 1, 2, 0])}
    loss = trainer.compute_loss(student.train(), batch).item()
    trainer.train()
    changed = sum(not torch.equal(old, new) for old, new in zip(before, student.parameters()))
    return loss, (logs[0].exp() * (logs[0] - logs[1])).sum(dim=-1), changed


for batch_size in (4, 1):
    loss, of_texts, changed = trained(batch_size)
    means = of_texts.mean().item(), of_texts[:-1].mean().item()
    print(f"loss of 4 texts {loss:.4f}; mean of all texts {means[0]:.4f}, without the last {means[1]:.4f}")
    print(f"weights changed by training with a batch size of {batch_size}: {changed}")
    assert abs(loss - means[1]) < 1e-5 < abs(loss - means[0]), "the behavior has changed"
    assert (changed > 0) == (batch_size > 1), "the behavior has changed"
PYTHON
