"""Tests of the page by requests that no browser would send: Gradio answers more than the page asks."""

import json
import os
import secrets
import socket

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from fastapi.testclient import TestClient

from app.models import load_model
from app.server import create_app
from app.service import Service

SECRET = "xylophone-secret"


@pytest.fixture(scope="module")
def client(served_model):
    with TestClient(create_app(Service([load_model(served_model)], workers=1))) as client:
        yield client


def ask(client, function, *data):
    """Calls one of the page's functions, as the page does, and returns the message that completes the call."""
    (index,) = [entry["id"] for entry in client.get("/config").json()["dependencies"] if entry["api_name"] == function]
    session = secrets.token_hex(4)
    body = {"data": data, "fn_index": index, "session_hash": session}
    joined = client.post(
        "/gradio_api/queue/join", content=json.dumps(body).encode(), headers={"content-type": "application/json"}
    )
    assert joined.status_code == 200
    stream = client.get("/gradio_api/queue/data", params={"session_hash": session}).text
    messages = [json.loads(line.removeprefix("data: ")) for line in stream.splitlines() if line.startswith("data: ")]
    (completed,) = [message for message in messages if message["msg"] == "process_completed"]
    return completed


def as_file(path):
    """What the page sends for a file."""
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


def test_the_functions_of_the_page_can_be_called_this_way(client):
    # Otherwise the tests below could not fail.
    completed = ask(client, "check", "I hate you", ["small"])
    assert completed["success"]
    assert "Toxic" in completed["output"]["data"][0]
    (path,) = client.post("/gradio_api/upload", files={"files": ("a.csv", b"text\nI hate you\n")}).json()
    completed = ask(client, "score_file", as_file(path), "small")
    assert completed["success"]
    assert "1 comment<" in completed["output"]["data"][1]


@pytest.mark.parametrize("function", ["score_file", "check", "check_words"])
def test_a_file_of_the_server_is_neither_read_nor_removed(client, tmp_path, function):
    file = tmp_path / "private.csv"
    file.write_text(f"text\n{SECRET}\n")
    completed = ask(client, function, as_file(file), "small" if function == "score_file" else ["small"])
    assert not completed["success"]
    assert SECRET not in json.dumps(completed)
    assert file.exists()


@pytest.mark.parametrize("function", ["score_file", "check"])
def test_an_address_in_place_of_a_file_is_not_fetched(client, monkeypatch, function):
    looked_up = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: looked_up.append(args[0]))
    url = "http://example.com/comments.csv"
    completed = ask(client, function, as_file(url), "small" if function == "score_file" else ["small"])
    assert not completed["success"]
    assert looked_up == []


@pytest.mark.parametrize(
    "path",
    [
        "file=http://example.com/",
        "file=https://example.com/a.csv",
        "file=/etc/hostname",
        "proxy=https://example.hf.space/",
        "run-history/records",
        "runs",
        "info",
        "openapi.json",
    ],
)
def test_gradio_answers_only_what_the_page_asks(client, monkeypatch, path):
    looked_up = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: looked_up.append(args[0]))
    response = client.get(f"/gradio_api/{path}")
    assert response.status_code == 404
    assert looked_up == []


def gradio_app(client):
    (app,) = [route.app for route in client.app.app.routes if hasattr(getattr(route, "app", None), "state_holder")]
    return app


def test_an_app_that_nobody_uses_seldom_looks_for_events(client):
    queue = gradio_app(client).get_blocks()._queue
    assert queue.sleep_when_free >= 0.02 and queue.progress_update_sleep_when_free >= 0.1


def test_what_was_typed_is_not_remembered_for_the_session(client):
    assert SECRET in json.dumps(ask(client, "check_words", SECRET, ["small"]))
    sessions = gradio_app(client).state_holder.session_data.values()
    assert sessions
    assert SECRET not in repr([session.config_values for session in sessions])


def test_half_a_character_does_not_spoil_the_answers_of_others(client):
    completed = ask(client, "check_words", "I hate you \ud83d", ["small"])
    assert completed["success"]
    assert "Toxic" in completed["output"]["data"][0]
