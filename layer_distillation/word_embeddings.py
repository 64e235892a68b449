"""Models that know fewer pieces of words: the embeddings of some ids, numbered again.

    from layer_distillation.word_embeddings import keep_pieces

    keep_pieces(model, kept, tokenized, collator)    # reads the id i as the model reads kept[i]

What depends on the number of pieces is found by comparing the model with one of the same class and a smaller
vocabulary, not by a list of names.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from datasets import Dataset
from transformers import PretrainedConfig, PreTrainedModel

from layer_distillation.encoder_layers import blueprint
from layer_distillation.errors import UserError
from layer_distillation.model_outputs import forward_columns, logits_of, with_model_inputs
from layer_distillation.student_config import encoder_config

CHECKED_EXAMPLES = 8


def keep_pieces(
    model: PreTrainedModel, kept: Sequence[int], tokenized: Dataset, collator: Callable
) -> PreTrainedModel:
    """Returns a model like the given one that reads the id i as the given one reads `kept[i]`.

    Weights are copied bit for bit. The ids of special tokens in the config follow; what is not kept becomes `None`.

    Args:
        model: in `eval()` mode; unchanged.
        kept: different ids of the model.
        tokenized: texts by their new ids. Both models have to give the first of them the same logits.
        collator: pads a list of examples into a batch of tensors.

    Returns:
        The model on the same device, in `eval()` mode, with every parameter trainable.

    Raises:
        UserError: how the model uses its vocabulary is not known, or both models give the texts other logits.
    """
    config, ids = copy.deepcopy(model.config), torch.as_tensor(kept)
    rows = getattr(encoder_config(config), "vocab_size", None)  # models of characters lack it
    if not isinstance(rows, int):
        raise _unknown_use(model, "its config has no `vocab_size`")
    config.name_or_path = ""  # the tokenizer beside that checkpoint has other ids
    encoder_config(config).vocab_size = len(ids)
    new_ids = {old: new for new, old in enumerate(ids.tolist())}
    for part, entry, value in _token_entries(config):
        value = [new_ids.get(old) for old in value] if isinstance(value, list) else new_ids.get(value)
        setattr(part, entry, value)
    smaller = blueprint(model, config)
    shapes = {name: tensor.shape for name, tensor in smaller.state_dict().items()}
    tensors = {}
    for name, tensor in model.state_dict().items():
        for dim, (size, new_size) in enumerate(zip(tensor.shape, shapes[name], strict=True)):
            if size != new_size:
                if (size, new_size) != (rows, len(ids)):
                    raise _unknown_use(model, f"{name} has {size} entries for {rows} pieces")
                tensor = tensor.index_select(dim, ids.to(tensor.device))
        tensors[name] = tensor.clone()
    smaller.load_state_dict(tensors, assign=True)
    smaller.tie_weights()
    smaller = smaller.to(model.device).eval()
    examples = tokenized.select(range(min(CHECKED_EXAMPLES, len(tokenized))))
    _check_logits(model, smaller, ids, collator(with_model_inputs(examples).to_list()))
    return smaller


def _token_entries(config: PretrainedConfig) -> Iterator[tuple[PretrainedConfig, str, int | list[int]]]:
    """Yields the entries of a config and of its parts that hold ids: the config, the name and the value of each."""
    for name, value in config.to_dict().items():
        if name in config.sub_configs and value is not None:
            yield from _token_entries(getattr(config, name))
        elif name.endswith("_token_id") and value is not None:
            yield config, name, value


def _check_logits(
    model: PreTrainedModel, smaller: PreTrainedModel, ids: torch.Tensor, batch: Mapping[str, torch.Tensor]
) -> None:
    """Raises a `UserError` if the models disagree: some look ids up in other ways than by their embeddings."""
    columns = forward_columns(model)
    batch = {name: values.to(model.device) for name, values in batch.items() if name in columns}
    with torch.inference_mode():
        found = logits_of(smaller(**batch))
        expected = logits_of(model(**batch | {"input_ids": ids.to(model.device)[batch["input_ids"]]}))
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-5):
        raise _unknown_use(model, f"the logits of texts change by up to {(found - expected).abs().max():.2g}")


def _unknown_use(model: PreTrainedModel, reason: str) -> UserError:
    return UserError(
        f"--trim_vocabulary leaves out pieces, but how {type(model).__name__} uses them is not known: {reason}. Leave "
        "the option out."
    )
