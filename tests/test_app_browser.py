"""Tests of the running app: its page in headless Chromium, as a person would use it, and what it keeps to itself."""

import base64
import csv
import io
import os
import re
import shutil
import subprocess
import sys
import threading

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

from app.about import describe
from app.cards import card
from app.models import load_model
from tests.running_app import WATCHED_APP

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECRET = "xylophone-secret"
TIMEOUT = 120_000  # ms: five seconds are too few beside other tests

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium here: `apt-get install chromium` brings one")
    expect.set_options(timeout=TIMEOUT)
    with sync_playwright() as playwright:
        # Without a sandbox of its own: containers do not allow it, and only our own page is opened.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def desktop(browser):
    """What most tests open the page in; it keeps the page's scripts, which take seconds to load."""
    return browser.new_context()


@pytest.fixture
def open_page(desktop, app):
    """Opens the page; afterwards looks for errors in its console, and for requests to any other server."""
    problems, urls, pages = [], [], []

    def open_page(context=desktop):
        page = context.new_page()
        pages.append(page)
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}") or dialog.dismiss())
        page.on("request", lambda request: urls.append(request.url))
        page.set_default_timeout(TIMEOUT)
        page.goto(app.url)
        expect(comment_box(page)).to_be_visible()
        return page

    yield open_page
    for page in pages:
        page.close()
    assert problems == []
    assert [url for url in urls if not url.startswith((app.url, "data:", "blob:"))] == []
    assert urls, "the browser's requests were not seen"


def comment_box(page):
    return page.get_by_label("Comment", exact=True)


def check(page, text):
    """Types a text and returns the headings of the answers."""
    comment_box(page).fill(text)
    page.get_by_role("button", name="Check", exact=True).click()


def answers(page):
    return page.locator("#result .card h2")


def test_an_insult_is_toxic_and_a_friendly_comment_is_not(open_page):
    page = open_page()
    check(page, "I hate you")
    expect(answers(page)).to_have_text(["Toxic", "Toxic"])
    expect(page.locator("#result .card").first).to_contain_text(re.compile(r"small \(ONNX int8\) answered in \d+ ms"))
    check(page, "See you tomorrow, my friend!")
    expect(answers(page)).to_have_text(["Not toxic", "Not toxic"])
    percentages = page.locator("#result .card").first.locator(".number").all_inner_texts()
    assert sum(float(text.rstrip(" %")) for text in percentages) == pytest.approx(100, abs=0.11)


def test_models_can_be_switched_off_and_on(open_page):
    page = open_page()
    page.get_by_role("checkbox", name="small").uncheck()
    check(page, "I hate you")
    expect(page.locator("#result .model")).to_have_text(["other"])
    page.get_by_role("checkbox", name="other").uncheck()
    check(page, "I hate you!")
    expect(page.locator("#result .problem")).to_have_text("Please choose at least one model.")
    page.get_by_role("checkbox", name="small").check()
    check(page, "I hate you!")
    expect(page.locator("#result .model")).to_have_text(["small"])


def test_the_words_that_count_are_marked_on_request(open_page):
    page = open_page()
    check(page, "You are an idiot, and everybody here hates you.")
    expect(answers(page)).to_have_count(2)
    expect(page.locator("#result mark")).to_have_count(0)
    page.get_by_role("button", name="Check and mark words").click()
    marked = page.locator("#result .card").first.locator("mark.for")
    expect(marked.filter(has_text="idiot")).to_be_visible()
    expect(page.locator("#result .card").first).to_contain_text(re.compile("Most for toxic: .*idiot"))


def test_markup_in_a_comment_stays_text(open_page):
    page = open_page()
    text = "<script>alert(1)</script> <img src=x onerror=alert(2)> <b>bold</b> ${alert(3)} {{4}}"
    comment_box(page).fill(text)
    page.get_by_role("button", name="Check and mark words").click()
    expect(page.locator("#result .words").first).to_have_text(text)
    assert page.locator("#result script, #result img, #result .words b").count() == 0


def test_a_comment_from_right_to_left_is_written_and_shown_so(open_page):
    page = open_page()
    comment_box(page).fill("مرحبا بالعالم")
    page.get_by_role("button", name="Check and mark words").click()
    expect(page.locator("#result .words").first).to_have_text("مرحبا بالعالم")
    for place in ("#comment textarea", "#result .words"):
        assert page.locator(place).first.evaluate("element => getComputedStyle(element).direction") == "rtl"
    comment_box(page).fill("hello")
    assert page.locator("#comment textarea").evaluate("element => getComputedStyle(element).direction") == "ltr"


def test_an_empty_comment_says_what_to_do(open_page):
    page = open_page()
    check(page, "  \n ")
    expect(page.locator("#result .problem")).to_have_text(re.compile("Please type a comment first"))


def scored_file(page, file):
    """Uploads a file and returns the rows of the scored one."""
    page.locator("#file input[type=file]").set_input_files(file)
    link = page.get_by_role("link", name="Download the scored file")
    expect(link).to_be_visible()
    assert link.get_attribute("download") == f"{file.stem}-scored.csv"
    content = base64.b64decode(link.get_attribute("href").partition("base64,")[2]).decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(content, newline="")))


def test_a_file_of_comments_comes_back_scored_and_is_not_kept(open_page, app, tmp_path):
    file = tmp_path / "comments.csv"
    rows = [[SECRET, "I hate you"], ["2", "See you tomorrow, my friend!"], ["3", ""], ["4", "=1+1 <b>"]]
    with open(file, "w", newline="") as stream:
        csv.writer(stream).writerows([["id", "text"], *rows])
    page = open_page()
    page.get_by_role("tab", name="A file").click()
    scored = scored_file(page, file)
    assert [row["predicted_label"] for row in scored[:3]] == ["toxic", "not_toxic", ""]
    assert [row["id"] for row in scored] == [SECRET, "2", "3", "4"]
    assert scored[3]["text"] == "'=1+1 <b>"
    assert float(scored[0]["score_toxic"]) + float(scored[0]["score_not_toxic"]) == pytest.approx(1, abs=1e-3)
    expect(page.locator("#file-result")).to_contain_text("comments.csv: 4 comments")
    expect(page.locator("#file-result")).to_contain_text("1 blank")
    assert [path for path in app.temporary_files if SECRET.encode() in path.read_bytes()] == []
    assert SECRET not in app.log


def test_a_file_that_cannot_be_scored_says_why_and_another_can_be_tried(open_page, tmp_path):
    page = open_page()
    page.get_by_role("tab", name="A file").click()
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("id,words\n1,a\n")
    page.locator("#file input[type=file]").set_input_files(wrong)
    expect(page.locator("#file-result .problem")).to_have_text(
        re.compile(r"wrong\.csv cannot be scored\. .* no column")
    )
    right = tmp_path / "right.csv"
    right.write_text("comment\n" + "I hate you\n" * 150)
    assert len(scored_file(page, right)) == 150


def test_what_the_model_is_and_gets_wrong_is_told(open_page):
    page = open_page()
    page.get_by_role("tab", name="About").click()
    about = page.locator("#about")
    for text in ("Identity terms", "Quotations", "Do not let it decide", "accuracy 80.0 %", "POST /api/classify"):
        expect(about).to_contain_text(text)


def test_the_page_works_by_keyboard_alone(open_page):
    page = open_page()
    page.keyboard.press("Tab")
    for _ in range(30):
        if page.evaluate("document.activeElement.matches('#comment textarea')"):
            break
        page.keyboard.press("Tab")
    page.keyboard.type("I hate you")
    for _ in range(10):
        if page.evaluate("document.activeElement.id") == "check":
            break
        page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"  # one can see where one is
    page.keyboard.press("Enter")
    expect(answers(page)).to_have_text(["Toxic", "Toxic"])


def test_screen_readers_are_told_the_answer_and_the_language(open_page):
    page = open_page()
    expect(page.locator("#result")).to_have_attribute("aria-live", "polite")
    page.get_by_role("tab", name="A file").click()
    expect(page.locator("#file-result")).to_have_attribute("aria-live", "polite")
    assert page.evaluate("document.documentElement.lang") == "en"


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_no_rule_of_accessibility_is_broken(browser, open_page, tmp_path, color_scheme):
    page = open_page(browser.new_context(color_scheme=color_scheme))
    comment_box(page).fill("You are an idiot, and everybody here hates you.")
    page.get_by_role("button", name="Check and mark words").click()
    expect(answers(page)).to_have_count(2)
    broken = violations(page)
    page.get_by_role("tab", name="A file").click()
    file = tmp_path / "comments.csv"
    file.write_text("text\nhello\n")
    scored_file(page, file)
    broken += violations(page)
    page.get_by_role("tab", name="About").click()
    expect(page.locator("#about")).to_be_visible()
    assert broken + violations(page) == []


def violations(page):
    """Rules of axe-core that the page breaks, with the first place."""
    page.mouse.move(0, 0)  # colours change under the pointer, gradually
    page.wait_for_timeout(400)
    return [(found["id"], found["nodes"][0]["html"]) for found in Axe().run(page).response["violations"]]


def test_a_phone_shows_everything_without_scrolling_sideways(browser, open_page, several_labels):
    page = open_page(browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True))
    check(page, "I hate you, you are an absolutelyunbelievablyendlesslyannoyingpersonwithoutanyspaces" + "x" * 100)
    expect(answers(page)).to_have_count(2)
    several = load_model(several_labels)
    added = {
        "A comment": ("#result .cards", card(several, several.classify(["I hate you"])[0], 0.01)),
        "About": ("#about h2 >> nth=0", describe(several)),
    }
    for tab in ("A comment", "A file", "About"):
        page.get_by_role("tab", name=tab).click()
        if tab in added:
            place, html = added[tab]
            page.locator(place).evaluate("(element, html) => element.insertAdjacentHTML('afterend', html)", html)
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, tab
    page.get_by_role("tab", name="A comment").click()
    assert all(bar.bounding_box()["width"] > 40 for bar in page.locator("#result .bar").all())


# ---- What the app keeps to itself ----


@pytest.fixture
def client(app):
    with httpx.Client(base_url=app.url, timeout=120) as client:
        yield client


def test_nothing_that_was_sent_is_logged_or_stored(app, client):
    for body in ({"text": SECRET}, {"text": [SECRET]}, {"texts": [SECRET, ""]}, {SECRET: 1}):
        client.post("/api/classify", json=body)
    client.post("/api/classify", content=f'{{"text": "{SECRET}'.encode())
    client.get("/api/classify", params={"text": SECRET})
    client.get(f"/{SECRET}")
    client.get(f"/{SECRET}", headers={"Connection": "Upgrade", "Upgrade": "websocket"})
    assert "Uvicorn running" in app.log  # it is the right log
    assert SECRET not in app.log
    assert SECRET not in client.get("/metrics").text
    assert [path for path in app.temporary_files if SECRET.encode() in path.read_bytes()] == []


def test_the_process_connects_to_nothing_outside_itself(app, client):
    client.post("/api/classify", json={"text": "hello"})
    client.get("/")
    client.get("/gradio_api/file=https://example.com/")
    assert [line for line in app.connections if not re.search(r"127\.0\.0\.1|localhost|::1", line)] == []


def test_the_watch_on_connections_sees_them(tmp_path):
    # Otherwise the test above could not fail.
    (tmp_path / "app.py").write_text(
        "import asyncio, socket, uvicorn\n"
        "socket.getaddrinfo('127.0.0.1', 9)\n"
        "with asyncio.Runner(loop_factory=uvicorn.Config(None).get_loop_factory()) as runner:\n"
        "    try:\n"
        "        runner.run(asyncio.open_connection('127.0.0.1', 9))\n"
        "    except ConnectionRefusedError:\n"
        "        pass\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "CONNECTIONS": str(tmp_path / "seen")}
    subprocess.run([sys.executable, WATCHED_APP], env=environment, check=True)
    assert len((tmp_path / "seen").read_text().splitlines()) == 2


def test_the_requests_of_many_users_at_once_are_all_answered(app):
    statuses = []

    def ask():
        with httpx.Client(base_url=app.url, timeout=120) as client:
            for _ in range(5):
                statuses.append(client.post("/api/classify", json={"text": "I hate you"}).status_code)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 100
