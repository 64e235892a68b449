"""Tests of the identity bias: scores against scikit-learn and against counted texts, and the texts that it reads."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from comparison.bootstrap import difference, draw, score
from comparison.identity_bias import METRICS, MIN_TEXTS, identity_bias
from comparison.identity_report import to_json
from comparison.identity_runs import check_measurable
from comparison.identity_texts import IdentityArguments, IdentityTexts, read_identity_texts, toxic_probabilities
from comparison.metrics import calibration_error
from layer_distillation.errors import UserError
from layer_distillation.problem_types import MULTI_LABEL, SINGLE_LABEL
from text_data.labels import LabelMap

NUM_TEXTS = 600


@pytest.fixture(scope="module")
def texts():
    """Labels, probabilities with many ties, and three identities, the last of which is too rare."""
    draws = np.random.default_rng(0)
    is_toxic = draws.random(NUM_TEXTS) < 0.4
    probabilities = np.clip(draws.normal(0.35 + 0.3 * is_toxic, 0.25), 0.01, 0.99).round(2)
    mentions = {"old": draws.random(NUM_TEXTS) < 0.3, "blind": draws.random(NUM_TEXTS) < 0.4}
    return is_toxic, probabilities, mentions | {"taoist": np.arange(NUM_TEXTS) < MIN_TEXTS}


def expected(is_toxic, probabilities, mentioned):
    """The metrics of one identity, from their definitions."""

    def auc(chosen):
        return roc_auc_score(is_toxic[chosen], probabilities[chosen])

    toxic, of_it = is_toxic[mentioned], probabilities[mentioned]
    return {
        "subgroup_auc": auc(mentioned),
        "bpsn_auc": auc((mentioned & ~is_toxic) | (~mentioned & is_toxic)),
        "bnsp_auc": auc((mentioned & is_toxic) | (~mentioned & ~is_toxic)),
        "false_positive_rate": np.mean(of_it[~toxic] > 0.5),
        "false_negative_rate": np.mean(of_it[toxic] <= 0.5),
        "calibration_error": calibration_error(toxic.astype(int), np.column_stack([1 - of_it, of_it])),
    }


def test_every_metric_of_every_identity_is_that_of_its_definition(texts):
    is_toxic, probabilities, mentions = texts
    bias = identity_bias(is_toxic, probabilities[None], mentions, num_resamples=2)
    for name in ("old", "blind"):
        for metric, value in expected(is_toxic, probabilities, mentions[name]).items():
            assert bias.identities[name][metric].by_seed == pytest.approx([value]), (name, metric)
    assert bias.counts["old"] == ((is_toxic & mentions["old"]).sum(), (~is_toxic & mentions["old"]).sum())


def test_a_resample_scores_the_texts_that_it_drew_as_often_as_it_drew_them(texts):
    is_toxic, probabilities, mentions = texts
    bias = identity_bias(is_toxic, np.stack([probabilities, probabilities**2]), mentions, num_resamples=3)
    for row, counts in enumerate(draw(NUM_TEXTS, 3, 0)):
        drawn = np.repeat(np.arange(NUM_TEXTS), counts)
        for seed, power in enumerate((1, 2)):
            values = expected(is_toxic[drawn], probabilities[drawn] ** power, mentions["old"][drawn])
            found = {metric: bias.identities["old"][metric].resampled[row, seed] for metric in METRICS}
            assert found == pytest.approx(values)


def test_the_summaries_are_mean_power_mean_and_excess_over_the_identities(texts):
    bias = identity_bias(texts[0], texts[1][None], texts[2], num_resamples=2)
    old, blind = (bias.identities[name]["bpsn_auc"].by_seed[0] for name in ("old", "blind"))
    assert bias.mean("bpsn_auc").by_seed == pytest.approx([(old + blind) / 2])
    assert bias.power_mean("bpsn_auc").by_seed == pytest.approx([((old**-5 + blind**-5) / 2) ** (-1 / 5)])
    assert bias.excess("bpsn_auc").by_seed == pytest.approx([abs(old - blind) / 2])


def test_a_model_that_suspects_an_identity_has_a_low_bpsn_auc_and_a_paired_difference_shows_it(texts):
    is_toxic, probabilities, mentions = texts
    suspicious = np.where(mentions["old"], (probabilities + 1) / 2, probabilities)
    before, after = (identity_bias(is_toxic, p[None], mentions) for p in (probabilities, suspicious))
    assert difference(after.identities["old"]["bpsn_auc"], before.identities["old"]["bpsn_auc"]).high < -0.1
    same = difference(after.identities["old"]["subgroup_auc"], before.identities["old"]["subgroup_auc"])
    assert (same.low, same.high) == pytest.approx((0, 0), abs=1e-9)


def test_identities_with_few_texts_are_left_out_and_without_any_identity_the_error_says_how_many_it_takes(texts):
    is_toxic, probabilities, mentions = texts
    shown = to_json(identity_bias(is_toxic, probabilities[None], mentions, num_resamples=20))
    assert [row["identity"] for row in shown["identities"]] == ["old", "blind"]
    assert shown["left_out"] == ["taoist"]
    limits = shown["identities"][0]["subgroup_auc"]
    assert limits["low"] < limits["estimate"] < limits["high"]
    with pytest.raises(UserError, match=str(MIN_TEXTS)):
        identity_bias(is_toxic, probabilities[None], {"taoist": mentions["taoist"]})


def test_identities_that_nearly_all_texts_mention_are_left_out_too(texts):
    is_toxic, probabilities, mentions = texts
    few_others = {name: ~(of & (np.cumsum(of) < MIN_TEXTS)) for name, of in (("toxic", is_toxic), ("not", ~is_toxic))}
    common = few_others | {"all": np.ones(NUM_TEXTS, bool)}
    bias, alone = (
        identity_bias(is_toxic, probabilities[None], of, num_resamples=20) for of in (mentions | common, mentions)
    )
    assert bias.left_out == ["taoist", *common]
    assert to_json(bias)["power_mean"] == to_json(alone)["power_mean"]
    json.dumps(to_json(bias), allow_nan=False)


def test_texts_that_all_mention_the_identity_are_refused_before_training_with_what_to_add(texts):
    is_toxic, _, mentions = texts
    labels = LabelMap(SINGLE_LABEL, ("toxic", "other"))
    no_other_toxic = IdentityTexts("a.csv", [""] * NUM_TEXTS, is_toxic, {"old": mentions["old"] | is_toxic})
    with pytest.raises(UserError, match="0 toxic texts that do not mention it. Add such texts to --identity_file"):
        check_measurable(no_other_toxic, labels, IdentityArguments())
    check_measurable(replace(no_other_toxic, mentions=mentions), labels, IdentityArguments())


def test_an_interval_covers_the_truth_in_about_95_percent_of_samples():
    truth, covered = 0.8, 0
    draws = np.random.default_rng(1)
    gap = 1.19023  # between the means of two normal distributions whose AUC is 0.8
    for _ in range(100):
        is_toxic = np.arange(400) % 2 == 0
        probabilities = 1 / (1 + np.exp(-draws.normal(gap * is_toxic)))
        bias = identity_bias(is_toxic, probabilities[None], {"all": np.arange(400) % 4 < 2}, num_resamples=100)
        interval = score(bias.identities["all"]["bpsn_auc"])
        covered += interval.low <= truth <= interval.high
    assert 89 <= covered <= 100


# ---- The texts ----


def test_identities_are_columns_of_shares_where_the_file_has_them_and_words_elsewhere(tmp_path):
    file = tmp_path / "comments.csv"
    file.write_text(
        "comment_text,toxicity,muslim,blind\n"
        "Old Muslim men,0.2,1.0,0.0\n"
        "older,0.5,0.4,0.5\n"
        "nobody was asked about old texts,0.9,,\n"
        "The OLD story,0.49,,0.6\n"
    )
    texts = read_identity_texts(
        IdentityArguments(
            identity_file=str(file),
            identity_text_column="comment_text",
            identity_label_column="toxicity",
            identities=["muslim", "blind", "old"],
        )
    )
    assert list(texts.texts) == ["Old Muslim men", "older", "The OLD story"]
    assert texts.is_toxic.tolist() == [False, True, False]
    assert {name: of.tolist() for name, of in texts.mentions.items()} == {
        "muslim": [True, False, False],
        "blind": [False, True, True],
        "old": [True, False, True],
    }


def test_rows_for_which_nobody_was_asked_are_left_out_in_every_form_of_a_missing_number(tmp_path):
    file = tmp_path / "comments.parquet"
    columns = {
        "text": ["a", "b", "c"],
        "label": [0.0, 1.0, 1.0],
        "old": [1.0, np.nan, None],
        "blind": [0.0, np.nan, -1.0],
    }
    pq.write_table(pa.table(columns), file)
    texts = read_identity_texts(IdentityArguments(identity_file=str(file), identities=["old", "blind"]))
    assert list(texts.texts) == ["a"]


def test_ids_count_as_toxic_if_the_arguments_name_them(tmp_path):
    file = tmp_path / "phrases.csv"
    file.write_text("text,label\nI am old,0\nI hate the old,1\nold,2\n")
    texts = read_identity_texts(IdentityArguments(identity_file=str(file), toxic_labels=["1", "2"]))
    assert texts.is_toxic.tolist() == [False, True, True]


def test_labels_by_name_count_as_toxic_if_the_arguments_say_so(tmp_path):
    file = tmp_path / "phrases.csv"
    file.write_text("text,label\nI am old,nontoxic\nI hate the old,hateful\nold,toxic\n")
    texts = read_identity_texts(IdentityArguments(identity_file=str(file), toxic_labels=["toxic", "hateful"]))
    assert texts.is_toxic.tolist() == [False, True, True]
    assert texts.mentions["old"].tolist() == [True, True, True]
    assert not texts.mentions["older"].any()


@pytest.mark.parametrize(
    ("content", "changes", "named"),
    [
        ("text,label\na,toxic\n", {"identity_text_column": "comment"}, ("--identity_text_column", "'comment'")),
        ("text,label\na,toxic\n", {"identity_label_column": "toxicity"}, ("--identity_label_column", "'toxicity'")),
        ("text,label,old\na,toxic,yes\n", {}, ("old", "'yes'")),
        ("text,label,old\na,toxic,3\n", {}, ("old", "'3'")),
        ("text,label\na,\n", {}, ("--identity_label_column", "label")),
        ("text,label\na,1\nb,2\n", {"toxic_labels": ["3"]}, ("--identity_label_column", "'2'", "--toxic_labels")),
        ("text,label\na,-1\n", {}, ("--identity_label_column", "'-1'")),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, content, changes, named):
    file = tmp_path / "texts.csv"
    file.write_text(content)
    with pytest.raises(UserError) as error:
        read_identity_texts(IdentityArguments(identity_file=str(file), **changes))
    assert all(name in str(error.value) for name in named)


def test_texts_that_are_no_strings_are_refused(tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"text": 5, "label": 1}\n')
    with pytest.raises(UserError, match="--identity_text_column.*int64"):
        read_identity_texts(IdentityArguments(identity_file=str(tmp_path / "texts.jsonl")))


def test_a_file_that_is_missing_is_named():
    with pytest.raises(UserError, match="--identity_file.*missing.csv"):
        read_identity_texts(IdentityArguments(identity_file="missing.csv"))


def test_the_probability_of_being_toxic_is_the_sum_over_the_toxic_labels():
    logits = np.log([[0.5, 0.3, 0.2]]) + 7
    args = IdentityArguments(toxic_labels=["hate_speech", "offensive_language"])
    labels = LabelMap(SINGLE_LABEL, ("neither", "offensive_language", "hate_speech"))
    assert toxic_probabilities(logits, labels, args) == pytest.approx([0.5])
    with pytest.raises(UserError, match="--toxic_labels.*neither"):
        toxic_probabilities(logits, labels, IdentityArguments())


def test_of_independent_labels_the_most_probable_toxic_one_counts():
    probabilities = np.array([[0.9, 0.2, 0.6], [0.1, 0.3, 0.05]])
    logits = np.log(probabilities / (1 - probabilities))
    labels = LabelMap(MULTI_LABEL, ("praise", "insult", "threat"))
    args = IdentityArguments(toxic_labels=["insult", "threat"])
    assert toxic_probabilities(logits, labels, args) == pytest.approx([0.6, 0.3])


def test_lists_of_an_argument_file_are_as_those_of_a_command_line():
    args = IdentityArguments(toxic_labels=["insult,threat"], identities=["gay,african american", "old"])
    assert args.toxic_labels == ["insult", "threat"] and args.identities == ["gay", "african american", "old"]
