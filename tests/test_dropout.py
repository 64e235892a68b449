"""The option that sets the student's dropout."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from distill_trainer import DistillationTrainer
from experiments.tiny_classifiers import tiny_classifier
from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.dropout import set_dropout
from layer_distillation.errors import UserError

# Held in modules, and in numbers that the attention reads.
ARCHITECTURES = {
    "bert": {},
    "distilbert": {},
    "deberta-v2": {},
    "modernbert": {"attention_dropout": 0.5, "mlp_dropout": 0.5},
    "llama": {"attention_dropout": 0.5},
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_dropout_a_model_computes_the_same_in_training_as_in_evaluation(architecture):
    model = tiny_classifier(architecture, **ARCHITECTURES[architecture])
    ids = torch.arange(3, 21).view(2, 9)
    expected = model(input_ids=ids).logits
    model.train()
    assert not torch.allclose(model(input_ids=ids).logits, expected, atol=1e-4)
    set_dropout(model, 0.0)
    torch.testing.assert_close(model(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_adapters_keep_their_dropout():
    model = get_peft_model(tiny_classifier("bert"), LoraConfig(target_modules=["query"], lora_dropout=0.3))
    set_dropout(model, 0.0)
    rates = {module.p for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.0, 0.3}


def test_a_rate_outside_0_to_1_is_refused():
    for rate in (-0.1, 1.0):
        with pytest.raises(UserError, match=f"--student_dropout .*{rate}"):
            DistillationTrainingArguments(student_dropout=rate)


@pytest.mark.parametrize("is_renewed", [False, True])
def test_the_trainer_sets_the_rate_of_every_student(is_renewed, tmp_path):
    args = DistillationTrainingArguments(
        output_dir=str(tmp_path), student_dropout=0.25, kl_weight=0, max_steps=1, report_to="none", save_strategy="no"
    )
    rows = [{"input_ids": [3, 4, 5], "labels": 1}] * 2
    model = {"model_init": lambda: tiny_classifier("bert")} if is_renewed else {"model": tiny_classifier("bert")}
    trainer = DistillationTrainer(args=args, train_dataset=rows, **model)
    trainer.train()
    rates = {module.p for module in trainer.model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.25} and trainer.model.config.hidden_dropout_prob == 0.1
