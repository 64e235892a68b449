"""Tiny classifiers, one a mechanism by which the depth or the number of a layer enters the computation of a model."""

from collections.abc import Callable
from functools import partial

from transformers import PreTrainedModel

from experiments.tiny_classifiers import tiny_classifier

TYPES_AND_MECHANISMS = (
    ("zamba2", "adapters by the number of a hybrid layer"),
    ("zamba2", "two shared blocks in turn"),
    ("zamba", "one shared block"),
    ("gpt_neo", "two lists of kinds of attention"),
    ("esm", "a head that reads every layer"),
    ("jamba", "kinds of layers by period"),
    ("qwen3_next", "layers without a cache"),
    ("qwen2_moe", "experts in every second layer"),
    ("axk1", "experts in every second layer"),
    ("smollm3", "layers without positions"),
    ("deepseek_v3", "dense layers first"),
    ("hunyuan_v1_moe", "experts used by layer"),
    ("canine", "encoders of characters"),
    ("mobilebert", "feed-forward networks in a layer"),
    ("stablelm", "norms by head in a layer"),
    ("minicpm3", "residuals scaled by depth"),
    ("minimax", "decay by depth in buffers"),
    ("gemma3", "depth in the text config"),
    ("qwen3_5", "depth in the text config"),
    ("modernbert", "no norm in the first layer"),
    ("modernvbert", "depth in the text config"),
    ("t5gemma", "encoder alone"),
    ("reformer", "padding by the kinds of layers"),
    ("gpt2", "attention scaled by the number of a layer"),
    ("diffllama", "differences weighted by the number of a layer"),
    ("esmc", "outputs divided by the depth"),
    ("funnel", "blocks that shorten the text"),
    ("albert", "a group a layer"),
)
MECHANISMS: dict[str, Callable[[], PreTrainedModel]] = {
    f"{model_type}, {title}": partial(tiny_classifier, model_type, title) for model_type, title in TYPES_AND_MECHANISMS
}
