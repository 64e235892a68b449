"""Finds the words that count for an answer, by leaving out each word and measuring how much less sure the model is.

answer, words, rest = await explain("I hate you", batcher.classify)
"""

import math
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from app.models import Answer

MAX_WORDS = 60  # each costs a run of the model


class Word(NamedTuple):
    """A word, the white space after it, and what it adds to the label's log-odds: negative if it speaks against it.

    Log-odds, because no single word changes a probability close to 1 by much.
    """

    text: str
    space: str
    effect: float


async def explain(
    text: str, classify: Callable[[Sequence[str]], Awaitable[list[Answer]]]
) -> tuple[Answer, list[Word], str]:
    """Leaves out the first `MAX_WORDS` words, one at a time.

    Returns:
        The answer to the whole text, the words with their effects on its most probable label, and the rest of the
        text, whose words were not left out.
    """
    matches = list(re.finditer(r"(\S+)(\s*)", text))[:MAX_WORDS]
    shorter = [text[: match.start()] + text[match.end() :] for match in matches]
    answer, *others = await classify([text, *shorter])
    label = answer.most_probable
    words = [
        Word(match[1], match[2], _log_odds(answer.scores[label]) - _log_odds(other.scores[label]))
        for match, other in zip(matches, others, strict=True)
    ]
    return answer, words, text[matches[-1].end() :] if matches else text


def _log_odds(probability: float) -> float:
    return math.log(max(probability, 1e-9) / max(1 - probability, 1e-9))
