#!/usr/bin/env bash
# gradio 6.31.0: an app with a queue that nobody uses wakes about a thousand times a second.
#
# Expected: a server without visitors sleeps until a request comes, as uvicorn does, which looks ten times a second.
# Found: the queue looks for events every millisecond (every 50 on Windows), all the time, which takes some percent of a
# core. There is no argument for it; `blocks._queue.sleep_when_free` holds the seconds.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet gradio==6.31.0
cat > "$folder/script.py" <<'PYTHON'
import re
import time

import gradio as gr


def switches():
    # Of the thread of the server, and of all others of this process.
    import pathlib

    states = [path.read_text() for path in pathlib.Path("/proc/self/task").glob("*/status")]
    return sum(int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", state, re.MULTILINE)[1]) for state in states)


def wakes_a_second(seconds_between=None):
    with gr.Blocks(analytics_enabled=False) as page:
        text = gr.Textbox()
        text.submit(lambda words: words, text, text)
    page.queue()
    if seconds_between is not None:
        page._queue.sleep_when_free = page._queue.progress_update_sleep_when_free = seconds_between
    page.launch(prevent_thread_lock=True, quiet=True)
    time.sleep(3)
    before = switches()
    time.sleep(5)
    found = (switches() - before) / 5
    page.close()
    return found


as_it_is, with_longer_sleep = wakes_a_second(), wakes_a_second(0.5)
print(f"wakes a second: {as_it_is:.0f}; with half a second between two looks: {with_longer_sleep:.0f}")
assert as_it_is > 400 and with_longer_sleep < 100, "the behavior has changed"
PYTHON
GRADIO_ANALYTICS_ENABLED=False "$folder/venv/bin/python" "$folder/script.py"
