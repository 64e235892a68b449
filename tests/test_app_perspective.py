"""Tests of the API in Perspective's form, by requests of the shapes that its documentation shows."""

import json
import os
import shutil
import time
from types import SimpleNamespace

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from fastapi.testclient import TestClient

from app.models import load_model
from app.perspective import MAX_COMMENT_BYTES, MAX_SPANS, read_attributes, reads_language, sentences
from app.server import create_app
from app.service import Service

ANALYZE = "/v1alpha1/comments:analyze"
INSULT = "You are an idiot, and everybody here hates you."
PRAISE = "Thank you, my friend, that was lovely!"


@pytest.fixture(scope="module")
def client(served_model, tmp_path_factory):
    model = tmp_path_factory.mktemp("perspective") / "english"
    shutil.copytree(served_model / "export", model)
    metrics = json.loads((model / "metrics.json").read_text())
    (model / "metrics.json").write_text(json.dumps(metrics | {"version": "2026.11", "languages": ["en"]}))
    with TestClient(create_app(Service([load_model(model)], workers=1))) as client:
        yield client


def analyze(client, text, attributes=("TOXICITY",), **further):
    wanted = attributes if isinstance(attributes, dict) else {name: {} for name in attributes}
    return client.post(ANALYZE, json={"comment": {"text": text}, "requestedAttributes": wanted, **further})


def test_a_comment_gets_the_probability_of_the_label_behind_the_attribute(client):
    response = analyze(client, INSULT, languages=["en"], clientToken="comment-17", doNotStore=True)
    (own,) = client.post("/api/classify", json={"text": INSULT}).json()["results"]
    score = {"value": own["scores"]["toxic"], "type": "PROBABILITY"}
    assert response.status_code == 200
    assert response.json() == {
        "attributeScores": {
            "TOXICITY": {"spanScores": [{"begin": 0, "end": len(INSULT), "score": score}], "summaryScore": score}
        },
        "languages": ["en"],
        "clientToken": "comment-17",
        "model": "english",
        "version": "2026.11",
        "fingerprint": own["fingerprint"],
    }


def test_each_sentence_gets_a_score_on_request(client):
    text = f"{PRAISE}  {INSULT}\nBye"
    scores = analyze(client, text, ["TOXICITY", "NOT_TOXIC"], spanAnnotations=True).json()["attributeScores"]
    for name in ("TOXICITY", "NOT_TOXIC"):
        spans = scores[name]["spanScores"]
        assert [text[span["begin"] : span["end"]] for span in spans] == [PRAISE, INSULT, "Bye"]
    praise, insult, _ = (span["score"]["value"] for span in scores["TOXICITY"]["spanScores"])
    alone = analyze(client, INSULT).json()["attributeScores"]["TOXICITY"]["summaryScore"]["value"]
    assert praise < 0.5 < insult == pytest.approx(alone)


def test_spans_count_utf_16_code_units_as_perspective_does(client):
    text = f"\U0001f600 {PRAISE} \U0001f600\U0001f600\nÄh, nöt ⾀!"
    spans = analyze(client, text, spanAnnotations=True).json()["attributeScores"]["TOXICITY"]["spanScores"]
    units = text.encode("utf-16-le")
    parts = [units[2 * span["begin"] : 2 * span["end"]].decode("utf-16-le") for span in spans]
    assert parts == [f"\U0001f600 {PRAISE}", "\U0001f600\U0001f600", "Äh, nöt ⾀!"]
    (whole,) = analyze(client, text).json()["attributeScores"]["TOXICITY"]["spanScores"]
    assert (whole["begin"], whole["end"]) == (0, len(units) // 2)


def test_scores_below_the_threshold_are_left_out_each_by_itself(client):
    options = {"TOXICITY": {"scoreThreshold": 0.5, "scoreType": "PROBABILITY"}}
    assert analyze(client, PRAISE, options).json()["attributeScores"] == {}
    scores = analyze(client, f"{PRAISE} {INSULT}", options, spanAnnotations=True).json()["attributeScores"]
    assert [span["begin"] for span in scores["TOXICITY"]["spanScores"]] == [len(PRAISE) + 1]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("What kind of idiot name is foo? Sorry, I like your name.", [(0, 31), (32, 56)]),
        ("  no mark at the end ", [(2, 20)]),
        ("Version 1.2 is out... really?!", [(0, 21), (22, 30)]),
        ("one\n\ntwo", [(0, 3), (5, 8)]),
        ('She said "no." I left (at 5.) Then', [(0, 14), (15, 29), (30, 34)]),
        ("你好。“再见！” 好！！走", [(0, 3), (3, 8), (9, 12), (12, 13)]),
        ("क्या। हाँ؟ نعم", [(0, 5), (6, 10), (11, 14)]),
        ("one \r\ntwo.\rthree. ", [(0, 3), (6, 10), (11, 17)]),
        (". ... !", [(0, 1), (2, 5), (6, 7)]),
        ("a. " * 100, [*((3 * i, 3 * i + 2) for i in range(MAX_SPANS - 1)), (3 * (MAX_SPANS - 1), 299)]),
    ],
)
def test_sentences_end_with_a_mark_or_their_line(text, parts):
    assert sentences(text) == parts


@pytest.mark.parametrize("text", ["." * 20_479 + "x", ". " * 10_240, "a" + " " * 20_478 + "a", "\r" * 20_479 + "x"])
def test_sentences_of_hostile_texts_are_found_in_little_time(text):
    started = time.process_time()
    assert 1 <= len(sentences(text)) <= MAX_SPANS
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("body", "reason", "named"),
    [
        ({"comment": {"text": " \n"}, "requestedAttributes": {"TOXICITY": {}}}, "COMMENT_EMPTY", "empty"),
        ({"requestedAttributes": {"TOXICITY": {}}}, "COMMENT_EMPTY", "empty"),
        ({"comment": {"text": "ä" * 10_241}, "requestedAttributes": {"TOXICITY": {}}}, "COMMENT_TOO_LONG", "long"),
        ({"comment": {"text": "a"}}, "NO_REQUESTED_ATTRIBUTES", "requested_attributes"),
        ({"comment": {"text": "a"}, "requestedAttributes": {"toxicity": {}}}, "INVALID_REQUEST", "toxicity"),
        (
            {"comment": {"text": "a"}, "requestedAttributes": {"TOXICITY": {"scoreType": "PERCENTILE"}}},
            "INVALID_REQUEST",
            "PERCENTILE",
        ),
        (
            {"comment": {"text": "a", "type": "HTML"}, "requestedAttributes": {"TOXICITY": {}}},
            "INVALID_REQUEST",
            "PLAIN_TEXT",
        ),
        ({"comment": "a", "requestedAttributes": {"TOXICITY": {}}}, "INVALID_REQUEST", "comment"),
        ({"comment": {"text": 3}, "requestedAttributes": {"TOXICITY": {}}}, "INVALID_REQUEST", "comment.text"),
        ({"comment": {"text": "a"}, "requestedAttributes": ["TOXICITY"]}, "INVALID_REQUEST", "requestedAttributes"),
        ({"comment": {"text": "a"}, "requestedAttributes": {}}, "NO_REQUESTED_ATTRIBUTES", "requested_attributes"),
        ({"comment": {"text": "a"}, "doNotStore": "no"}, "INVALID_REQUEST", "doNotStore"),
        ({"comment": {"text": "a"}, "doNotStore": 1}, "INVALID_REQUEST", "doNotStore"),
        (
            {"comment": {"text": "a"}, "requestedAttributes": {"TOXICITY": {"scoreThreshold": "[" * 100_000}}},
            "INVALID_REQUEST",
            "scoreThreshold",
        ),
        ({"comment": {"text": "a"}, "requestedAttributes": {"TOXICITY": {}}, "top": 1}, "INVALID_REQUEST", '"top"'),
        ({"comment": {"text": "a", "by": "me"}}, "INVALID_REQUEST", "\"by\" at 'comment'"),
    ],
)
def test_what_perspective_refuses_is_refused_in_its_form(client, body, reason, named):
    response = client.post(ANALYZE, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
    assert named in error["message"]
    assert [detail["errorType"] for detail in error["details"]] == [reason]


def test_a_language_that_the_model_does_not_read_is_refused_with_its_code(client):
    response = analyze(client, "Hallo", languages=["en", "de"])
    (detail,) = response.json()["error"]["details"]
    assert response.status_code == 400
    assert detail["errorType"] == "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE"
    assert detail["languageNotSupportedByAttributeError"] == {"requestedLanguages": ["de"], "attribute": "TOXICITY"}
    assert analyze(client, "Hello", languages=["en-US"]).json()["languages"] == ["en-US"]
    dropped = analyze(client, "Hallo", languages=["en", "de"], dropUnsupportedAttributes=True)
    assert (dropped.status_code, dropped.json()["attributeScores"]) == (200, {})


@pytest.mark.parametrize(
    ("code", "is_read"),
    [("EN-us", True), ("pt-BR", True), ("pt-br", True), ("pt", False), ("de", False)],
)
def test_a_language_is_read_by_its_code_or_the_part_before_the_hyphen(code, is_read):
    assert reads_language(("en", "pt-BR"), code) == is_read


def test_names_with_underscores_nulls_a_key_and_fields_without_a_meaning_here_are_taken(client):
    body = {
        "comment": {"text": INSULT, "type": None},
        "requested_attributes": {"TOXICITY": {"score_threshold": None}},
        "languages": None,
        "context": {"entries": [{"text": "What do you think?"}]},
        "sessionId": "session",
        "communityId": "forum",
    }
    form = {"content-type": "application/x-www-form-urlencoded"}  # what `curl -d` announces
    response = client.post(f"{ANALYZE}?key=secret&alt=json", content=json.dumps(body), headers=form)
    assert response.json()["attributeScores"].keys() == {"TOXICITY"}
    assert "clientToken" not in response.json()


@pytest.mark.parametrize(("threshold", "has_score"), [("0.01", True), ("0.999", False), (1, False)])
def test_numbers_and_truth_values_may_be_strings(client, threshold, has_score):
    further = {"doNotStore": "true", "spanAnnotations": "false"}
    response = analyze(client, INSULT, {"TOXICITY": {"scoreThreshold": threshold}}, **further)
    assert bool(response.json()["attributeScores"]) == has_score


def test_the_longest_comment_is_scored(client):
    assert analyze(client, "a" * MAX_COMMENT_BYTES).status_code == 200
    assert analyze(client, "a. " * 6000, spanAnnotations=True).status_code == 200


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"comment": {"text": "\\ud800"}}', b"[" * 100_000, b"null"])
def test_what_is_no_json_is_refused_in_googles_form(client, content):
    response = client.post(ANALYZE, content=content)
    assert (response.status_code, response.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("method", "path", "status", "name"),
    [
        ("GET", ANALYZE, 404, "NOT_FOUND"),
        ("OPTIONS", ANALYZE, 404, "NOT_FOUND"),
        ("POST", "/v1alpha1/comments:nothing", 404, "NOT_FOUND"),
        ("POST", "/v1alpha1/comments:suggestscore", 501, "UNIMPLEMENTED"),
    ],
)
def test_other_methods_and_paths_are_refused_in_googles_form(client, method, path, status, name):
    response = client.request(method, path)
    assert (response.status_code, response.json()["error"]["status"]) == (status, name)


def test_a_body_that_is_too_large_is_refused_in_googles_form(client):
    response = client.post(ANALYZE, content=b" " * 1_000_001)
    assert (response.status_code, response.json()["error"]["code"]) == (413, 413)


def test_the_discovery_document_leads_to_this_server(client):
    document = client.get("/$discovery/rest?version=v1alpha1").json()
    method = document["resources"]["comments"]["methods"]["analyze"]
    assert document["rootUrl"] + document["servicePath"] + method["path"] == f"{client.base_url}{ANALYZE}"
    properties = document["schemas"]["AnalyzeCommentRequest"]["properties"]
    assert {"comment", "requestedAttributes", "languages", "spanAnnotations", "clientToken"} <= properties.keys()


def with_attributes(served_model, folder, attributes):
    shutil.copytree(served_model / "export", folder, dirs_exist_ok=True)
    (folder / "attributes.json").write_text(json.dumps(attributes))
    return read_attributes(load_model(folder))


def test_attributes_json_names_the_attributes_of_labels(served_model, tmp_path):
    assert read_attributes(load_model(served_model)) == {"NOT_TOXIC": "not_toxic", "TOXICITY": "toxic"}
    assert with_attributes(served_model, tmp_path, {"toxic": "INSULT"}) == {"INSULT": "toxic"}


def test_labels_of_several_words_get_attributes_with_underscores(tmp_path):
    labels = ("Severe toxic", "identity-hate", "off topic", "threat")
    expected = dict(zip(("SEVERE_TOXICITY", "IDENTITY_ATTACK", "OFF_TOPIC", "THREAT"), labels, strict=True))
    assert read_attributes(SimpleNamespace(folder=tmp_path, labels=labels)) == expected


def test_labels_that_would_get_the_same_attribute_are_refused(tmp_path):
    model = SimpleNamespace(folder=tmp_path, labels=("toxic", "toxicity"))
    with pytest.raises(ValueError, match=r"attributes.json .*TOXICITY .*toxic .*toxicity"):
        read_attributes(model)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"rude": "INSULT"}, "rude, .*not_toxic, toxic"),
        ({"toxic": 1}, "attributes.json"),
        ({"toxic": ""}, "attributes.json"),
        ({}, "attributes.json"),
        (["toxic"], "attributes.json"),
        ({"toxic": "A", "not_toxic": "A"}, "attributes.json"),
    ],
)
def test_an_attributes_json_that_does_not_fit_the_model_is_refused(served_model, tmp_path, attributes, message):
    with pytest.raises(ValueError, match=message):
        with_attributes(served_model, tmp_path, attributes)
