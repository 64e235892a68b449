"""Tiny classifiers of every architecture: configurations in which every kind of layer occurs, all parameters random.

    from experiments.tiny_classifiers import configurations_of, tiny_classifier

    configurations_of("gpt2")    # ("", "attention scaled by the number of a layer")
    model = tiny_classifier("gpt2", "attention scaled by the number of a layer")

A type of model that `CONFIGURATIONS` does not name is built from `SIZES` alone. A title says what is special about a
configuration: mostly a mechanism by which the depth or the number of a layer enters what the model computes.
"""

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel

SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OWN_HEADS = {name: size for name, size in SIZES.items() if name not in ("num_key_value_heads", "head_dim")}
GPT = {"vocab_size": 99, "n_embd": 32, "n_layer": 6, "n_head": 4, "n_positions": 128, "pad_token_id": 0}
ENCODER_DECODER = {
    "vocab_size": 99,
    "d_model": 32,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "pad_token_id": 0,
}
T5 = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 6, "num_heads": 4, "pad_token_id": 0}
VISION = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 64}
VISION |= {"image_size": 28, "patch_size": 14}
MAMBA = {"mamba_d_state": 8, "n_mamba_heads": 2, "num_key_value_heads": 4}
GATED_DELTA = {
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SHARED_EXPERT = {**EXPERTS, "shared_expert_intermediate_size": 32}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
LATENT_EXPERTS = {**LATENT, **EXPERTS, "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 1, "topk_group": 1}
HYBRIDS = ["linear_attention", "hybrid", "hybrid", "linear_attention", "hybrid", "hybrid"]
SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 3}
LATE_SLIDING = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3}
TWO_ROPES = {kind: {"rope_type": "default", "rope_theta": 1e4} for kind in ("sliding_attention", "full_attention")}
LINEAR = {"layer_types": ["linear_attention", "linear_attention", "full_attention"] * 2}


def _common(**entries) -> dict:
    return {**SIZES, **entries}


def _own_heads(**entries) -> dict:
    return {**OWN_HEADS, **entries}


CONFIGURATIONS: dict[str, dict[str, dict]] = {
    "albert": {"": _common(embedding_size=16), "a group a layer": _common(embedding_size=16, num_hidden_groups=6)},
    "axk1": {"experts in every second layer": _common(**LATENT_EXPERTS, mlp_layer_types=["dense", "sparse"] * 3)},
    "axk2": {"": _common(**LATENT_EXPERTS, mlp_layer_types=["dense", "sparse"] * 3)},
    "bart": {"": ENCODER_DECODER},
    "big_bird": {"": _common(block_size=4, num_random_blocks=1)},
    "bigbird_pegasus": {"": ENCODER_DECODER},
    "canine": {
        "encoders of characters": _own_heads(num_hash_buckets=64, local_transformer_stride=16),
    },
    "cohere_compass_text": {"": _common(**SLIDING, rope_parameters=TWO_ROPES)},
    "convbert": {"": _own_heads(embedding_size=32)},
    "ctrl": {"": GPT | {"dff": 64}},
    "deberta": {"": _own_heads(relative_attention=True, pos_att_type=["c2p", "p2c"], position_biased_input=False)},
    "deberta-v2": {
        "": _own_heads(
            relative_attention=True,
            position_buckets=8,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            pos_att_type=["p2c", "c2p"],
            position_biased_input=False,
            conv_kernel_size=3,
            conv_act="gelu",
        )
    },
    "deepseek_v2": {"": _common(**LATENT_EXPERTS, first_k_dense_replace=1)},
    "deepseek_v3": {"dense layers first": _common(**LATENT_EXPERTS, first_k_dense_replace=3)},
    "diffllama": {"differences weighted by the number of a layer": _common()},
    "distilbert": {"": {"vocab_size": 99, "dim": 32, "n_layers": 6, "n_heads": 4, "hidden_dim": 64}},
    "doge": {"": _common(), "experts": _common(**{**EXPERTS, "num_experts": 16}, is_moe=True)},
    "electra": {"": _own_heads(embedding_size=16)},
    "esm": {"a head that reads every layer": _own_heads(vocab_size=33, pad_token_id=1, mask_token_id=32)},
    "esmc": {"outputs divided by the depth": _own_heads()},
    "exaone4": {"": _common(**SLIDING)},
    "falcon": {"": _own_heads(), "new architecture": _own_heads(new_decoder_architecture=True, num_kv_heads=2)},
    "flaubert": {"": {"n_layers": 6, "n_heads": 4, "emb_dim": 32, "n_words": 99}},
    "funnel": {
        "blocks that shorten the text": {"vocab_size": 99, "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64}
        | {"block_sizes": [6]}
    },
    "gemma2": {"": _common(**SLIDING)},
    "gemma3": {
        "depth in the text config": {"text_config": _common(sliding_window=8), "pad_token_id": 0}
        | {"vision_config": VISION, "mm_tokens_per_image": 4}
    },
    "gemma3_text": {"": _common(**SLIDING)},
    "gpt-sw3": {"": GPT},
    "gpt2": {"": GPT, "attention scaled by the number of a layer": GPT | {"scale_attn_by_inverse_layer_idx": True}},
    "gpt_bigcode": {"": GPT},
    "gpt_neo": {
        "two lists of kinds of attention": {"vocab_size": 99, "hidden_size": 32, "num_layers": 6, "num_heads": 4}
        | {"pad_token_id": 0, "attention_types": [[["global", "local"], 3]], "window_size": 8}
    },
    "gpt_oss": {"": _common(**SLIDING, **EXPERTS)},
    "gptj": {"": GPT | {"rotary_dim": 4}},
    "hunyuan_v1_moe": {
        "": _common(**EXPERTS),
        "experts used by layer": _common(**EXPERTS, moe_topk=[1, 2, 1, 2, 1, 2]),
    },
    "jamba": {
        "kinds of layers by period": _common(num_experts=2, mamba_d_state=8, attn_layer_period=3, attn_layer_offset=1)
    },
    "jetmoe": {"": _common(kv_channels=8, num_local_experts=4, num_experts_per_tok=2, num_key_value_heads=2)},
    "layoutlmv3": {"": _own_heads(coordinate_size=5, shape_size=6, visual_embed=False)},
    "lilt": {"": _own_heads(hidden_size=48, num_attention_heads=4)},
    "longformer": {"": _own_heads(attention_window=[8, 16, 8, 16, 8, 16])},
    "luke": {"": _own_heads(entity_vocab_size=9, entity_emb_size=16)},
    "markuplm": {"": _own_heads(max_depth=4)},
    "mbart": {"": ENCODER_DECODER},
    "minicpm3": {"residuals scaled by depth": _common(**LATENT, num_key_value_heads=4, scale_depth=1.4)},
    "minimax": {"decay by depth in buffers": _common(num_local_experts=2)},
    "ministral": {"": _common(**SLIDING)},
    "mistral": {"": _common(sliding_window=8)},
    "mistral4": {"": _own_heads(**LATENT_EXPERTS, first_k_dense_replace=1)},
    "mixtral": {"": _common(sliding_window=8, num_local_experts=4)},
    "mobilebert": {"feed-forward networks in a layer": _own_heads(embedding_size=16, intra_bottleneck_size=16)},
    "modernbert": {"no norm in the first layer": _own_heads(cls_token_id=1, sep_token_id=2, local_attention=8)},
    "modernbert-decoder": {"": _own_heads(cls_token_id=1, sep_token_id=2, local_attention=8)},
    "modernvbert": {
        "depth in the text config": {"text_config": _own_heads(cls_token_id=1, sep_token_id=2, local_attention=8)}
        | {"vision_config": VISION | {"image_size": 32, "patch_size": 16}}
    },
    "mpt": {"": {"vocab_size": 99, "d_model": 32, "n_heads": 4, "n_layers": 6, "max_seq_len": 128, "pad_token_id": 0}},
    "mra": {"": _own_heads()},
    "mt5": {"": T5},
    "mvp": {"": ENCODER_DECODER},
    "nystromformer": {"as many landmarks as tokens": _own_heads(num_landmarks=48, segment_means_seq_len=48)},
    "olmo3": {"": _common(**SLIDING)},
    "opt": {"": _own_heads(ffn_dim=64, word_embed_proj_dim=32)},
    "perceiver": {
        "": {"num_latents": 4, "d_latents": 32, "d_model": 32, "num_self_attends_per_block": 6}
        | {"num_self_attention_heads": 4, "num_cross_attention_heads": 4}
    },
    "phi3": {"": _common(sliding_window=8)},
    "phimoe": {"": _common(num_local_experts=4, sliding_window=8)},
    "plbart": {"": ENCODER_DECODER},
    "qwen2": {"": _common(**LATE_SLIDING)},
    "qwen2_moe": {
        "": _common(**SHARED_EXPERT, **LATE_SLIDING),
        "experts in every second layer": _common(**SHARED_EXPERT, decoder_sparse_step=2),
    },
    "qwen3": {"": _common(**LATE_SLIDING)},
    "qwen3_5": {
        "depth in the text config": {"text_config": _common(**GATED_DELTA, **LINEAR), "pad_token_id": 0}
        | {"vision_config": {"hidden_size": 32, "depth": 2, "num_heads": 4, "intermediate_size": 64}}
    },
    "qwen3_5_text": {"": _common(**GATED_DELTA, **LINEAR)},
    "qwen3_moe": {"": _common(**EXPERTS), "some dense layers": _common(**EXPERTS, mlp_only_layers=[0, 2])},
    "qwen3_next": {
        "layers without a cache": _common(**GATED_DELTA, **SHARED_EXPERT, **LINEAR, mlp_only_layers=[1, 4])
    },
    "reformer": {
        "padding by the kinds of layers": {"vocab_size": 99, "hidden_size": 32, "num_attention_heads": 4}
        | {"pad_token_id": 0, "attention_head_size": 8, "attn_layers": ["local", "lsh"] * 3, "axial_pos_embds": False}
        | {"feed_forward_size": 64, "hash_seed": 0, "num_buckets": 4, "max_position_embeddings": 96}
        | {"local_attn_chunk_length": 8, "lsh_attn_chunk_length": 12}
    },
    "roc_bert": {"": _own_heads(pronunciation_vocab_size=9, shape_vocab_size=9)},
    "smollm3": {
        "layers without positions": _common(**SLIDING, use_sliding_window=True, no_rope_layers=[1, 1, 0, 1, 1, 0])
    },
    "squeezebert": {"": _own_heads(embedding_size=32)},
    "stablelm": {
        "": _common(),
        "norms by head in a layer": _own_heads(
            hidden_size=48, num_attention_heads=3, num_key_value_heads=3, qk_layernorm=True
        ),
    },
    "starcoder2": {"": _common(sliding_window=8)},
    "t5": {"": T5 | {"decoder_start_token_id": 0}},
    "t5gemma": {
        "encoder alone": {"encoder": _common(**SLIDING), "decoder": _common(**SLIDING), "is_encoder_decoder": False}
        | {"pad_token_id": 0, "vocab_size": 99},
        "with a decoder": {"encoder": _common(**SLIDING), "decoder": _common(**SLIDING), "vocab_size": 99},
    },
    "t5gemma2": {
        "": {
            "encoder": {"text_config": _common(**SLIDING), "vision_config": VISION, "mm_tokens_per_image": 4},
            "decoder": _common(**SLIDING),
        }
    },
    "ultrabert": {"": _common(**SLIDING)},
    "ultravbert": {"depth in the text config": {"text_config": _common(**SLIDING), "vision_config": VISION}},
    "umt5": {"": T5},
    "xlm": {"": {"n_layers": 6, "n_heads": 4, "emb_dim": 32, "n_words": 99}},
    "xlnet": {"": {"vocab_size": 99, "d_model": 32, "n_layer": 6, "n_head": 4, "d_inner": 64, "pad_token_id": 0}},
    "xmod": {"": _own_heads(default_language="en_XX")},
    "zamba": {"one shared block": _own_heads(**MAMBA, layers_block_type=HYBRIDS)},
    "zamba2": {
        "adapters by the number of a hybrid layer": _own_heads(
            **MAMBA, chunk_size=16, adapter_rank=4, layers_block_type=HYBRIDS
        ),
        "two shared blocks in turn": _own_heads(
            **MAMBA, chunk_size=16, adapter_rank=4, layers_block_type=HYBRIDS, num_mem_blocks=2
        ),
    },
}


def configurations_of(model_type: str) -> tuple[str, ...]:
    """Returns the titles of the configurations of a type, `("",)` for a type without anything special."""
    return tuple(CONFIGURATIONS.get(model_type, ("",)))


def tiny_config(model_type: str, title: str | None = None, **entries) -> PretrainedConfig:
    """Returns a configuration with three labels, by default the first of its type; `entries` are added to it."""
    configurations = CONFIGURATIONS.get(model_type, {"": SIZES})
    base = configurations[next(iter(configurations)) if title is None else title]
    return AutoConfig.for_model(model_type, **{**base, "num_labels": 3, **entries})


def tiny_classifier(model_type: str, title: str | None = None, **entries) -> PreTrainedModel:
    """Builds a classifier in which every parameter is random, in `eval()` mode."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(tiny_config(model_type, title, **entries))
        for name, parameter in model.named_parameters():
            is_rate = name.endswith(("A_log", "dt_bias", ".D"))
            parameter.add_(torch.randn_like(parameter), alpha=0.1 if is_rate else 0.2)
    return model.eval()
