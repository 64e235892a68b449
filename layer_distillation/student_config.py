"""The config of a student that is made of some of its teacher's layers.

    from layer_distillation.student_config import config_of_layers

    student_config = config_of_layers(teacher.config, [0, 2, 4])

Beside the depth, a config may describe every layer by an entry of a list, some layers by their numbers, or all of them
by a rule. Each is rewritten for the positions that the layers have in the student. What cannot be rewritten stays the
teacher's, and `layer_mapping.build_student` refuses the layers that would then be built differently.
"""

import copy
import math
from collections.abc import Sequence

from transformers import DynamicCache, PretrainedConfig

from layer_distillation.errors import UserError

# Config entries that hold one value a layer. A list of the right length may describe something else, such as the two
# entries of DeBERTa's `pos_att_type` in a teacher of two layers.
PER_LAYER_ENTRIES = (
    "layer_types",
    "mlp_layer_types",
    "layers_block_type",
    "no_rope_layers",
    "attn_layers",
    "attention_layers",
    "attention_window",
    "moe_topk",
    "layer_rope_theta",
    "num_attention_heads_per_layer",
)
# Pairs of entries that choose the layers i with i % period == offset.
PERIODS = (("attn_layer_period", "attn_layer_offset"), ("expert_layer_period", "expert_layer_offset"))


def encoder_config(config: PretrainedConfig) -> PretrainedConfig:
    """Returns the part of a config that describes the layers: the config, or its entry for text or for the encoder."""
    if "encoder" in config.sub_configs and not config.is_encoder_decoder:
        return config.encoder
    return config.get_text_config()


def config_of_layers(config: PretrainedConfig, indices: Sequence[int]) -> PretrainedConfig:
    """Returns a copy of the teacher's config for a student of the layers at these 0-based indices.

    Raises:
        UserError: the config does not let its depth be changed, or the layers would compute something else for a
            reason that lies outside of them.
    """
    student_config = copy.deepcopy(config)
    entries = encoder_config(student_config)
    depth = entries.num_hidden_layers
    if list(indices) == list(range(depth)):
        return student_config
    _check_chunks(entries, indices)
    _cut_lists(entries, indices)
    _renumber_layers(entries, indices)
    _renumber_periods(entries, indices)
    of_single_layers = _entries_of_single_layers(entries, indices)
    if _has(entries, "num_hidden_groups") and entries.num_hidden_groups == depth:  # ALBERT with a group a layer
        entries.num_hidden_groups = len(indices)
    if _has(entries, "scale_depth"):  # MiniCPM3 multiplies what a layer adds by scale_depth / sqrt(depth)
        entries.scale_depth *= math.sqrt(len(indices) / depth)
    try:
        entries.num_hidden_layers = len(indices)
    except NotImplementedError:
        raise UserError(
            f"The depth of {type(entries).__name__} cannot be changed, because its layers are arranged in blocks that "
            "shorten the text; choose a teacher with layers in one row, such as BERT."
        ) from None
    if of_single_layers is not None:  # after the depth, which bounds the numbers
        entries.per_layer_config = of_single_layers
    if not _can_cache(entries):
        entries.use_cache = False
    return student_config


def _has(config: PretrainedConfig, entry: str) -> bool:
    return getattr(config, entry, None) is not None


def _check_chunks(config: PretrainedConfig, indices: Sequence[int]) -> None:
    """Refuses students that would pad a text to another length than the teacher.

    Reformer pads to a multiple of the chunk lengths of all kinds of attention that it has, and its first chunk attends
    to its last, so that the outputs depend on the padded length.
    """
    if not _has(config, "attn_layers"):
        return
    kinds = config.attn_layers
    lengths = {kind: getattr(config, f"{kind}_attn_chunk_length") for kind in kinds}
    missing = sorted(set(kinds) - {kinds[index] for index in indices})
    if missing and len(set(lengths.values())) > 1:
        found = ", ".join(f"{kind}_attn_chunk_length {length}" for kind, length in sorted(lengths.items()))
        example = ",".join(str(kinds.index(kind) + 1) for kind in dict.fromkeys(kinds))
        raise UserError(
            f"A student without layers of the kind {', '.join(missing)} would pad texts to another length than its "
            f"teacher ({found}), and compute something else; keep a layer of each kind, as in --layers {example}."
        )


def _cut_lists(config: PretrainedConfig, indices: Sequence[int]) -> None:
    """Keeps the values of the kept layers in lists with one value a layer."""
    # Read before any is written, because an entry may be another name of one before: Zamba's `layer_types`.
    values_of = {entry: getattr(config, entry, None) for entry in PER_LAYER_ENTRIES}
    for entry, values in values_of.items():
        name = config.attribute_map.get(entry, entry)  # Falcon-H1's `layer_types` is another name of what it computes
        is_computed = isinstance(getattr(type(config), name, None), property)
        if isinstance(values, (list, tuple)) and not is_computed:
            setattr(config, entry, [values[index] for index in indices])
    if _has(config, "attention_layers") and _has(config, "attention_types"):  # GPT-Neo writes the same list twice
        config.attention_types = [[[kind], 1] for kind in config.attention_layers]


def _renumber_layers(config: PretrainedConfig, indices: Sequence[int]) -> None:
    """Gives layers that the config names by number the numbers that they have in the student."""
    if _has(config, "hybrid_layer_ids"):
        teacher_ids = set(config.hybrid_layer_ids)
        config.hybrid_layer_ids = [position for position, index in enumerate(indices) if index in teacher_ids]
    if _has(config, "first_k_dense_replace"):
        config.first_k_dense_replace = sum(index < config.first_k_dense_replace for index in indices)
    if _has(config, "mlp_only_layers"):
        step = config.decoder_sparse_step
        dense = [index in config.mlp_only_layers or (index + 1) % step != 0 for index in indices]
        config.mlp_only_layers = [position for position, is_dense in enumerate(dense) if is_dense]
        config.decoder_sparse_step = 1


def _entries_of_single_layers(config: PretrainedConfig, indices: Sequence[int]) -> dict[int, dict] | None:
    """Returns the entries that single layers have of their own, by position in the student; `None` if none has any.

    Gemma 4 has them. The numbers of layers that the student lacks would make its checkpoint unreadable.
    """
    if not config.is_heterogeneous:
        return None
    of_teacher = {int(index): entries for index, entries in config.to_dict()["per_layer_config"].items()}
    return {position: of_teacher[index] for position, index in enumerate(indices) if index in of_teacher}


def _renumber_periods(config: PretrainedConfig, indices: Sequence[int]) -> None:
    """Looks for a period and an offset that choose the same layers in the student; else they stay the teacher's."""
    for period_entry, offset_entry in PERIODS:
        if not _has(config, period_entry):
            continue
        period, offset = getattr(config, period_entry), getattr(config, offset_entry)
        chosen = [index % period == offset for index in indices]
        every_rule = [(p, o) for p in range(1, len(indices) + 2) for o in range(p)]
        for p, o in [(period, offset), *every_rule]:
            if [position % p == o for position in range(len(indices))] == chosen:
                setattr(config, period_entry, p)
                setattr(config, offset_entry, o)
                break


def _can_cache(config: PretrainedConfig) -> bool:
    """Whether a decoder can cache: transformers asks the first layer with attention for the length of the cache."""
    if not (_has(config, "layer_types") and getattr(config, "use_cache", False)):
        return True
    try:
        DynamicCache(config=config).get_seq_length()
    except ValueError:
        return False
    return True
