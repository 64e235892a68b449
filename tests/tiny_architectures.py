"""Tiny classifiers, one a mechanism by which the depth or the number of a layer enters the computation of a model.

`MECHANISMS[name]()` builds it with random weights. Every kind of layer of the architecture occurs.
"""

from collections.abc import Callable
from functools import partial

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MAMBA = {"mamba_d_state": 8, "n_mamba_heads": 2, "num_key_value_heads": 4}
GATED_DELTA = {
    "head_dim": 16,
    "num_key_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
VISION = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 64}
HYBRIDS = ["linear_attention", "hybrid", "hybrid", "linear_attention", "hybrid", "hybrid"]


def tiny(model_type: str, sizes: dict | None = None, **entries) -> PreTrainedModel:
    """Builds a classifier of three labels in which every parameter is random.

    Args:
        sizes: instead of `SIZES`.
        entries: other entries of the config.
    """
    config = AutoConfig.for_model(model_type, **{**(SIZES if sizes is None else sizes), "num_labels": 3, **entries})
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
        for name, parameter in model.named_parameters():
            is_rate = name.endswith(("A_log", "dt_bias", ".D"))
            parameter.add_(torch.randn_like(parameter), alpha=0.1 if is_rate else 0.2)
    return model.eval()


MECHANISMS: dict[str, Callable[[], PreTrainedModel]] = {
    "adapters by the number of a hybrid layer": partial(
        tiny, "zamba2", **MAMBA, chunk_size=16, adapter_rank=4, layers_block_type=HYBRIDS
    ),
    "two shared blocks in turn": partial(
        tiny, "zamba2", **MAMBA, chunk_size=16, adapter_rank=4, layers_block_type=HYBRIDS, num_mem_blocks=2
    ),
    "one shared block": partial(tiny, "zamba", **MAMBA, layers_block_type=HYBRIDS),
    "two lists of kinds of attention": partial(
        tiny,
        "gpt_neo",
        {"vocab_size": 99, "hidden_size": 32, "num_layers": 6, "num_heads": 4, "pad_token_id": 0},
        attention_types=[[["global", "local"], 3]],
        window_size=8,
    ),
    "a head that reads every layer": partial(tiny, "esm", vocab_size=33, pad_token_id=1, mask_token_id=32),
    "kinds of layers by period": partial(
        tiny,
        "jamba",
        num_key_value_heads=2,
        num_experts=2,
        mamba_d_state=8,
        attn_layer_period=3,
        attn_layer_offset=1,
    ),
    "layers without a cache": partial(
        tiny, "qwen3_next", **GATED_DELTA, **MOE, shared_expert_intermediate_size=32, mlp_only_layers=[1, 4]
    ),
    "experts in every second layer": partial(
        tiny, "qwen2_moe", **MOE, num_key_value_heads=2, shared_expert_intermediate_size=32, decoder_sparse_step=2
    ),
    "dense layers first": partial(
        tiny,
        "deepseek_v3",
        **LATENT,
        num_key_value_heads=4,
        first_k_dense_replace=3,
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        n_group=1,
        topk_group=1,
    ),
    "experts used by layer": partial(
        tiny, "hunyuan_v1_moe", num_key_value_heads=2, head_dim=8, num_experts=4, moe_topk=[1, 2, 1, 2, 1, 2]
    ),
    "encoders of characters": partial(
        tiny, "canine", num_hash_buckets=64, local_transformer_stride=16, max_position_embeddings=128
    ),
    "feed-forward networks in a layer": partial(tiny, "mobilebert", embedding_size=16, intra_bottleneck_size=16),
    "norms by head in a layer": partial(
        tiny, "stablelm", num_key_value_heads=3, num_attention_heads=3, hidden_size=48, qk_layernorm=True
    ),
    "residuals scaled by depth": partial(tiny, "minicpm3", **LATENT, scale_depth=1.4),
    "decay by depth in buffers": partial(tiny, "minimax", num_key_value_heads=2, num_local_experts=2, head_dim=8),
    "depth in the text config of Gemma 3": partial(
        tiny,
        "gemma3",
        {"text_config": {**SIZES, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8, "pad_token_id": 0}},
        vision_config={**VISION, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
    ),
    "depth in the text config of Qwen 3.5": partial(
        tiny,
        "qwen3_5",
        {"text_config": {**SIZES, **GATED_DELTA}, "pad_token_id": 0},
        vision_config={"hidden_size": 32, "depth": 2, "num_heads": 4, "intermediate_size": 64, "out_hidden_size": 32},
    ),
    "depth in the text config of ModernVBERT": partial(
        tiny,
        "modernvbert",
        {"text_config": {**SIZES, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 8}},
        vision_config={**VISION, "image_size": 32, "patch_size": 16},
    ),
    "padding by the kinds of layers": partial(
        tiny,
        "reformer",
        {"vocab_size": 99, "hidden_size": 32, "num_attention_heads": 4, "pad_token_id": 0},
        attention_head_size=8,
        attn_layers=["local", "lsh"] * 3,
        axial_pos_embds=False,
        feed_forward_size=64,
        hash_seed=0,
        local_attn_chunk_length=8,
        lsh_attn_chunk_length=12,
        num_buckets=4,
        max_position_embeddings=96,
    ),
    "attention scaled by the number of a layer": partial(
        tiny,
        "gpt2",
        {"vocab_size": 99, "n_embd": 32, "n_layer": 6, "n_head": 4, "pad_token_id": 0},
        scale_attn_by_inverse_layer_idx=True,
    ),
    "differences weighted by the number of a layer": partial(tiny, "diffllama", num_key_value_heads=2),
    "outputs divided by the depth": partial(tiny, "esmc"),
    "blocks that shorten the text": partial(
        tiny,
        "funnel",
        {"vocab_size": 99, "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64},
        block_sizes=[6],
    ),
    "a group a layer": partial(tiny, "albert", embedding_size=16, num_hidden_groups=6),
}
