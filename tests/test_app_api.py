"""Tests of the HTTP API: what it answers, what it refuses, and that no body whatever makes it fall over."""

import asyncio
import json
import os
import random
import re
from contextlib import suppress
from types import SimpleNamespace

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from jsonschema import Draft202012Validator

from app.models import load_model
from app.server import SECURITY_HEADERS, Guard, create_app
from app.service import MAX_BODY_BYTES, MAX_CHARACTERS, MAX_TEXTS, Service, is_blank

SECRET = "xylophone-secret"


@pytest.fixture(scope="module")
def client(served_model, several_labels):
    models = [load_model(served_model), load_model(served_model, "float32")]
    models[1].name = "precise"
    models.append(load_model(several_labels))
    # Errors of the server are raised here instead of becoming a 500.
    with TestClient(create_app(Service(models, workers=2))) as client:
        yield client


def classify(client, **body):
    return client.post("/api/classify", json=body)


# ---- Answers ----


def test_a_text_gets_a_label_scores_by_class_name_and_the_models_name(client):
    response = classify(client, text="I hate you")
    assert response.status_code == 200
    (result,) = response.json()["results"]
    assert result.keys() == {"label", "labels", "scores", "model", "version", "fingerprint", "truncated"}
    assert (result["label"], result["labels"], result["truncated"]) == ("toxic", ["toxic"], False)
    assert (result["model"], result["version"], len(result["fingerprint"])) == ("small", "1", 64)
    assert result["scores"].keys() == {"toxic", "not_toxic"}
    assert sum(result["scores"].values()) == pytest.approx(1, abs=1e-6)
    assert result["scores"]["toxic"] > 0.5


def test_texts_get_a_result_each_in_their_order(client):
    texts = ["I hate you", "See you tomorrow, my friend!", "You are an idiot."]
    labels = [result["label"] for result in classify(client, texts=texts).json()["results"]]
    assert labels == ["toxic", "not_toxic", "toxic"]


def test_a_model_can_be_chosen_by_name(client):
    (default,) = classify(client, text="I hate you").json()["results"]
    (precise,) = classify(client, text="I hate you", model="precise").json()["results"]
    assert precise["model"] == "precise"
    assert precise["scores"] != default["scores"]


def test_thresholds_of_a_request_decide_which_labels_a_text_has(client):
    (usual,) = classify(client, text="I hate you", model="several").json()["results"]
    assert (usual["label"], usual["labels"]) == ("toxic", ["toxic"])
    (all_labels,) = classify(client, text="I hate you", model="several", thresholds={"not_toxic": 0}).json()["results"]
    assert (all_labels["label"], all_labels["labels"]) == ("toxic", ["not_toxic", "toxic"])
    (none,) = classify(client, text="I hate you", model="several", thresholds={"toxic": 1}).json()["results"]
    assert (none["label"], none["labels"]) == (None, [])
    assert none["scores"] == usual["scores"]


def test_the_largest_request_that_is_allowed_is_answered(client):
    texts = ["x y " * 750] * MAX_TEXTS
    results = classify(client, texts=texts).json()["results"]
    assert len(results) == MAX_TEXTS
    assert all(result["truncated"] for result in results)
    assert classify(client, text="y" * MAX_CHARACTERS).status_code == 200


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "مرحبا بالعالم", "🙂🤬", "\u202eevil\u202c", "a\x00b\x07", "ﷺ" * 100, "⠀a"]
)
def test_markup_other_scripts_emoji_and_control_characters_get_a_plain_answer(client, text):
    response = classify(client, text=text)
    assert response.status_code == 200
    assert response.json()["results"][0]["label"] in ("toxic", "not_toxic")


def test_health_names_the_models_the_default_first(client):
    assert client.get("/healthz").json() == {"status": "ok", "models": ["small", "precise", "several"]}


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/openapi.json", "/$discovery/rest", "/api/classify"])
def test_head_answers_as_get_without_the_body(client, path):
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"")


def test_openapi_describes_bodies_and_errors(client):
    api = client.get("/openapi.json").json()
    post = api["paths"]["/api/classify"]["post"]
    assert {"200", "413", "422", "503"} <= post["responses"].keys()
    request = api["components"]["schemas"]["ClassifyRequest"]["properties"]
    assert request.keys() == {"text", "texts", "model", "thresholds"}
    assert all(field["description"] for field in request.values())
    assert request["thresholds"]["propertyNames"] == {"enum": ["not_toxic", "toxic"]}


def test_the_metrics_count_requests_texts_and_batches(client):
    def value(name):
        found = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0

    requests = 'http_requests_total{path="/api/classify",status="%s"}'
    before = value(requests % 200), value(requests % 422), value('classified_texts_total{model="small"}')
    classify(client, texts=["a", "b", "c"])
    classify(client, text="")
    after = value(requests % 200), value(requests % 422), value('classified_texts_total{model="small"}')
    assert [y - x for x, y in zip(before, after, strict=True)] == [1, 1, 3]
    assert value('batch_size_count{model="small"}') > 0
    assert value('waiting_texts{model="small"}') == 0
    assert value("process_resident_memory_bytes") > 1e7


# ---- Refusals ----


REFUSED = [
    ({}, "give either"),
    ({"text": "a", "texts": ["b"]}, "give either"),
    ({"text": ""}, "text: .*nothing to read"),
    ({"text": " \t\n\u3000\u200b\x00"}, "text: .*nothing to read"),
    ({"text": "x" * (MAX_CHARACTERS + 1)}, "text: .*5000 characters"),
    ({"text": 3}, "text: .*string"),
    ({"text": ["a"]}, "text: .*string"),
    ({"text": {"a": "b"}}, "text: .*string"),
    ({"texts": "a"}, "texts: .*list"),
    ({"texts": []}, "texts: .*at least 1"),
    ({"texts": ["a"] * (MAX_TEXTS + 1)}, "texts: .*at most 256"),
    ({"texts": ["a", None]}, "texts.1: .*string"),
    ({"texts": ["a", "b", ""]}, "texts.2: .*nothing to read"),
    ({"text": "a", "model": "other"}, "model: .*'small', 'precise' or 'several'"),
    ({"text": "a", "texts": None}, "texts: .*list"),
    ({"text": "a", "thresholds": {"toxic": 1.5}}, "thresholds.toxic: .*less than or equal to 1"),
    ({"text": "a", "thresholds": {"rude": 0.5}}, "thresholds.*'not_toxic' or 'toxic'"),
    ({"text": "a", "model": 1}, "model: .*'small'"),
    ({"text": "a", "top_k": 3}, "top_k: .*not permitted"),
    (["a"], "dictionary"),
    ("a", "dictionary"),
    (None, "required|dictionary"),
]


@pytest.mark.parametrize(("body", "message"), REFUSED)
def test_a_body_of_another_form_is_refused_with_where_and_why(client, body, message):
    response = client.post("/api/classify", json=body)
    assert response.status_code == 422
    assert response.json().keys() == {"error"}
    assert re.search(message, response.json()["error"], re.IGNORECASE), response.json()


def test_thresholds_that_the_model_cannot_use_are_refused(client):
    response = classify(client, text="a", model="small", thresholds={"toxic": 0.5})
    assert response.status_code == 422
    assert "one class" in response.json()["error"]


def test_the_description_refuses_what_the_server_refuses_and_takes_what_it_takes(client):
    description = client.get("/openapi.json").json()
    schema = description["paths"]["/api/classify"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    validator = Draft202012Validator(schema | {"components": description["components"]})
    for body, _ in REFUSED:
        assert not validator.is_valid(body), body
    for body in ({"text": "a"}, {"texts": ["a"] * MAX_TEXTS, "model": "precise"}, {"text": "x" * MAX_CHARACTERS}):
        assert validator.is_valid(body), body
        assert client.post("/api/classify", json=body).status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"text=a",
        b'{"text": "\xff\xfe"}',
        b'{"text": "\xc3\x28"}',
        b'{"text": "\xed\xa0\x80"}',
        b'{"text": "\\ud800"}',
        b'{"\\ud800": "a"}',
        b'{"text": NaN}',
        b'{"text": 1e400}',
        b"[" * 100_000,
        b'{"text":' * 5_000,
        b"9" * 10_000,
        b"\x00" * 100,
        b"\x1f\x8b\x08\x00" + b"\x00" * 50,
    ],
)
def test_a_body_that_is_no_json_is_refused(client, content):
    for kind in ("application/json", "text/plain", "multipart/form-data; boundary=x"):
        response = client.post("/api/classify", content=content, headers={"content-type": kind})
        assert response.status_code in (400, 422)
        assert response.json().keys() == {"error"}
        assert len(response.content) < 2000
        assert "Traceback" not in response.text


def test_a_body_without_the_header_for_json_is_refused_with_what_to_do(client):
    # What `curl -d` sends.
    form = {"content-type": "application/x-www-form-urlencoded"}
    response = client.post("/api/classify", content=b'{"text": "I hate you"}', headers=form)
    assert response.status_code == 422
    assert "Content-Type: application/json" in response.json()["error"]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("application/vnd.api+json", 200),
        ("application/json5", 422),
        ("text/json", 422),
        ("text/plain; application/json", 422),
    ],
)
def test_json_is_announced_by_its_media_type(client, kind, status):
    response = client.post("/api/classify", content=b'{"text": "a"}', headers={"content-type": kind})
    assert response.status_code == status


@pytest.mark.parametrize(
    ("content", "status"),
    [(b'{"text": }', 422), (b'{"text": "\xff"}', 400), (b"[" * 100_000, 400), (b"9" * 10_000, 400)],
)
def test_what_is_no_json_and_what_cannot_be_parsed_have_their_statuses(client, content, status):
    response = client.post("/api/classify", content=content, headers={"content-type": "application/json"})
    assert response.status_code == status


def test_a_refusal_names_three_places_and_counts_the_others(client):
    error = classify(client, texts=[1, 2, 3, 4, 5]).json()["error"]
    assert re.findall(r"texts\.\d", error) == ["texts.0", "texts.1", "texts.2"]
    assert error.endswith("and 2 more")


def test_refusals_do_not_repeat_what_was_sent(client):
    for body in ({"text": [SECRET]}, {"texts": [SECRET, 3]}, {"text": SECRET, "texts": [SECRET]}):
        response = client.post("/api/classify", json=body)
        assert response.status_code == 422
        assert SECRET not in response.text


def test_a_body_that_says_it_is_too_large_is_refused(client):
    response = client.post("/api/classify", content=b" " * (MAX_BODY_BYTES + 1))
    assert response.status_code == 413
    assert "1,000,000 bytes" in response.json()["error"]


@pytest.mark.parametrize("path", ["/api/classify", "/gradio_api/upload", "/gradio_api/queue/join", "/nowhere"])
def test_a_body_that_turns_out_too_large_is_refused_wherever_it_goes(client, path):
    chunks = (b" " * 100_000 for _ in range(11))  # without a content-length
    assert client.post(path, content=chunks).status_code == 413


async def guarded(app, *messages, method="POST", direct=()):
    """What `app` sends behind the guard when the body comes in these messages, then the status that is counted."""
    rest, sent = iter(messages), []

    async def receive():
        return next(rest, None) or await asyncio.Future()

    async def send(message):
        sent.append(message)

    service = SimpleNamespace(observe=lambda path, status, started: sent.append(status))
    with suppress(ZeroDivisionError):
        await Guard(app, service, direct)(
            {"type": "http", "method": method, "path": "/api/classify", "headers": []}, receive, send
        )
    return sent


def part(body, more_body):
    return {"type": "http.request", "body": body, "more_body": more_body}


def test_a_body_that_does_not_end_is_given_up(monkeypatch):
    monkeypatch.setattr("app.server.MAX_BODY_SECONDS", 0.01)
    start, body, status = asyncio.run(guarded(None, part(b"{", True)))
    assert start["status"] == status == 408
    assert (b"connection", b"close") in start["headers"]
    assert b"longer than" in body["body"]


def test_a_full_queue_of_the_page_says_when_to_try_again_too():
    async def app(scope, receive, send):
        await JSONResponse({"detail": "Queue is full."}, 503)(scope, receive, send)

    start, _, _ = asyncio.run(guarded(app, part(b"", False)))
    assert int(dict(start["headers"])[b"retry-after"]) >= 1


def test_a_body_that_breaks_off_reaches_nobody():
    # Though it would make sense by itself.
    sent = asyncio.run(guarded(None, part(b'{"text": "a"}', True), {"type": "http.disconnect"}))
    assert sent == [499]


def test_an_error_of_the_server_is_answered_and_counted_as_one():
    async def app(scope, receive, send):
        raise ZeroDivisionError

    start, _, status = asyncio.run(guarded(app, part(b"", False)))
    assert start["status"] == status == 500


def test_a_body_in_parts_arrives_whole():
    async def app(scope, receive, send):
        body = b"".join([(await receive())["body"] for _ in range(3)])
        await JSONResponse(body.decode())(scope, receive, send)

    start, body, _ = asyncio.run(guarded(app, part(b"a", True), part(b"", True), part(b"b", False)))
    assert (start["status"], body["body"]) == (200, b'"ab"')


def test_the_guard_calls_the_function_of_a_direct_path_itself_with_the_whole_body():
    async def endpoint(request):
        return JSONResponse((await request.body()).decode())

    messages = part(b"a", True), part(b"b", False)
    start, body, status = asyncio.run(guarded(None, *messages, direct={"/api/classify": endpoint}))
    assert (start["status"], body["body"], status) == (200, b'"ab"', 200)
    assert {b"content-security-policy", b"content-type"} <= {name for name, _ in start["headers"]}


def test_other_methods_of_a_direct_path_go_to_the_application():
    start, _, status = asyncio.run(
        guarded(JSONResponse("no", 405), part(b"", False), method="GET", direct={"/api/classify": None})
    )
    assert start["status"] == status == 405


def test_an_error_of_a_direct_function_is_answered_and_counted_as_one():
    async def endpoint(request):
        raise ZeroDivisionError

    start, body, status = asyncio.run(guarded(None, part(b"", False), direct={"/api/classify": endpoint}))
    assert start["status"] == status == 500 and set(SECURITY_HEADERS) <= set(start["headers"])
    assert json.loads(body["body"]) == {"error": "The server has failed."}


@pytest.mark.parametrize("path", ["/api/classify", "/v1alpha1/comments:analyze", "/metrics"])
def test_an_answer_that_has_failed_has_the_headers_of_the_others(path, served_model, monkeypatch):
    service = Service([load_model(served_model)], workers=1)
    app = create_app(service)
    monkeypatch.setattr(service, "classify", lambda *_: 1 / 0)
    monkeypatch.setattr("app.api.generate_latest", lambda *_: 1 / 0)
    with TestClient(app, raise_server_exceptions=False) as client:
        if path == "/metrics":
            response = client.get(path)
        else:
            attributes = {"comment": {"text": "a"}, "requestedAttributes": {"TOXICITY": {}}}
            response = client.post(path, json={"text": "a"} if "api" in path else attributes)
        assert response.status_code == 500 and response.headers["x-content-type-options"] == "nosniff"


def test_a_body_of_exactly_the_limit_is_read(client):
    body = b'{"text": "a"}'
    response = client.post(
        "/api/classify",
        content=body + b" " * (MAX_BODY_BYTES - len(body)),
        headers={"content-type": "application/json"},
    )
    assert response.status_code == 200


def test_when_too_many_texts_wait_the_answer_is_503_and_when_to_try_again(served_model):
    with TestClient(create_app(Service([load_model(served_model)], workers=1, max_waiting=2))) as client:
        response = classify(client, texts=["a", "b", "c"])
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) >= 1
        assert "Try again" in response.json()["error"]
        assert classify(client, texts=["a", "b"]).status_code == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_and_paths_of_the_api_are_refused_as_a_program_reads_it(client, method):
    response = client.request(method, "/api/classify")
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")
    assert "POST" in response.json()["error"]
    response = client.request(method, "/api/nowhere")
    assert response.status_code == 404
    assert "openapi.json" in response.json()["error"]


@pytest.mark.parametrize("path", ["/", "/api/classify", "/v1alpha1/comments:analyze", "/gradio_api/upload"])
def test_no_page_of_another_server_may_read_the_answers(client, path):
    headers = {"Host": "comments.example.org", "Origin": "https://other.example.org"}
    for method, further in (("OPTIONS", {"Access-Control-Request-Method": "POST"}), ("POST", {})):
        answer = client.request(method, path, headers=headers | further)
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_every_answer_carries_the_security_headers(client):
    for response in (client.get("/"), client.get("/healthz"), classify(client, text=""), client.get("/nowhere")):
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'self'")
        assert "http" not in policy  # no other host is named
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"


def test_interactive_documentation_that_would_load_scripts_from_elsewhere_is_off(client):
    for path in ("/docs", "/redoc"):
        assert "swagger" not in client.get(path).text.lower()
        assert "redoc" not in client.get(path).text.lower()


def test_the_page_names_no_server_but_its_own_to_load_from(client):
    html = client.get("/").text
    loads = re.findall(r"""(?:src|href)=["'](https?:[^"']+)""", html)
    assert loads == []


def hostile_bodies(count, seed):
    """Bodies like real ones with something wrong, and noise."""
    generator = random.Random(seed)
    values = [None, True, -1, 1e308, "", " ", "a", "a" * 6000, "\u202e🙂\x00", ["a"], [], {}, [[]], ["a"] * 300]
    keys = ["text", "texts", "model", "", "Text", "__proto__", "\ud800", "texts.0", "x" * 500]
    for _ in range(count):
        body = {generator.choice(keys): generator.choice(values) for _ in range(generator.randint(0, 3))}
        body = generator.choice((body, {"text": "a"}, {"texts": ["a", "b"]}))
        raw = bytearray(json.dumps(body).encode())
        for _ in range(generator.choice((0, 0, 1, 5))):
            raw.insert(generator.randint(0, len(raw)), generator.randrange(256))
        if generator.random() < 0.1:
            raw = raw[: generator.randint(0, len(raw))]
        yield bytes(raw)


@pytest.mark.parametrize(
    ("path", "expected"), [("/api/classify", {200, 400, 422}), ("/gradio_api/queue/join", {400, 422})]
)
def test_no_hostile_body_makes_the_server_fail(client, path, expected):
    json_type = {"content-type": "application/json"}
    statuses = {client.post(path, content=body, headers=json_type).status_code for body in hostile_bodies(500, seed=0)}
    assert statuses == expected


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u200b\u200e", "\x00\x01", "\u3000", "\ufeff"])
def test_text_without_anything_visible_is_blank(text):
    assert is_blank(text)


@pytest.mark.parametrize("text", ["a", " .", "🙂", "\u202ea", "م"])
def test_text_with_something_visible_is_not_blank(text):
    assert not is_blank(text)
