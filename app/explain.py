"""Which words speak for an answer: each is left out in turn, to see how much less sure the model is without it."""

import math
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from app.models import Answer

MAX_WORDS = 60  # each costs a run of the model


class Word(NamedTuple):
    """A word, the white space after it, and what it adds to the log-odds of the label: negative if it speaks against.

    Not to the probability: where that is close to 1, no single word moves it by much.
    """

    text: str
    space: str
    effect: float


async def explain(
    text: str, classify: Callable[[Sequence[str]], Awaitable[list[Answer]]]
) -> tuple[Answer, list[Word], str]:
    """Occludes the first `MAX_WORDS` words one by one.

    Returns:
        The answer to the whole text, its words with their effects, and the rest that was not looked at.
    """
    matches = list(re.finditer(r"(\S+)(\s*)", text))[:MAX_WORDS]
    shorter = [text[: match.start()] + text[match.end() :] for match in matches]
    answer, *others = await classify([text, *shorter])
    words = [
        Word(match[1], match[2], _log_odds(answer, answer.label) - _log_odds(other, answer.label))
        for match, other in zip(matches, others, strict=True)
    ]
    return answer, words, text[matches[-1].end() :] if matches else text


def _log_odds(answer: Answer, label: str) -> float:
    others = sum(score for name, score in answer.scores.items() if name != label)
    return math.log(max(answer.scores[label], 1e-9) / max(others, 1e-9))
