"""The option that sets the student's dropout."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.dropout import set_dropout
from layer_distillation.errors import UserError
from tests.tiny_architectures import tiny

# Held in modules, and in numbers that the attention reads.
ARCHITECTURES = {
    "bert": {},
    "distilbert": {"sizes": {"vocab_size": 99, "dim": 32, "n_layers": 6, "n_heads": 4, "hidden_dim": 64}},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p"]},
    "modernbert": {"cls_token_id": 1, "sep_token_id": 2, "attention_dropout": 0.5, "mlp_dropout": 0.5},
    "llama": {"num_key_value_heads": 2, "attention_dropout": 0.5},
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_dropout_a_model_computes_the_same_in_training_as_in_evaluation(architecture):
    model = tiny(architecture, **ARCHITECTURES[architecture])
    ids = torch.arange(3, 21).view(2, 9)
    expected = model(input_ids=ids).logits
    model.train()
    assert not torch.allclose(model(input_ids=ids).logits, expected, atol=1e-4)
    set_dropout(model, 0.0)
    torch.testing.assert_close(model(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_adapters_keep_their_dropout():
    model = get_peft_model(tiny("bert"), LoraConfig(target_modules=["query"], lora_dropout=0.3))
    set_dropout(model, 0.0)
    rates = {module.p for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.0, 0.3}


def test_a_rate_outside_0_to_1_is_refused():
    for rate in (-0.1, 1.0):
        with pytest.raises(UserError, match=f"--student_dropout .*{rate}"):
            DistillationTrainingArguments(student_dropout=rate)
