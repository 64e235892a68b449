"""Tokenizes every split, cached on disk.

    tokenized = tokenize(data, tokenizer, data_args)
    tokenized["train"][0]    # {"input_ids": [101, ...], "attention_mask": [1, ...], "labels": 1}

The examples are not padded: `DataCollatorWithPadding(tokenizer)` pads the batches of a Trainer.
"""

import logging

import joblib
from datasets import DatasetDict
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerBase

from layer_distillation.errors import UserError
from layer_distillation.stored_columns import TEACHER_LOGITS
from text_data.arguments import MULTIPROCESSING_MIN_ROWS, DataArguments
from text_data.caches import writable_cache
from text_data.columns import check_none_missing
from text_data.loading import TextClassificationData
from text_data.trimming import token_ids

logger = logging.getLogger(__name__)


def tokenize(
    data: TextClassificationData, tokenizer: PreTrainedTokenizerBase, data_args: DataArguments
) -> DatasetDict:
    """Tokenizes every split, truncated to `max_seq_length` and the tokenizer's own limit, not padded.

    The result is cached on disk under a hash of the data, the tokenizer and the length. Under a distributed launch
    call it in `training_args.main_process_first()`, so that the other processes read the cache.

    Returns:
        The same splits with the columns input_ids, attention_mask, token_type_ids (if the tokenizer has them), labels
        and teacher_logits (if known).

    Raises:
        UserError: `max_seq_length` leaves no room for text, or a text has no tokens.
    """
    text_columns = data.text_columns
    max_length = min(data_args.max_seq_length, tokenizer.model_max_length)
    num_special_tokens = tokenizer.num_special_tokens_to_add(pair=len(text_columns) == 2)
    # Below one token a text the tokenizers would not truncate at all, without an error.
    if max_length < num_special_tokens + len(text_columns):
        raise UserError(
            f"--max_seq_length must leave room for text beside {num_special_tokens} special tokens, found "
            f"{max_length}. Raise it to at least {num_special_tokens + len(text_columns)}."
        )
    if max_length < data_args.max_seq_length:
        logger.warning(f"--max_seq_length is {data_args.max_seq_length}, but the tokenizer's limit is {max_length}.")

    # Nested, because then the hash that names the cache file covers its code and everything it refers to.
    def encode(batch):
        encoded = tokenizer(*(batch[column] for column in text_columns), truncation=True, max_length=max_length)
        if "label" in batch:
            encoded["labels"] = batch["label"]
        if TEACHER_LOGITS in batch:
            encoded[TEACHER_LOGITS] = batch[TEACHER_LOGITS]
        return encoded

    encode_hash = Hasher.hash(encode)
    cache = writable_cache("tokenized")
    tokenized = DatasetDict()
    for name, split in data.splits.items():
        default_workers = joblib.cpu_count() if len(split) >= MULTIPROCESSING_MIN_ROWS else None
        # By default `map` writes next to the data, which may be a read-only folder, and keeps nothing of what came
        # from a file.
        fingerprint = Hasher.hash((split._fingerprint, encode_hash))
        tokenized[name] = split.map(
            encode,
            batched=True,
            remove_columns=split.column_names,
            num_proc=data_args.preprocessing_num_workers or default_workers,
            cache_file_name=str(cache / f"{fingerprint}.arrow"),
            new_fingerprint=fingerprint,
            load_from_cache_file=not data_args.overwrite_cache,
            desc=f"Tokenizing {name}",
        )
        if num_special_tokens == 0:  # models cannot read nothing
            _, lengths = token_ids(tokenized[name])
            check_none_missing("text", [length or None for length in lengths.tolist()], f"split {name!r}")
    return tokenized


def prepare_for_saving(tokenizer: PreTrainedTokenizerBase, max_seq_length: int) -> None:
    """Gives the tokenizer the limit of its model, and removes what it has kept of padding and truncation.

    A tokenizer keeps padding and truncation of its last call and saves them. Programs that read `tokenizer.json`
    alone, such as the app, would then pad every text.
    """
    tokenizer.model_max_length = min(max_seq_length, tokenizer.model_max_length)
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
