"""Texts for `identity_bias.py`: which are toxic, and which identities each of them mentions.

    args = IdentityArguments(identity_file="intersectional.csv", identity_text_column="phrase")
    texts = read_identity_texts(args)
    texts.mentions["gay"]                                       # `(texts,)`, booleans
    toxic_probabilities(logits, labels, args)                   # `(texts,)`

An identity is a column of the file, as in Civil Comments, or else a word of the text, as in templates.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from layer_distillation.errors import UserError
from layer_distillation.problem_types import MULTI_LABEL
from text_data.answers import probabilities_of
from text_data.columns import NUMBER, is_string
from text_data.files import READERS, read_file
from text_data.label_columns import share_of
from text_data.labels import LabelMap
from text_data.names import split_words

# The identities of Perspective's templates.
IDENTITIES = (
    *("lesbian", "gay", "bisexual", "transgender", "trans", "cis", "queer", "lgbt", "lgbtq", "homosexual", "straight"),
    *("heterosexual", "male", "female", "nonbinary", "african", "african american", "black", "white", "european"),
    *("hispanic", "latino", "latina", "latinx", "mexican", "canadian", "american", "asian", "indian"),
    *("middle eastern", "chinese", "japanese", "christian", "muslim", "jewish", "buddhist", "catholic", "protestant"),
    *("sikh", "taoist", "old", "older", "young", "younger", "teenage", "millenial", "middle aged", "elderly", "blind"),
    *("deaf", "paralyzed"),
)
# From this share of annotators on, a text counts as toxic, and an identity as mentioned.
MAJORITY = 0.5


@dataclass
class IdentityArguments:
    """Texts that mention identities, for AUCs and error rates by identity."""

    identity_file: str | None = field(
        default=None,
        metadata={"help": "File (csv, tsv, json, jsonl, parquet) to measure identity bias on. Unset: no measurement."},
    )
    identity_text_column: str = field(default="text", metadata={"help": "Its column with the texts."})
    identity_label_column: str = field(
        default="label", metadata={"help": "Its column with the label, or with the share (0 to 1) that says 'toxic'."}
    )
    toxic_labels: list[str] = field(
        default_factory=lambda: ["toxic"],
        metadata={
            "help": "Labels that count as toxic, in the file and among the model's labels. If these are independent "
            "of each other, the most probable one counts."
        },
    )
    identities: list[str] = field(
        default_factory=lambda: list(IDENTITIES),
        metadata={
            "help": "Columns (0/1 or shares of annotators); a name that is no column is looked for as a word in the "
            "texts. Unset: 51 common words."
        },
    )

    def __post_init__(self):
        self.toxic_labels, self.identities = split_words(self.toxic_labels), split_words(self.identities)

    def toxic_positions(self, label_names: Sequence[str]) -> list[int]:
        """Returns the positions of the toxic ones among a model's labels.

        Raises:
            UserError: none of them counts as toxic.
        """
        positions = [position for position, name in enumerate(label_names) if name in self.toxic_labels]
        if not positions:
            raise UserError(
                f"--toxic_labels must name some of the model's labels, {', '.join(label_names)}; found "
                f"{', '.join(self.toxic_labels)}."
            )
        return positions


@dataclass(frozen=True)
class IdentityTexts:
    """Texts of a file.

    Attributes:
        source: name of the file.
        is_toxic: `(texts,)`, booleans.
        mentions: by identity, `(texts,)`, booleans.
    """

    source: str
    texts: Sequence[str]
    is_toxic: np.ndarray
    mentions: Mapping[str, np.ndarray]


def read_identity_texts(args: IdentityArguments) -> IdentityTexts:
    """Reads the texts of `--identity_file`.

    Rows whose identity columns are all empty are left out: nobody was asked which identities they mention.

    Raises:
        UserError: the file is missing or of an unknown form, lacks a column, or holds a value that is no label.
    """
    path = Path(args.identity_file)
    if path.suffix.lower() not in READERS or not path.is_file():
        raise UserError(
            f"--identity_file must be a file whose name ends in {', '.join(READERS)}, found {args.identity_file!r}."
        )
    data = read_file(path)
    for option, column in (
        ("identity_text_column", args.identity_text_column),
        ("identity_label_column", args.identity_label_column),
    ):
        if column not in data.column_names:
            raise UserError(f"--{option} must be one of {', '.join(data.column_names)}, found {column!r}.")
    if not is_string(data.features[args.identity_text_column]):
        raise UserError(
            f"--identity_text_column must hold texts, but {args.identity_text_column} of {args.identity_file} holds "
            f"{data.features[args.identity_text_column]}."
        )
    columns = [name for name in args.identities if name in data.column_names]
    rows = [row for row in data.to_list() if not columns or any(_is_known(row[column]) for column in columns)]
    texts = [row[args.identity_text_column] or "" for row in rows]
    return IdentityTexts(
        source=path.name,
        texts=texts,
        is_toxic=np.array([_is_toxic(row[args.identity_label_column], args) for row in rows], dtype=bool),
        mentions={
            name: np.array([_is_mentioned(row[name], name) for row in rows], dtype=bool)
            if name in columns
            else _mention(texts, name)
            for name in args.identities
        },
    )


def _is_toxic(value: object, args: IdentityArguments) -> bool:
    if str(value) in args.toxic_labels:
        return True
    share = share_of(value)
    if share is None and isinstance(value, str) and not NUMBER.fullmatch(value):
        return False  # the name of another label
    if share is None or math.isnan(share):
        raise UserError(
            f"--identity_label_column {args.identity_label_column} must hold a label or a share from 0 to 1 in every "
            f"row, found {value!r}. Ids of labels are no shares: name the toxic ones by --toxic_labels."
        )
    return share >= MAJORITY


def _is_known(value: object) -> bool:
    share = share_of(value)
    return share is None or not math.isnan(share)  # what is no share is refused by `_is_mentioned`


def _is_mentioned(value: object, column: str) -> bool:
    share = share_of(value)
    if share is None:
        raise UserError(f"The column {column} of --identity_file must hold numbers from 0 to 1, found {value!r}.")
    return share >= MAJORITY  # NaN, nobody was asked, is no majority


def _mention(texts: Sequence[str], word: str) -> np.ndarray:
    pattern = re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE)
    return np.array([pattern.search(text) is not None for text in texts], dtype=bool)


def toxic_probabilities(logits: np.ndarray, labels: LabelMap, args: IdentityArguments) -> np.ndarray:
    """Returns the probability that a text is toxic.

    That is the sum over the toxic labels of a model that chooses one label, and the highest of their probabilities
    where labels are independent of each other.

    Args:
        logits: `(..., labels)`.

    Raises:
        UserError: as `IdentityArguments.toxic_positions`.
    """
    toxic = probabilities_of(logits, labels.problem_type)[..., args.toxic_positions(labels.names)]
    return toxic.max(axis=-1) if labels.problem_type == MULTI_LABEL else toxic.sum(axis=-1)
