"""The page: a comment to check, a file of comments to score, and facts about the models.

The handlers run in the server's process and use the same `Service` as the API. What people type gets into the page's
HTML only through `html.escape`.
"""

import asyncio
import base64
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from html import escape
from pathlib import Path

import gradio as gr
from gradio.processing_utils import get_upload_folder

from app.batching import BusyError
from app.comments_file import Comments, read_comments, write_scored
from app.explain import MAX_WORDS, Word, explain
from app.models import Answer, Model
from app.service import MAX_BODY_BYTES, MAX_CHARACTERS, Service, is_blank

TITLE = "Is this comment toxic?"
EXAMPLES = [
    "Thanks for the detailed answer, that saved my weekend.",
    "Only an idiot could come up with something like this.",
    "You are not stupid at all, the question was badly worded.",
    "Well done, genius, now nothing works any more.",
    "She wrote that somebody had called her worthless.",
]
FILE_CHUNK = 64  # texts of a file that wait at the same time, so that other users get their turn
PREVIEW_ROWS = 20
UNWELCOME = ("toxic", "hate", "offensive", "insult", "threat", "obscene", "abuse")
WELCOME = ("not", "non", "neither", "none", "clean", "friendly")

FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
# Darker accents and borders than those of Soft, whose contrast is low.
THEME = gr.themes.Soft(
    primary_hue="indigo", neutral_hue="slate", font=FONT, font_mono=("ui-monospace", "Consolas", "monospace")
).set(
    color_accent="*primary_700",
    body_background_fill="*neutral_100",
    input_border_width="1px",
    input_border_color="*neutral_500",
    input_border_color_dark="*neutral_400",
    checkbox_border_color="*neutral_500",
    checkbox_border_color_dark="*neutral_400",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_secondary_background_fill_hover_dark="*primary_800",
    checkbox_label_background_fill_selected="*primary_600",
    checkbox_label_background_fill_selected_dark="*primary_700",
    link_text_color_dark="*primary_200",
    block_title_text_color="*primary_700",
    block_title_text_color_dark="*primary_100",
    block_label_text_color="*primary_700",
    block_label_text_color_dark="*primary_100",
)
CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
ABOUT = (Path(__file__).parent / "about.html").read_text(encoding="utf-8")
HEAD = '<meta name="description" content="Checks whether a comment is toxic, with a small model on this machine.">'
# Screen readers announce changes of these elements and pronounce them in the page's language. Comments may run from
# right to left.
SCRIPT = """() => {
    document.documentElement.lang = "en";
    document.querySelector("#comment textarea").dir = "auto";
    for (const element of document.querySelectorAll("#result, #file-result")) {
        element.setAttribute("role", "status");
        element.setAttribute("aria-live", "polite");
    }
}"""


class Page(gr.Blocks):
    """Blocks that open only uploaded files and keep no sessions.

    Gradio opens any file of the server that a request names, or fetches the address. It also keeps what was typed and
    answered in the last 10,000 sessions.
    """

    async def process_api(self, block_fn, inputs, state=None, **options):
        _check_files(inputs)
        return await super().process_api(block_fn, inputs, state=None, **options)


def _check_files(data) -> None:
    """Refuses JSON data that names a file which was not uploaded."""
    if isinstance(data, dict):
        path = data.get("path")
        if isinstance(path, str) and not Path(path).resolve().is_relative_to(Path(get_upload_folder()).resolve()):
            raise gr.Error("Files come by upload only.", print_exception=False)
        data = list(data.values())
    if isinstance(data, list):
        for entry in data:
            _check_files(entry)


def build_page(service: Service) -> gr.Blocks:
    """Returns the page as Gradio blocks, for the server to mount."""
    names = list(service.models)

    async def check(text: str, chosen: Sequence[str]) -> str:
        return await _cards(service, text, chosen, _check)

    async def check_words(text: str, chosen: Sequence[str]) -> str:
        return await _cards(service, text, chosen, _check_words)

    async def score_file(path: str, name: str, progress=gr.Progress()) -> tuple[None, str]:  # noqa: B008, Gradio's way
        file = Path(path)
        try:
            content = file.read_bytes()
        finally:
            file.unlink()  # nothing that people upload is kept
        try:
            return None, await _score_file(service, service.models[name], content, file.name, progress)
        except ValueError as error:
            return None, _problem(f"{file.name} cannot be scored. {error}")

    # Incomplete uploads are removed within minutes.
    with Page(title=TITLE, analytics_enabled=False, delete_cache=(60, 300)) as page:
        gr.HTML(
            f"<h1>{TITLE}</h1><p>Type a comment, and a small language model on this machine says what it thinks. It "
            "is often right and sometimes badly wrong: never let it decide about people. What you type is not "
            "stored.</p>",
            elem_id="intro",
        )
        with gr.Tab("A comment"):
            text = gr.Textbox(
                label="Comment",
                placeholder="Type or paste a comment",
                lines=3,
                max_lines=12,
                max_length=MAX_CHARACTERS,
                elem_id="comment",
            )
            chosen = gr.CheckboxGroup(names, value=names, label="Models", visible=len(names) > 1, elem_id="models")
            with gr.Row():
                check_button = gr.Button("Check", variant="primary", elem_id="check")
                words_button = gr.Button("Check and mark words", elem_id="check-words")
            result = gr.HTML(elem_id="result")
            gr.Examples(
                [[example] for example in EXAMPLES], inputs=[text], label="Examples: choose one, then check it"
            )
        with gr.Tab("A file") as file_tab:
            gr.HTML(
                "<p>Choose a CSV file (UTF-8, with a header; the comments in a column <code>text</code> or "
                "<code>comment</code>; between columns commas, semicolons or tabs; at most "
                f"{MAX_BODY_BYTES // 1_000_000} MB). You get the same rows back with a label and a score for every "
                "class. The file is deleted as soon as it has been read.</p>"
            )
            file_model = gr.Radio(names, value=names[0], label="Model", visible=len(names) > 1, elem_id="file-model")
            file = gr.File(label="CSV file", file_types=[".csv"], elem_id="file", height=140)
            file_result = gr.HTML(elem_id="file-result")
        with gr.Tab("About"):
            gr.HTML("".join(_about(model) for model in service.models.values()) + ABOUT, elem_id="about")

        # The content of the tab is created when the tab is first shown.
        file_tab.select(None, js=SCRIPT)
        hidden = {"api_visibility": "private", "show_progress": "minimal"}
        check_button.click(check, [text, chosen], result, **hidden)
        text.submit(check, [text, chosen], result, **hidden)
        words_button.click(check_words, [text, chosen], result, **hidden)
        file.upload(
            score_file,
            [file, file_model],
            [file, file_result],
            api_visibility="private",
            show_progress="full",
            show_progress_on=file_result,
        )
    # Sessions keep nothing here, but each of Gradio's 10,000 takes 50 kB.
    page.state_session_capacity = 100
    # As many visitors as the batches can serve at a time. More visitors wait; beyond `max_size` they are refused.
    return page.queue(default_concurrency_limit=64, max_size=512, api_open=False)


async def _cards(
    service: Service, text: str, chosen: Sequence[str], check: Callable[[Service, Model, str], Awaitable[str]]
) -> str:
    """Returns the answers of the chosen models side by side, or the reason why there are none."""
    # A browser can send half a surrogate pair, for which the tokenizer would refuse the whole batch.
    text = (text or "").encode(errors="replace").decode()
    if is_blank(text):
        return _problem("There is nothing to check yet. Please type a comment first.")
    if len(text) > MAX_CHARACTERS:
        return _problem(f"Comments may have {MAX_CHARACTERS:,} characters, this one has {len(text):,}.")
    if not chosen:
        return _problem("Please choose at least one model.")
    try:
        cards = await asyncio.gather(*(check(service, service.models[name], text) for name in chosen))
    except BusyError:
        return _problem("Many people are asking at the moment. Please try again in a few seconds.")
    return f'<div class="cards">{"".join(cards)}</div>'


async def _check(service: Service, model: Model, text: str) -> str:
    started = time.perf_counter()
    (answer,) = await service.classify([text], model.name)
    return _card(model, answer, time.perf_counter() - started)


async def _check_words(service: Service, model: Model, text: str) -> str:
    started = time.perf_counter()
    answer, words, rest = await explain(text, lambda texts: service.classify(texts, model.name))
    return _card(model, answer, time.perf_counter() - started, _highlighted(words, rest, answer.label))


async def _score_file(service: Service, model: Model, content: bytes, file_name: str, progress: gr.Progress) -> str:
    started = time.perf_counter()
    # In a thread: reading and writing a large file takes a second or more, and other requests must be answered.
    comments = await asyncio.to_thread(read_comments, content, MAX_CHARACTERS)
    texts = [row[comments.column] for row in comments.rows]
    answers: list[Answer | None] = [None] * len(texts)
    indices = [index for index, text in enumerate(texts) if not is_blank(text)]
    for start in range(0, len(indices), FILE_CHUNK):
        progress((start, len(indices)), desc="Scoring", unit="comments")
        chunk = indices[start : start + FILE_CHUNK]
        while True:
            try:
                scored = await service.classify([texts[index] for index in chunk], model.name)
                break
            except BusyError:
                await asyncio.sleep(0.5)  # files can wait
        for index, answer in zip(chunk, scored, strict=True):
            answers[index] = answer
    return await asyncio.to_thread(_scored, comments, answers, model, file_name, time.perf_counter() - started)


# ---- HTML ----


def _problem(message: str) -> str:
    return f'<p class="problem">{escape(message)}</p>'


def _in_words(label: str) -> str:
    """Returns a class name as people write it: "Not toxic" for `not_toxic`."""
    return label.replace("_", " ").strip().capitalize()


def _tone(label: str) -> str:
    """Returns which color a label has: welcome, unwelcome or neutral."""
    words = re.findall(r"[^\W_]+", label.casefold()) or [""]
    if words[0] in WELCOME:
        return "welcome"
    return "unwelcome" if any(word in UNWELCOME for word in words) else "neutral"


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f} %"


def _card(model: Model, answer: Answer, seconds: float, words: str = "") -> str:
    bars = "".join(
        f'<tr><th scope="row">{escape(_in_words(label))}</th><td class="bar"><span class="{_tone(label)}" '
        f'style="width: {100 * score:.1f}%"></span></td><td class="number">{_percent(score)}</td></tr>'
        for label, score in answer.scores.items()
    )
    truncated = (
        f'<p class="note">The model has read only the first {model.max_length} tokens of this comment.</p>'
        if answer.truncated
        else ""
    )
    return (
        f'<section class="card {_tone(answer.label)}"><h2>{escape(_in_words(answer.label))}</h2>'
        f'<table class="scores"><caption>Probability of each class</caption><tbody>{bars}</tbody></table>'
        f'{truncated}{words}<p class="note"><span class="model">{escape(model.name)}</span> ({escape(model.backend)}) '
        f"answered in {1000 * seconds:.0f} ms</p></section>"
    )


def _scored(comments: Comments, answers: Sequence[Answer | None], model: Model, file_name: str, seconds: float) -> str:
    """Returns the number of comments by label, the scored file for download, and its first rows."""
    # The file is part of the page, so that the server keeps nothing for the download.
    encoded = base64.b64encode(write_scored(comments, answers, model.labels).encode("utf-8-sig")).decode()
    labels = Counter(answer.label for answer in answers if answer)
    found = ", ".join(f"{labels[label]:,} {_in_words(label).lower()}" for label in model.labels)
    num_blank = answers.count(None)
    blank = f", {num_blank:,} blank" if num_blank else ""
    preview = "".join(
        f'<tr><td dir="auto">{escape(row[comments.column])}</td>'
        f"<td>{escape(_in_words(answer.label)) if answer else '–'}</td>"
        f"<td>{_percent(answer.scores[answer.label]) if answer else '–'}</td></tr>"
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
        '<th scope="col">Comment</th><th scope="col">Label</th><th scope="col">Probability</th></tr></thead>'
        f"<tbody>{preview}</tbody></table></div>{more}"
    )


def _highlighted(words: Sequence[Word], rest: str, label: str) -> str:
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
        f"<em>{escape(_in_words(label).lower())}</em>: {said}. Underlined words speak against it.{note}</p>"
    )


def _about(model: Model) -> str:
    """Returns facts about a model, from the metrics of its export."""
    metrics = model.metrics
    facts = {"Runs as": model.backend, "Classes": ", ".join(map(_in_words, model.labels))}
    if metrics:
        facts["Trained on"] = metrics["data"]
        facts["Size"] = f"{metrics['layers']} layers, {metrics['parameters'] / 1e6:.1f} million parameters"
        facts["Reads"] = f"the first {model.max_length} tokens of a comment"
        scores = metrics["int8" if "int8" in model.backend else "float32"]
        for split in ("validation", "test"):
            if split in scores:
                facts[f"{split.capitalize()} split"] = (
                    f"accuracy {_percent(scores[split]['accuracy'])}, macro-F1 {_percent(scores[split]['macro_f1'])}"
                )
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in facts.items()
    )
    return f'<h2>{escape(model.name)}</h2><div class="scroll" tabindex="0"><table><tbody>{rows}</tbody></table></div>'
