"""Tiny classifiers with random weights, a builder per architecture: `TINY_CLASSIFIERS[name](num_layers, num_labels)`.

The weights are drawn ten times wider than usual, and norms and biases away from 1 and 0, so that two layers never give
the same output by accident.
"""

from collections.abc import Callable
from functools import partial

import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    CamembertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    XLMRobertaConfig,
)

VOCAB_SIZE = 128


def _randomize_vectors(model: PreTrainedModel) -> PreTrainedModel:
    """Moves norms and biases, which every architecture initializes to 1 and 0, to random values."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def _tiny_classifier(
    config_class: type[PretrainedConfig],
    num_layers: int,
    num_labels: int,
    hidden_size: int = 32,
    num_attention_heads: int = 4,
    **config_kwargs,
) -> PreTrainedModel:
    config = config_class(
        vocab_size=VOCAB_SIZE,
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_attention_heads,
        max_position_embeddings=64,
        initializer_range=0.2,
        num_labels=num_labels,
        intermediate_size=64,
        **config_kwargs,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _randomize_vectors(AutoModelForSequenceClassification.from_config(config)).eval()


# The entries are those of the published checkpoints where they change which modules a model has.
TINY_CLASSIFIERS: dict[str, Callable[[int, int], PreTrainedModel]] = {
    "bert": partial(_tiny_classifier, BertConfig),
    "roberta": partial(_tiny_classifier, RobertaConfig, type_vocab_size=1),
    "xlm-roberta": partial(_tiny_classifier, XLMRobertaConfig, type_vocab_size=1),
    "distilbert": partial(_tiny_classifier, DistilBertConfig, hidden_dim=64),
    "electra": partial(_tiny_classifier, ElectraConfig, embedding_size=16),
    "mpnet": partial(_tiny_classifier, MPNetConfig),
    "deberta-v2": partial(
        _tiny_classifier,
        DebertaV2Config,
        type_vocab_size=0,
        relative_attention=True,
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        conv_kernel_size=3,
        conv_act="gelu",
    ),
    "modernbert": partial(
        _tiny_classifier,
        ModernBertConfig,
        local_attention=8,
        pad_token_id=0,
        bos_token_id=1,
        cls_token_id=1,
        eos_token_id=2,
        sep_token_id=2,
    ),
    "camembert": partial(_tiny_classifier, CamembertConfig, type_vocab_size=1),
}
