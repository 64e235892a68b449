"""What the page shows about answers, as HTML: cards, marked words and scored files.

What people type gets into the HTML only through `html.escape`.
"""

import base64
import re
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path

from app.comments_file import Comments, write_scored
from app.explain import MAX_WORDS, Word
from app.models import Answer, Model

PREVIEW_ROWS = 20
UNWELCOME = (
    "toxic",
    "toxicity",
    "target",
    "hate",
    "offensive",
    "insult",
    "threat",
    "obscene",
    "profanity",
    "abuse",
    "attack",
    "explicit",
)
WELCOME = ("not", "non", "neither", "none", "clean", "friendly")


def problem(message: str) -> str:
    return f'<p class="problem">{escape(message)}</p>'


def in_words(*labels: str) -> str:
    """Returns labels as people write them: "Not toxic" for `not_toxic`; "No label" if there is none."""
    return ", ".join(label.replace("_", " ").strip() for label in labels).capitalize() or "No label"


def _tone(label: str) -> str:
    """Returns which color a label has: welcome, unwelcome or neutral."""
    words = re.findall(r"[^\W_]+", label.casefold()) or [""]
    if words[0] in WELCOME:
        return "welcome"
    return "unwelcome" if any(word in UNWELCOME for word in words) else "neutral"


def percent(probability: float) -> str:
    return f"{100 * probability:.1f} %"


def tone_of_all(labels: Sequence[str]) -> str:
    """Returns the tone of an answer: the least welcome one of its labels."""
    return max(map(_tone, labels), key=("welcome", "neutral", "unwelcome").index, default="neutral")


def card(model: Model, answer: Answer, seconds: float, words: str = "") -> str:
    """Returns an answer with a bar for the probability of each label, and with marks at the thresholds if it has any.

    Args:
        words: the comment with marked words, as HTML.
    """
    bars = "".join(_bar(label, score, answer) for label, score in answer.scores.items())
    notes = []
    if answer.thresholds is not None:
        notes.append("A comment has a label if its probability reaches the line.")
    if answer.truncated:
        notes.append(f"The model has read only the first {model.max_length} tokens of this comment.")
    return (
        f'<section class="card {tone_of_all(answer.labels)}"><h2>{escape(in_words(*answer.labels))}</h2>'
        f'<table class="scores"><caption>Probability of each label</caption><tbody>{bars}</tbody></table>'
        f'{"".join(f"""<p class="note">{note}</p>""" for note in notes)}{words}'
        f'<p class="note"><span class="model">{escape(model.name)}</span> ({escape(model.backend)}) '
        f"answered in {1000 * seconds:.0f} ms</p></section>"
    )


def _bar(label: str, score: float, answer: Answer) -> str:
    threshold, mark = "", ""
    if answer.thresholds is not None:
        at = answer.thresholds[label]
        mark = f'<i style="left: {100 * at:.1f}%" title="threshold {percent(at)}"></i>'
        threshold = f" <small>from {percent(at)}</small>"
    tone = _tone(label) if label in answer.labels or answer.thresholds is None else "below"
    return (
        f'<tr><th scope="row">{escape(in_words(label))}</th><td class="bar"><div><span class="{tone}" '
        f'style="width: {100 * score:.1f}%"></span>{mark}</div></td>'
        f'<td class="number">{percent(score)}{threshold}</td></tr>'
    )


def scored(comments: Comments, answers: Sequence[Answer | None], model: Model, file_name: str, seconds: float) -> str:
    """Returns the number of comments by label, the scored file for download, and its first rows."""
    # The file is part of the page, so that the server keeps nothing for the download.
    encoded = base64.b64encode(write_scored(comments, answers, model.labels).encode("utf-8-sig")).decode()
    labels = Counter(label for answer in answers if answer for label in answer.labels)
    found = ", ".join(f"{labels[label]:,} {in_words(label).lower()}" for label in model.labels)
    num_blank = answers.count(None)
    blank = f", {num_blank:,} blank" if num_blank else ""
    preview = "".join(
        f'<tr><td dir="auto">{escape(row[comments.column])}</td>'
        f"<td>{escape(in_words(*answer.labels)) if answer else '–'}</td>"
        f"<td>{percent(answer.scores[answer.most_probable]) if answer else '–'}</td></tr>"
        for row, answer in zip(comments.rows[:PREVIEW_ROWS], answers)
    )
    count = "1 comment" if len(answers) == 1 else f"{len(answers):,} comments"
    more = f"<p>The first {PREVIEW_ROWS} of {count}.</p>" if len(answers) > PREVIEW_ROWS else ""
    return (
        f"<p><bdi>{escape(file_name)}</bdi>: <strong>{count}</strong>, {escape(found)}{blank}. "
        f"{escape(model.name)} took {seconds:.1f} s.</p>"
        f'<p><a class="download-scored" download="{escape(Path(file_name).stem)}-scored.csv" '
        f'href="data:text/csv;charset=utf-8;base64,{encoded}">Download the scored file</a></p>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Scored comments"><table><thead><tr>'
        '<th scope="col">Comment</th><th scope="col">Label</th><th scope="col">Highest probability</th></tr></thead>'
        f"<tbody>{preview}</tbody></table></div>{more}"
    )


def highlighted(words: Sequence[Word], rest: str, label: str) -> str:
    """Returns the text with the words that count marked, and the strongest words by name for who cannot see marks."""
    most = max((abs(word.effect) for word in words), default=0)
    least = max(0.15 * most, 0.1)  # smaller effects are noise
    pieces = []
    for word in words:
        text = escape(word.text)
        if abs(word.effect) >= least:
            kind = "for" if word.effect > 0 else "against"
            text = f'<mark class="{kind}" style="--strength: {abs(word.effect) / most:.2f}">{text}</mark>'
        pieces.append(text + escape(word.space))
    strongest = sorted((word for word in words if word.effect >= least), key=lambda word: -word.effect)[:3]
    said = ", ".join(f"“<bdi>{escape(word.text)}</bdi>”" for word in strongest) or "no single word"
    note = f" Only the first {MAX_WORDS} words were looked at." if rest else ""
    return (
        f'<p class="words" dir="auto">{"".join(pieces)}{escape(rest)}</p><p class="note">Most for '
        f"<em>{escape(in_words(label).lower())}</em>: {said}. Underlined words speak against it.{note}</p>"
    )
