"""Tests of `comparison.report` and `comparison.document`: tables, and sentences that their intervals allow."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest

from comparison.bootstrap import Interval, difference, holm, pooled_seed_variance
from comparison.document import Bullets, Code, Figure, Heading, Table, Text, to_html, to_markdown, write_document
from comparison.metrics import calibration_error
from comparison.report import (
    build_report,
    calibration_table,
    layer_statements,
    layer_table,
    method_statements,
    method_table,
    statement,
    teacher_table,
)
from comparison.results import TEACHER, read_predictions, result_rows, score_groups, write_results
from comparison.styles import group_title
from experiments import intervals
from tests.comparison_results_by_hand import make_results

ACCURACIES = {
    ("distill", "odd"): 0.9,
    ("distill", "even"): 0.88,
    ("distill", "random"): 0.4,
    ("lora", "odd"): 0.85,
}


@pytest.fixture(scope="module")
def results():
    return make_results(ACCURACIES)


@pytest.fixture(scope="module")
def scores(results):
    return score_groups(results.predictions)


# ---- Tables ----


def test_the_layer_table_has_the_columns_of_the_assignment_and_the_first_method_alone(results):
    rows = layer_table(results)
    assert list(rows[0]) == ["Student Layer", "Training Loss", "Validation Loss", "Validation Accuracy"]
    assert [row["Student Layer"] for row in rows] == ["Odd (1,3,5)", "Even (2,4,6)", "Random (control)", "Teacher"]
    assert rows[0]["Validation Accuracy"] == "91.0 ± 1.0"
    assert rows[0]["Training Loss"] == "0.090 ± 0.010"
    assert rows[-1]["Validation Loss"] == "0.150"


def test_rows_of_results_have_the_scores_of_all_labels_and_no_times_of_evaluations():
    results = make_results({("distill", "top"): 0.9}, seeds=(0,))
    speed = ["runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "runtime_mm"]
    by_clock = {f"{prefix}_{name}": 1.0 for prefix in ("eval", "predict") for name in speed}
    scores = {"eval_f1_full_time": 0.5, "predict_f1_runtime": 0.6, "train_runtime": 9.0}
    results.runs[0].student.results.update(by_clock | scores)
    _, row = result_rows(results)
    assert {name: row.get(name) for name in scores} == scores
    assert not by_clock.keys() & row.keys()


def test_top_and_bottom_say_how_many_layers_they_are():
    assert layer_table(make_results({("distill", "top"): 0.9}))[0]["Student Layer"] == "Top-3 (1,2,3)"


def test_the_method_table_has_scores_of_every_class_parameters_size_and_time(results):
    rows = {row["Model Type"]: row for row in method_table(results)}
    assert list(rows) == ["Odd, distilled", "Even, distilled", "Random, distilled", "Odd, LoRA", "Teacher"]
    lora = rows["Odd, LoRA"]
    assert (lora["Test Accuracy"], lora["Test Macro-F1"]) == ("86.0 ± 1.0", "81.0 ± 1.0")
    assert lora["F1 hate_speech"] == "76.0 ± 1.0"
    assert (lora["Trained Parameters"], lora["Parameters"]) == ("480,386", "17,390,594")
    assert (lora["Size (MB)"], rows["Odd, distilled"]["Size (MB)"]) == ("69.6 + 1.9", "69.6")
    assert rows["Teacher"]["Trained Parameters"] == "-"


def test_strategies_have_names_that_a_reader_knows():
    assert group_title(("distill", "block_influence")) == "block influence, distilled"
    assert group_title(("lora", "cka")) == "CKA, LoRA"


def test_many_classes_are_left_out_of_the_table(results):
    many = replace(results, label_names=[f"intent {number}" for number in range(150)])
    assert not any(column.startswith("F1 ") for row in method_table(many) for column in row)


# ---- Statements ----


def test_a_sentence_claims_no_more_than_its_interval():
    for interval, claim, figures in (
        (Interval(0.001, -0.006, 0.008), "even and odd cannot be told apart", "+0.1 [-0.6, 0.8] points of accuracy"),
        (Interval(0.012, 0.003, 0.021), "even is better than odd", "+1.2 [0.3, 2.1] points of accuracy"),
        (Interval(-0.012, -0.021, -0.003), "even is worse than odd", "-1.2 [-2.1, -0.3] points of accuracy"),
        # An interval that contains 0 as it is printed claims nothing.
        (Interval(0.012, 0.0004, 0.023), "even and odd cannot be told apart", "+1.2 [0.0, 2.3] points of accuracy"),
        (Interval(-0.0001, -0.0002, 0.0), "even and odd cannot be told apart", "+0.0 [0.0, 0.0] points of accuracy"),
    ):
        sentence = statement("even", "odd", "accuracy", interval, p_value=0.01)
        assert sentence.startswith(claim) and figures in sentence


def test_a_sentence_claims_nothing_that_does_not_survive_the_correction():
    interval = Interval(0.012, 0.003, 0.021, p_value=0.02)
    assert "better" in statement("even", "odd", "accuracy", interval, p_value=0.04)
    sentence = statement("even", "odd", "accuracy", interval, p_value=0.06)
    assert "cannot be told apart" in sentence and sentence.endswith("corrected p = 0.060.")


def test_a_sentence_over_too_few_seeds_claims_nothing():
    sentence = statement("even", "odd", "accuracy", Interval(0.1, 0.08, 0.12, 1e-9, over_seeds=False), p_value=1e-9)
    assert "too few seeds" in sentence and "better" not in sentence and "+10.0 [8.0, 12.0]" in sentence


def test_a_sentence_over_too_few_seeds_says_which_side_has_one_seed():
    """Three seeds of `odd` do not tell how far those of `random` differ, which has fresh weights."""
    results = make_results({("distill", "odd"): 0.9, ("distill", "random"): 0.4, ("tfidf", ""): 0.6})
    results = replace(results, runs=[run for run in results.runs if run.cell.seed == 0 or run.cell.strategy == "odd"])
    scores = score_groups(results.predictions)
    (of_layers,) = layer_statements(results, scores["accuracy"])
    assert of_layers.startswith("odd and random (one seed) have too few seeds to be compared: +")
    of_odd, of_random = method_statements(results, scores["macro_f1"])
    assert of_odd.startswith("odd: distilled is better than TF-IDF: +")
    assert of_random.startswith("random: TF-IDF and distilled (one seed) have too few seeds to be compared: +")


def test_sentences_are_corrected_for_their_number(results, scores):
    seeds = pooled_seed_variance(scores["accuracy"].values())
    groups = [("distill", strategy) for strategy in ("odd", "even", "random")]
    pairs = list(itertools.combinations(groups, 2))
    p_values = [difference(scores["accuracy"][a], scores["accuracy"][b], seeds).p_value for a, b in pairs]
    largest = max(holm(p_values))
    assert sum(f"corrected p = {largest:.3f}" in s for s in layer_statements(results, scores["accuracy"])) == 1


def test_baselines_without_strategies_are_compared_with_the_students_of_each_strategy():
    results = make_results({("distill", "odd"): 0.9, ("distill", "even"): 0.9, ("tfidf", ""): 0.5, ("rival", ""): 0.6})
    sentences = method_statements(results, score_groups(results.predictions)["macro_f1"])
    assert len(sentences) == 5
    assert sum(sentence.startswith("odd: distilled is better than TF-IDF") for sentence in sentences) == 1
    assert (
        sum(sentence.startswith(("rival, fine-tuned and TF-IDF", "rival, fine-tuned is")) for sentence in sentences)
        == 1
    )


def test_the_calibration_error_is_that_of_each_run_with_an_interval(results, scores):
    rows = {
        row["Model"]: value
        for row in calibration_table(scores["calibration_error"])
        for value in [list(row.values())[1]]
    }
    assert list(rows) == ["Teacher", "Odd, distilled", "Even, distilled", "Random, distilled", "Odd, LoRA"]
    odd = [run.predictions for run in results.groups["distill", "odd"]]
    expected = np.mean([calibration_error(run.labels, run.probabilities) for run in odd])
    assert rows["Odd, distilled"].startswith(f"{100 * expected:.1f} [")


def test_intervals_recompute_from_the_committed_predictions(results, scores, tmp_path, capsys):
    write_results(tmp_path, results)
    again = score_groups(read_predictions(tmp_path / "predictions"))
    assert again.keys() == scores.keys()
    for metric, groups in scores.items():
        assert again[metric].keys() == groups.keys()
        assert all(np.array_equal(again[metric][group].resampled, groups[group].resampled) for group in groups)
    intervals.main([str(tmp_path / "predictions"), "--against", "teacher"])
    printed = capsys.readouterr().out
    for row in teacher_table(results, scores):
        lost = next(value for column, value in row.items() if "accuracy" in column)
        assert re.search(rf"\| {row['Student']} +\|.* {re.escape(lost)}", printed, flags=re.IGNORECASE)


def test_strategies_are_compared_two_by_two_within_the_first_method_the_better_first(results, scores):
    sentences = layer_statements(results, scores["accuracy"])
    assert len(sentences) == 3
    assert any(sentence.startswith("odd is better than random: +") for sentence in sentences)
    assert any(sentence.startswith("even is better than random: +") for sentence in sentences)
    assert sum("cannot be told apart" in sentence for sentence in sentences) == 1


def test_methods_are_compared_for_the_same_layers(results, scores):
    (sentence,) = method_statements(results, scores["macro_f1"])
    assert sentence.startswith("odd: distilled is better than LoRA: +")


def test_copies_of_one_model_are_never_called_better():
    results = make_results({("distill", "odd"): 0.8})
    copies = [replace(run, cell=replace(run.cell, strategy="even")) for run in results.runs]
    results = replace(results, runs=[*results.runs, *copies])
    (sentence,) = layer_statements(results, score_groups(results.predictions)["accuracy"])
    assert "cannot be told apart on this data: +0.0 [-" in sentence
    assert sentence.endswith("points of test accuracy, corrected p = 1.000.")


def test_what_is_lost_against_the_teacher_has_an_interval(results, scores):
    rows = teacher_table(results, scores)
    assert [row["Student"] for row in rows][:2] == ["odd, distilled", "even, distilled"]
    (lost,) = (value for column, value in rows[2].items() if column.startswith("Test accuracy"))
    of_metric = scores["accuracy"]
    seeds = pooled_seed_variance(of_metric.values())
    assert lost == str(difference(of_metric["distill", "random"], of_metric[TEACHER], seeds))
    assert lost.startswith("-5")


def test_nothing_is_said_about_a_group_with_a_run_whose_score_is_undefined():
    results = make_results(ACCURACIES)
    del results.groups["distill", "even"][1].student.results["predict_accuracy"]
    scores = score_groups(results.predictions)
    (sentence,) = layer_statements(results, scores["accuracy"])
    assert sentence.startswith("odd is better than random")
    lost = [row["Test accuracy minus teacher's (points)"] for row in teacher_table(results, scores)]
    assert [value == "-" for value in lost] == [False, True, False, False]
    del results.teacher.results["predict_accuracy"]
    assert {row["Test accuracy minus teacher's (points)"] for row in teacher_table(results, scores)} == {"-"}


# ---- Document ----


def test_the_report_names_failed_runs_before_everything_else(results, scores):
    blocks = build_report(results, scores, {}, {"lora-odd-2": "OSError: disk full"}, "python x")
    text = to_markdown(blocks)
    assert text.index("- lora-odd-2: OSError: disk full") < text.index("## Which layers")
    assert "Failed" not in to_markdown(build_report(results, scores, {}, {}, "python x"))
    assert "for the 3 about layers and for the 1 about methods" in text


def test_baselines_alone_are_reported_too():
    results = make_results({("tfidf", ""): 0.6}, seeds=(0,))
    text = to_markdown(build_report(results, score_groups(results.predictions), {}, {"distill-odd-0": "OSError"}, ""))
    assert "| TF-IDF " in text and "## Which layers" not in text and "layer 1 is nearest" not in text


def test_one_seed_each_makes_no_interval(results, tmp_path, capsys):
    write_results(tmp_path, replace(results, runs=[run for run in results.runs if run.cell.seed == 1]))
    intervals.main([str(tmp_path / "predictions"), "--against", "distill-odd"])
    printed = capsys.readouterr().out
    assert printed.count("(one seed)") == 3 * (4 + 4), "four groups, and four differences"
    assert printed.count("[") == 3, "the teacher varies with the examples alone"


def how_sure(results):
    text = to_markdown(build_report(results, score_groups(results.predictions), {}, {}, "python x"))
    return text.split("## How sure this is")[1].split("## Figures")[0]


def test_seeds_whose_runs_have_failed_are_not_counted(results):
    complete = how_sure(results)
    assert "over 3 seeds of training" in complete and "One seed" not in complete
    two_failed = [run for run in results.runs if run.cell.group != ("lora", "odd") or run.cell.seed == 1]
    assert "over 1 to 3 seeds of training" in how_sure(replace(results, runs=two_failed))
    text = how_sure(replace(results, runs=[run for run in results.runs if run.cell.seed == 1]))
    assert "over 1 seed of training" in text and "One seed" in text


BLOCKS = [
    Heading("A & B", 1),
    Text("1 < 2"),
    Bullets(["one", "two"]),
    Table([{"a": "1", "b": "x|y"}, {"a": "2"}]),
    Figure("figures/bars", "Bars"),
    Code("python run.py --x '<y>'"),
]


def test_a_document_is_markdown_and_a_page_with_everything_escaped(tmp_path):
    write_document(tmp_path, "report", BLOCKS)
    markdown, page = (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()
    assert r"| 1 | x\|y |" in markdown
    assert markdown == to_markdown(BLOCKS) and page == to_html("A & B", BLOCKS)
    for part in ("# A & B", "- one\n- two", "![Bars](figures/bars.png)", "```\npython run.py --x '<y>'"):
        assert part in markdown
    for part in (
        "<title>A &amp; B</title>",
        "<h1>A &amp; B</h1>",
        "1 &lt; 2",
        "<li>two</li>",
        "<td>2</td><td>-</td>",
        "<img src='figures/bars.svg' alt='Bars'>",
        "&lt;y&gt;",
    ):
        assert part in page
