"""The page: a comment to check, a file of comments to score, and facts about the models.

The handlers run in the server's process and use the same `Service` as the API. `app.cards` and `app.about` write the
HTML.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import gradio as gr
from gradio.processing_utils import get_upload_folder

from app.about import describe
from app.batching import BusyError
from app.cards import card, highlighted, problem, scored
from app.comments_file import read_comments
from app.explain import explain
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
            return None, problem(f"{file.name} cannot be scored. {error}")

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
                f"{MAX_BODY_BYTES // 1_000_000} MB). You get the same rows back with their labels and a score for "
                "every label. The file is deleted as soon as it has been read.</p>"
            )
            file_model = gr.Radio(names, value=names[0], label="Model", visible=len(names) > 1, elem_id="file-model")
            file = gr.File(label="CSV file", file_types=[".csv"], elem_id="file", height=140)
            file_result = gr.HTML(elem_id="file-result")
        with gr.Tab("About"):
            gr.HTML("".join(describe(model) for model in service.models.values()) + ABOUT, elem_id="about")

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
    page.queue(default_concurrency_limit=64, max_size=512, api_open=False)
    # Seconds between two looks for events, for which a click may wait. Gradio's 0.001 and 0.01 take time from every
    # request, and from an app that nobody uses.
    page._queue.sleep_when_free, page._queue.progress_update_sleep_when_free = 0.02, 0.1
    return page


async def _cards(
    service: Service, text: str, chosen: Sequence[str], check: Callable[[Service, Model, str], Awaitable[str]]
) -> str:
    """Returns the answers of the chosen models side by side, or the reason why there are none."""
    # A browser can send half a surrogate pair, for which the tokenizer would refuse the whole batch.
    text = (text or "").encode(errors="replace").decode()
    if is_blank(text):
        return problem("There is nothing to check yet. Please type a comment first.")
    if len(text) > MAX_CHARACTERS:
        return problem(f"Comments may have {MAX_CHARACTERS:,} characters, this one has {len(text):,}.")
    if not chosen:
        return problem("Please choose at least one model.")
    try:
        cards = await asyncio.gather(*(check(service, service.models[name], text) for name in chosen))
    except BusyError:
        return problem("Many people are asking at the moment. Please try again in a few seconds.")
    return f'<div class="cards">{"".join(cards)}</div>'


async def _check(service: Service, model: Model, text: str) -> str:
    started = time.perf_counter()
    (answer,) = await service.classify([text], model.name)
    return card(model, answer, time.perf_counter() - started)


async def _check_words(service: Service, model: Model, text: str) -> str:
    started = time.perf_counter()
    answer, words, rest = await explain(text, lambda texts: service.classify(texts, model.name))
    return card(model, answer, time.perf_counter() - started, highlighted(words, rest, answer.most_probable))


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
                chunk_answers = await service.classify([texts[index] for index in chunk], model.name)
                break
            except BusyError:
                await asyncio.sleep(0.5)  # files can wait
        for index, answer in zip(chunk, chunk_answers, strict=True):
            answers[index] = answer
    return await asyncio.to_thread(scored, comments, answers, model, file_name, time.perf_counter() - started)
