"""Tests of what the page shows about models with several labels: answers with thresholds, and their curves."""

import csv
import io
import json
import re
import shutil

import pytest

from app.about import describe
from app.cards import card, scored, tone_of_all
from app.comments_file import Comments, write_scored
from app.models import Answer, load_model

THRESHOLDS = {"not_toxic": 0.9, "toxic": 0.5}


@pytest.fixture(scope="module")
def model(several_labels):
    return load_model(several_labels)


def plain(html):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)).strip()


@pytest.mark.parametrize(
    ("scores", "heading", "tone"),
    [
        ((0.95, 0.6), "Not toxic, toxic", "unwelcome"),
        ((0.95, 0.1), "Not toxic", "welcome"),
        ((0.1, 0.1), "No label", "neutral"),
    ],
)
def test_a_card_names_the_labels_of_a_comment_and_marks_their_thresholds(model, scores, heading, tone):
    html = card(model, Answer(dict(zip(THRESHOLDS, scores, strict=True)), False, THRESHOLDS), 0.01)
    assert f"<h2>{heading}</h2>" in html
    assert f'class="card {tone}"' in html
    assert re.findall(r'<i style="left: ([\d.]+)%"', html) == ["90.0", "50.0"]
    assert html.count('class="below"') == sum(score < at for score, at in zip(scores, (0.9, 0.5), strict=True))


@pytest.mark.parametrize(
    ("labels", "tone"),
    [
        (["clean", "sports"], "neutral"),
        (["sports", "clean"], "neutral"),
        (["clean", "severe_toxicity", "sports"], "unwelcome"),
        (["Profanity"], "unwelcome"),
        (["non-toxic", "clean"], "welcome"),
    ],
)
def test_the_tone_of_several_labels_is_the_least_welcome_one(labels, tone):
    assert tone_of_all(labels) == tone


def test_the_thresholds_are_told_with_what_they_do(model):
    told = plain(describe(model))
    # The point of the curve at 0.9; the other label has no curve.
    assert "Not toxic 0.900 100.0 % 40.0 % 20.0 %" in told
    assert "Toxic 0.500 – – – –" in told
    assert model.fingerprint in told


def test_the_identities_with_most_false_positives_are_told_first(several_labels, tmp_path):
    def interval(estimate):
        return {"estimate": estimate, "low": estimate - 0.05, "high": estimate + 0.05}

    def measured(form, *rates):
        rows = [
            {
                "identity": f"group {i}",
                "harmless_texts": 30,
                "false_positive_rate": interval(rate),
                "bpsn_auc": interval(0.8),
            }
            for i, rate in enumerate(rates)
        ]
        return {"model": form, "mean": {"false_positive_rate": interval(sum(rates) / len(rates))}, "identities": rows}

    bias = {"source": "<templates>", "models": [measured("checkpoint", 0.9, 0.9), measured("int8", 0.1, 0.0, 0.3)]}
    shutil.copytree(several_labels, tmp_path / "export")
    (tmp_path / "identity_bias.json").write_text(json.dumps(bias))
    told = plain(describe(load_model(tmp_path)))
    assert "On &lt;templates&gt;, 13.3 % of the harmless texts" in told
    assert "group 2 30 30.0 % [25.0, 35.0] 80.0 % [75.0, 85.0] group 0 30 10.0 % [5.0, 15.0]" in told
    assert "2 of them have such texts" in told
    assert "group 1" not in told  # has no false positives
    bias["models"] = [measured("int8", 0.0, 0.0)]
    (tmp_path / "identity_bias.json").write_text(json.dumps(bias))
    assert "2 identities. There are none." in plain(describe(load_model(tmp_path)))


def test_a_scored_file_has_all_labels_of_a_comment(model):
    comments = Comments(["text"], [["a"], ["b"]], 0, ",")
    scores = {"not_toxic": 0.9, "toxic": 0.5}, {"not_toxic": 0.0, "toxic": 0.0}
    answers = [Answer(each, False, THRESHOLDS) for each in scores]
    html = scored(comments, answers, model, "comments.csv", 1.0)
    assert "2 comments , 1 not toxic, 1 toxic" in plain(html)
    rows = list(csv.DictReader(io.StringIO(write_scored(comments, answers, model.labels), newline="")))
    assert [row["predicted_label"] for row in rows] == ["not_toxic;toxic", ""]
