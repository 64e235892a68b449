"""Loads classifiers and tokenizers, and checks that they fit the data.

A head is trained for the data if its problem type, its label names and their order are those of the data: see
`load_classifier`. A tokenizer fits a model if it has the model's vocabulary: see `load_tokenizer`.
"""

import logging
import shlex

from accelerate import init_empty_weights
from torch import nn
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from layer_distillation.errors import UserError
from layer_distillation.pretrained import from_pretrained
from layer_distillation.vocabularies import has_words
from text_data.labels import LabelMap
from text_data.names import join_names

logger = logging.getLogger(__name__)


def load_tokenizer(
    path: str, tokenizer_name: str | None = None, revision: str | None = None
) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a checkpoint, or another one with the same vocabulary.

    Its `model_max_length` is at most the number of tokens that the model has positions for.

    Args:
        path: Hub name or folder of the checkpoint.
        tokenizer_name: Hub name or folder of the other tokenizer.
        revision: of the checkpoint.

    Raises:
        UserError: there is no tokenizer, or its vocabulary is not the checkpoint's.
    """
    name = tokenizer_name or path
    tokenizer = from_pretrained(AutoTokenizer, name, None if tokenizer_name else revision)
    config = from_pretrained(AutoConfig, path, revision)
    own = _own_tokenizer(path, revision) if tokenizer_name else None
    if own is not None and own.get_vocab() != tokenizer.get_vocab():
        raise UserError(
            f"The vocabulary of --tokenizer_name {name} ({len(tokenizer)} tokens) is not that of the teacher {path} "
            f"({len(own)} tokens): the teacher would read other words than the text has. Leave --tokenizer_name out."
        )
    if not has_words(tokenizer):
        raise UserError(
            f"There is no tokenizer in {name}, or it has no words. Save the teacher's tokenizer beside it with "
            "`tokenizer.save_pretrained`, or name one with --tokenizer_name."
        )
    vocab_size = getattr(config.get_text_config(), "vocab_size", None)  # models that read characters have none
    if vocab_size is not None and len(tokenizer) > vocab_size:
        raise UserError(
            f"The tokenizer {name} has {len(tokenizer)} tokens but the model {path} has embeddings for "
            f"{vocab_size} only. Give the tokenizer that it was trained with as --tokenizer_name."
        )
    model_class = MODEL_MAPPING.get(type(config), None)
    if isinstance(model_class, type):  # not so for code that comes with a checkpoint
        with init_empty_weights():
            limit = longest_text(model_class(config))
        if limit is not None:  # a tokenizer that was saved without a limit has a huge one
            tokenizer.model_max_length = min(tokenizer.model_max_length, limit)
    return _with_padding_token(tokenizer, name)


def _own_tokenizer(path: str, revision: str | None) -> PreTrainedTokenizerBase | None:
    """Returns the tokenizer of a checkpoint, `None` if it has none that can be read, which the log says."""
    try:
        tokenizer = from_pretrained(AutoTokenizer, path, revision)
    except UserError as error:
        logger.warning(f"Nothing is compared with the tokenizer of {path}: {error}")
        return None
    return tokenizer if has_words(tokenizer) else None


def longest_text(model: PreTrainedModel) -> int | None:
    """Returns the number of tokens that a model has learned positions for, `None` where it has no such table."""
    for name, module in model.named_modules():
        if not isinstance(module, nn.Embedding):
            continue
        if name.endswith("position_embeddings"):
            # RoBERTa and its kin count from the padding token's id on.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        if name.endswith(("wpe", "positions_embed", "embed_positions")):  # GPT-2, GPT, OPT and their kin
            return model.config.max_position_embeddings
    return None


def _with_padding_token(tokenizer: PreTrainedTokenizerBase, name: str) -> PreTrainedTokenizerBase:
    """Gives a tokenizer of a decoder, which often lacks a padding token, the token for the end of a text as one."""
    if tokenizer.pad_token is None and tokenizer.eos_token is None:
        raise UserError(
            f"The tokenizer {name} has no padding token, and no end-of-text token that could be used for it, so texts "
            "of different lengths make no batch. Set its `pad_token` and save it, or name another with "
            "--tokenizer_name."
        )
    if tokenizer.pad_token is None:
        logger.info(f"The tokenizer has no padding token: {tokenizer.eos_token}, which ends a text, is used for it.")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def set_padding(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Tells a model what its tokenizer pads with: the head of a decoder reads the last token that is not padding."""
    for part in (config, config.get_text_config()):
        part.pad_token_id = tokenizer.pad_token_id


def load_classifier(
    path: str, labels: LabelMap, seed: int = 42, revision: str | None = None, ignore_mismatch: bool = False
) -> tuple[PreTrainedModel, bool]:
    """Loads a checkpoint as a classifier for the labels.

    Args:
        path: Hub name or folder.
        seed: a head that the checkpoint lacks is drawn with it.
        ignore_mismatch: take a head that is trained for other labels for one that is not trained.

    Returns:
        The model in float32 (an fp16 checkpoint would load as fp16), and whether its head is trained for the labels.

    Raises:
        UserError: the checkpoint cannot be read, lacks weights of the encoder, or its head is trained for other
            labels, another order of them or another problem type.
    """
    model, trained_for = load_for_labels(path, labels, seed, revision)
    if trained_for is None:
        return model, False
    return model, _is_trained_for(labels, trained_for, path, ignore_mismatch)


def load_for_labels(
    path: str, labels: LabelMap, seed: int, revision: str | None = None
) -> tuple[PreTrainedModel, LabelMap | None]:
    """Loads a checkpoint with an output for each label, whatever labels it was trained for.

    Returns:
        The model in float32, and the labels that its head was trained for, `None` if its head is new. A problem type
        that the checkpoint does not state is taken to be that of `labels`. What is new is drawn with the seed, also a
        head of another size.

    Raises:
        UserError: the checkpoint cannot be read or lacks weights of the encoder.
    """
    set_seed(seed)
    config = from_pretrained(AutoConfig, path, revision)
    names = tuple(config.id2label[i] for i in sorted(config.id2label))
    trained_for = LabelMap(config.problem_type or labels.problem_type, names)
    for name, value in (
        ("num_labels", labels.num_labels),
        ("id2label", labels.id2label),
        ("label2id", labels.label2id),
    ):
        setattr(config, name, value)
    config.problem_type = labels.problem_type
    if config.get_text_config().pad_token_id is None:  # decoders
        own = _own_tokenizer(path, revision)
        if own is not None:
            set_padding(config, _with_padding_token(own, path))
    model, loading_info = from_pretrained(
        AutoModelForSequenceClassification,
        path,
        revision,
        config=config,
        dtype="float32",
        ignore_mismatched_sizes=True,  # looked at by `load_classifier`, with a message that says more
        output_loading_info=True,
    )
    replaced = [key[0] if isinstance(key, tuple) else key for key in loading_info["mismatched_keys"]]
    new_weights = [*loading_info["missing_keys"], *replaced]
    encoder_weights = [
        key for key in new_weights if key.startswith(f"{model.base_model_prefix}.") and ".pooler." not in key
    ]
    if encoder_weights:
        raise UserError(
            f"The checkpoint {path} lacks {len(encoder_weights)} weights of the encoder, for example "
            f"{encoder_weights[0]}. It is incomplete or of another architecture: fetch it again, or name another."
        )
    return model, None if loading_info["missing_keys"] else trained_for


def _is_trained_for(labels: LabelMap, trained_for: LabelMap, path: str, ignore_mismatch: bool) -> bool:
    """Whether a head is trained for the labels; raises if not, unless that may be ignored."""
    names = trained_for.names
    if trained_for.problem_type != labels.problem_type:
        if ignore_mismatch:
            return False
        raise UserError(
            f"The head of the teacher {path} is trained for {trained_for.problem_type}, but the data are "
            f"{labels.problem_type}: its outputs would be taken for other probabilities than it was trained to give. "
            "Name another teacher, or fine-tune this one with --ignore_mismatched_sizes. If the labels can be read in "
            "both ways, --problem_type says in which."
        )
    if names == labels.names:
        return True
    # Checkpoints on the Hub often differ from the data in case alone: NEGATIVE, negative.
    spelling = {name.casefold(): name for name in labels.names}
    folded = [name.casefold() for name in names]
    if folded == list(spelling):
        return True
    if names == tuple(f"LABEL_{i}" for i in range(labels.num_labels)):
        logger.warning(
            f"The teacher {path} does not name its labels. They are taken to be {', '.join(labels.names)}, in this "
            "order; its accuracy below shows whether that is so."
        )
        return True
    if ignore_mismatch:
        return False
    if sorted(folded) == sorted(spelling):
        order = join_names(spelling[name] for name in folded)
        raise UserError(
            f"The teacher {path} has its labels in the order {order}, the data in the order "
            f"{join_names(labels.names)}. Run again with --label_order {shlex.quote(order)}."
        )
    may_be_the_same = "If they mean the same, write them so in the data. " if len(names) == labels.num_labels else ""
    raise UserError(
        f"The head of the teacher {path} is trained for the labels {join_names(names)}, but the data has "
        f"{join_names(labels.names)}. {may_be_the_same}Name a teacher for these labels or a pretrained encoder, or "
        "fine-tune this one for them with --ignore_mismatched_sizes."
    )
