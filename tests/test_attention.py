"""The attention implementation that students are trained with."""

import pytest
import torch

from distill_trainer import DistillationTrainer
from experiments.tiny_classifiers import tiny_classifier
from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.attention import quickest_attention
from tests.workers.train_worker import pad

ROWS = [{"input_ids": ids, "attention_mask": [1] * len(ids), "labels": len(ids) % 2} for ids in ([3, 4, 5], [7, 8])]


def train(model, folder, bf16):
    """Trains for a step. Returns the loss, and the attention implementations of all forward passes."""
    args = DistillationTrainingArguments(
        output_dir=str(folder),
        bf16=bf16,
        use_cpu=True,
        kl_weight=0,
        max_steps=1,
        student_dropout=0,
        report_to="none",
        save_strategy="no",
    )
    seen = set()
    model.register_forward_pre_hook(lambda *_: seen.add(model.config._attn_implementation))
    return DistillationTrainer(model, args, pad, train_dataset=ROWS).train().training_loss, seen


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_in_bfloat16_on_a_processor_a_model_is_trained_with_eager_attention_and_restored(architecture, tmp_path):
    torch.manual_seed(0)
    models = [tiny_classifier(architecture) for _ in range(3)]
    for model in models:
        model.load_state_dict(models[0].state_dict())
    models[2].set_attn_implementation("eager")
    expected, seen = train(models[0], tmp_path, bf16=False)
    assert seen == {"sdpa"}
    loss, seen = train(models[1], tmp_path, bf16=True)
    assert seen == {"eager"} and loss == pytest.approx(expected, rel=0.02)
    assert models[1].config._attn_implementation == "sdpa"
    train(models[2], tmp_path, bf16=True)
    assert models[2].config._attn_implementation == "eager"


def test_the_attention_is_restored_after_an_error_and_stays_in_models_for_long_texts():
    model = tiny_classifier("bert")
    with pytest.raises(RuntimeError), quickest_attention(model, applies=True):
        assert model.config._attn_implementation == "eager"
        raise RuntimeError
    assert model.config._attn_implementation == "sdpa"
    model.config.max_position_embeddings = 8192
    with quickest_attention(model, applies=True):
        assert model.config._attn_implementation == "sdpa"
