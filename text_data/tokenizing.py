"""Tokenizes every split, cached on disk."""

import logging
import os

from datasets import DatasetDict
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerBase

from layer_distillation.errors import UserError
from text_data.arguments import MULTIPROCESSING_MIN_ROWS, DataArguments
from text_data.hub import writable_cache_dir
from text_data.loading import TextClassificationData

logger = logging.getLogger(__name__)


def tokenize(
    data: TextClassificationData, tokenizer: PreTrainedTokenizerBase, data_args: DataArguments
) -> DatasetDict:
    """Tokenise every split, truncated to `max_seq_length` and the tokenizer's own limit, not padded.

    The result is cached on disk, and found again by the data, the tokenizer and the length. Under a distributed
    launch call it in `training_args.main_process_first()`, so that the other processes read the cache.

    Returns:
        The same splits with the columns input_ids, attention_mask, token_type_ids (if the tokenizer has them), labels
        (if known).

    Raises:
        UserError: `max_seq_length` leaves no room for text.
    """
    max_length = min(data_args.max_seq_length, tokenizer.model_max_length)
    num_special_tokens = tokenizer.num_special_tokens_to_add(pair=len(data.text_columns) == 2)
    if max_length < num_special_tokens + len(data.text_columns):  # tokenizers would not truncate at all, silently
        raise UserError(
            f"max_seq_length must leave room for text beside {num_special_tokens} special tokens, but found "
            f"{max_length}. Raise it to at least {num_special_tokens + len(data.text_columns)}."
        )
    if max_length < data_args.max_seq_length:
        logger.warning(f"max_seq_length is {data_args.max_seq_length}, but the tokenizer's limit is {max_length}.")

    # Nested, because then the hash that names the cache file covers its code and everything it refers to.
    def encode(batch):
        encoded = tokenizer(*(batch[column] for column in text_columns), truncation=True, max_length=max_length)
        if "label" in batch:
            encoded["labels"] = batch["label"]
        return encoded

    text_columns = data.text_columns
    encode_hash = Hasher.hash(encode)
    cache_dir = writable_cache_dir() / "tokenized"
    cache_dir.mkdir(parents=True, exist_ok=True)
    tokenized = DatasetDict()
    for name, split in data.splits.items():
        # Left to itself, `map` writes next to the data, which may be a read-only folder, and does not cache at all
        # what came from a file.
        default_workers = os.cpu_count() if len(split) >= MULTIPROCESSING_MIN_ROWS else None
        fingerprint = Hasher.hash((split._fingerprint, encode_hash))
        tokenized[name] = split.map(
            encode,
            batched=True,
            remove_columns=split.column_names,
            num_proc=data_args.preprocessing_num_workers or default_workers,
            cache_file_name=str(cache_dir / f"{fingerprint}.arrow"),
            new_fingerprint=fingerprint,
            load_from_cache_file=not data_args.overwrite_cache,
            desc=f"Tokenising {name}",
        )
    return tokenized
