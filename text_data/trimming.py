"""Keeps the pieces of a tokenizer's vocabulary that the training texts need, and leaves out the others.

    trimmed = trim_vocabulary(data, tokenized, tokenizer, size=8000)
    trimmed.tokenizer("a text")    # the same pieces under new ids
    trimmed.kept                   # for each new id, the old one

A text whose pieces are all kept is written with the same pieces. WordPiece takes the longest piece that fits, Unigram
the pieces with the highest sum of scores, and neither is changed by leaving out pieces that the text does not use. BPE
joins pieces pair by pair; a kept piece keeps every pair that it can be joined from. Other words fall apart into kept
pieces: ASCII, the other characters of the training texts, bytes and special tokens always stay. A character that no
training text has becomes the unknown token where the tokenizer does not write it as bytes.
"""

import json
import logging
import re
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerBase

from layer_distillation.errors import UserError
from text_data.loading import TextClassificationData

logger = logging.getLogger(__name__)

KINDS = ("WordPiece", "BPE", "Unigram")
ASCII = frozenset(map(chr, range(128)))
# How tokenizers write a byte: those of SentencePiece, and those like that of GPT-2.
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
BYTE_SYMBOLS = frozenset(ByteLevel.alphabet())
BATCH_SIZE = 1000


@dataclass(frozen=True)
class TrimmedVocabulary:
    """The kept part of a vocabulary.

    Attributes:
        tokenizer: writes texts with the kept pieces.
        kept: for each of its ids, the id that the piece had before.
        summary: `pieces` and `pieces_before`, their numbers; `other_pieces`, for each split the share of its `tokens`
            that are other pieces, and of its `texts` that have one.
    """

    tokenizer: PreTrainedTokenizerBase
    kept: np.ndarray
    summary: Mapping


def trim_vocabulary(
    data: TextClassificationData,
    tokenized: DatasetDict,
    tokenizer: PreTrainedTokenizerBase,
    size: int | None = None,
) -> TrimmedVocabulary:
    """Trims the vocabulary of a tokenizer to the pieces of the training texts.

    Args:
        tokenized: the splits of `data`, by this tokenizer.
        size: the largest number of pieces to keep, the most frequent ones; `None` for all that the texts have.

    Raises:
        UserError: the tokenizer is none of `KINDS`, or `size` is smaller than the number of pieces that have to stay.
    """
    _check_kind(tokenizer)
    counts = count_pieces(data.splits["train"], data.text_columns, tokenizer)
    trimmed, kept = trim_tokenizer(tokenizer, counts, size)
    summary = {
        "pieces": len(kept),
        "pieces_before": len(tokenizer),
        "other_pieces": {split: _share_of_others(tokenized[split], kept) for split in tokenized},
    }
    shares = [
        f"{split} {share['tokens']:.2%} of the tokens, {share['texts']:.1%} of the texts"
        for split, share in summary["other_pieces"].items()
    ]
    logger.info(
        f"Vocabulary: {len(kept):,} of {len(tokenizer):,} pieces are kept. Other pieces are in {'; '.join(shares)}."
    )
    return TrimmedVocabulary(trimmed, kept, summary)


def _check_kind(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises a `UserError` for a tokenizer without tokenizer.json, or of another kind than `KINDS`."""
    if not tokenizer.is_fast:
        raise UserError(
            f"--trim_vocabulary changes tokenizer.json, which a {type(tokenizer).__name__} does not have. Leave the "
            "option out, or name a checkpoint with a tokenizer.json."
        )
    kind = type(tokenizer.backend_tokenizer.model).__name__
    if kind not in KINDS:
        raise UserError(
            f"--trim_vocabulary knows tokenizers of the kinds {', '.join(KINDS)}, found {kind}. Leave it out."
        )


def count_pieces(texts: Dataset, columns: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Returns how often each piece is in the texts, which are read to their end, by the ids of the pieces."""
    counts = np.zeros(max(tokenizer.get_vocab().values()) + 1, dtype=np.int64)
    for batch in texts.iter(batch_size=BATCH_SIZE):
        for column in columns:
            ids = tokenizer(batch[column], add_special_tokens=False, verbose=False)["input_ids"]
            counts += np.bincount(np.concatenate(ids).astype(np.int64), minlength=len(counts))
    return counts


def token_ids(tokenized: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Returns the `input_ids` of all texts, one after the other, and the number of tokens of each text."""
    column = tokenized.select_columns("input_ids").with_format("arrow")[:]["input_ids"].combine_chunks()
    return column.flatten().to_numpy(), pc.list_value_length(column).to_numpy()


def _share_of_others(tokenized: Dataset, kept: np.ndarray) -> dict[str, float]:
    ids, lengths = token_ids(tokenized)
    is_other = ~np.isin(ids, kept)
    text_of_token = np.repeat(np.arange(len(lengths)), lengths)
    return {
        "tokens": float(is_other.mean()),
        "texts": len(np.unique(text_of_token[is_other])) / len(lengths),
    }


# ---- The tokenizer ----


def trim_tokenizer(
    tokenizer: PreTrainedTokenizerBase, counts: np.ndarray, size: int | None = None
) -> tuple[PreTrainedTokenizerBase, np.ndarray]:
    """Returns a tokenizer with some of the pieces, and for each of its ids the id that the piece had before.

    Args:
        counts: how often each piece is needed, by its id.
        size: as for `trim_vocabulary`.

    Raises:
        UserError: `size` is too small, or the tokenizer does not take its pieces from tokenizer.json.
    """
    special = {*tokenizer.added_tokens_decoder, *tokenizer("", "")["input_ids"]}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        file = Path(folder) / "tokenizer.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        model = content["model"]
        kept = _in_new_order(choose_pieces(model, special, counts, size), model, tokenizer.pad_token_id)
        new_ids = {old: new for new, old in enumerate(kept)}
        file.write_text(json.dumps(_renumbered(content, new_ids), ensure_ascii=False), encoding="utf-8")
        trimmed = type(tokenizer).from_pretrained(folder)
    # The name of the temporary folder would change the hash under which `datasets` keeps the tokenized texts.
    trimmed.name_or_path = trimmed.init_kwargs["name_or_path"] = tokenizer.name_or_path
    expected = {piece: new_ids[old] for piece, old in tokenizer.get_vocab().items() if old in new_ids}
    if trimmed.get_vocab() != expected:
        raise UserError(
            f"--trim_vocabulary: a {type(tokenizer).__name__} does not read all of its pieces from tokenizer.json, so "
            "they cannot be left out. Leave --trim_vocabulary out."
        )
    return trimmed, np.array(kept)


def choose_pieces(model: Mapping, special: Collection[int], counts: np.ndarray, size: int | None) -> set[int]:
    """Returns the ids of the pieces to keep.

    Args:
        model: of the tokenizer.json.
        special: ids of tokens that stay in any case.
        counts, size: as for `trim_tokenizer`.

    Raises:
        UserError: `size` is too small.
    """
    vocabulary = _vocabulary(model)
    parts = _parts(model, vocabulary)
    kept = set()
    for piece in _basic_pieces(model, vocabulary, counts).union(special):
        kept |= _with_parts(piece, parts)
    if size is not None and size < len(kept):
        raise UserError(
            f"--vocabulary_size must be at least {len(kept)} here, found {size}: characters, bytes and special tokens "
            "stay, so that every word of the training texts can be written."
        )
    for piece in np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)].tolist():
        further = _with_parts(piece, parts) - kept
        if size is None or len(kept) + len(further) <= size:
            kept |= further
    return kept


def _vocabulary(model: Mapping) -> dict[str, int]:
    """Returns the ids of the pieces."""
    if model["type"] == "Unigram":
        return {piece: i for i, (piece, _) in enumerate(model["vocab"])}
    return model["vocab"]


def _basic_pieces(model: Mapping, vocabulary: Mapping[str, int], counts: np.ndarray) -> set[int]:
    """Returns the ids of bytes, of the token for unknown characters, and of what no other pieces can spell."""
    known = {character for piece, i in vocabulary.items() if counts[i] for character in piece} | ASCII
    unspelled = (p for p in vocabulary if known.issuperset(p) and not _is_spelled(p, model, vocabulary))
    basic = {vocabulary[piece] for piece in unspelled}
    basic |= {i for piece, i in vocabulary.items() if BYTE.fullmatch(piece)}
    if vocabulary.keys() >= BYTE_SYMBOLS:
        basic |= {vocabulary[symbol] for symbol in BYTE_SYMBOLS}
    if model["type"] == "Unigram":
        # The lowest score decides what an unknown character costs.
        basic.add(min(range(len(model["vocab"])), key=lambda i: model["vocab"][i][1]))
        basic |= {model["unk_id"]} - {None}
    elif model["unk_token"] in vocabulary:
        basic.add(vocabulary[model["unk_token"]])
    return basic


def _is_spelled(piece: str, model: Mapping, vocabulary: Mapping[str, int]) -> bool:
    """Returns whether a piece can be written as its characters, each of them another piece."""
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    characters = list(piece.removeprefix(prefix).removesuffix(suffix))
    starts_word = not prefix or not piece.startswith(prefix)
    spelled = [("" if i == 0 and starts_word else prefix) + character for i, character in enumerate(characters)]
    if spelled and suffix and piece.endswith(suffix):
        spelled[-1] += suffix
    return all(character in vocabulary and character != piece for character in spelled)


def _parts(model: Mapping, vocabulary: Mapping[str, int]) -> Mapping[int, set[int]]:
    """Returns, for the pieces that BPE joins from two others, the ids of all that it can join them from."""
    parts = defaultdict(set)
    for left, right in model.get("merges", ()):
        parts[vocabulary[_joined(left, right, model)]] |= {vocabulary[left], vocabulary[right]}
    return parts


def _joined(left: str, right: str, model: Mapping) -> str:
    return left + right[len(model["continuing_subword_prefix"] or "") :]


def _with_parts(piece: int, parts: Mapping[int, set[int]]) -> set[int]:
    """Returns a piece, its parts, and the parts of its parts."""
    found, waiting = set(), [piece]
    while waiting:
        piece = waiting.pop()
        if piece not in found:
            found.add(piece)
            waiting += parts.get(piece, ())
    return found


def _in_new_order(kept: Collection[int], model: Mapping, pad_token_id: int | None) -> list[int]:
    """Returns the kept ids in the order in which they are numbered again.

    Tokens that were added to the vocabulary follow its pieces, as in every tokenizer. The padding token keeps its id
    where it can: RoBERTa and its kin count positions from this id on.
    """
    in_vocabulary = set(_vocabulary(model).values())
    order = sorted(in_vocabulary.intersection(kept))
    if pad_token_id in order and pad_token_id < len(order):
        order.remove(pad_token_id)
        order.insert(pad_token_id, pad_token_id)
    return order + sorted(set(kept) - in_vocabulary)


def _renumbered(content: Mapping, new_ids: Mapping[int, int]) -> dict:
    """Returns the content of a tokenizer.json with the kept pieces under their new ids."""
    model, vocabulary = dict(content["model"]), _vocabulary(content["model"])
    pieces = {piece: new_ids[old] for piece, old in vocabulary.items() if old in new_ids}
    in_order = sorted(pieces, key=pieces.get)
    if model["type"] == "Unigram":
        scores = dict(map(tuple, model["vocab"]))
        model["vocab"] = [[piece, scores[piece]] for piece in in_order]
        model["unk_id"] = new_ids.get(model["unk_id"])
    else:
        model["vocab"] = {piece: pieces[piece] for piece in in_order}
    if model["type"] == "BPE":
        model["merges"] = [pair for pair in model["merges"] if _joined(*pair, model) in pieces]
    added = [token | {"id": new_ids[token["id"]]} for token in content["added_tokens"]]
    return {
        **content,
        "model": model,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "post_processor": _renumbered_processor(content["post_processor"], new_ids),
        # Both are of the last call, and `transformers` sets them in each.
        "truncation": None,
        "padding": None,
    }


def _renumbered_processor(processor: Mapping | None, new_ids: Mapping[int, int]) -> dict | None:
    """Returns what adds special tokens to a text, with their new ids."""
    if processor is None:
        return None
    processor = dict(processor)
    if processor["type"] == "Sequence":
        processor["processors"] = [_renumbered_processor(part, new_ids) for part in processor["processors"]]
    for name in {"sep", "cls"} & processor.keys():  # of BERT and RoBERTa
        token, old = processor[name]
        processor[name] = [token, new_ids[old]]
    if "special_tokens" in processor:  # of a template
        processor["special_tokens"] = {
            name: token | {"ids": [new_ids[old] for old in token["ids"]]}
            for name, token in processor["special_tokens"].items()
            if new_ids.keys() >= set(token["ids"])
        }
    return processor
