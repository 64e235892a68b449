"""Tests of `experiments.tables`: the pages hold what the files in docs/results give, and a wrong figure is found."""

import csv
import shutil

import pytest

from comparison.bootstrap import difference, holm, pooled_seed_variance
from comparison.metrics import METRICS
from comparison.results import TEACHER, score_groups, write_results
from experiments import known_figures, tables
from tests.comparison_results_by_hand import make_results

ACCURACIES = {("distill", "odd"): 0.9, ("distill", "even"): 0.8, ("tfidf", ""): 0.5}


def test_the_pages_hold_what_the_files_give(capsys):
    try:
        tables.main(["--check"])
    except SystemExit:
        pytest.fail(capsys.readouterr().out)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder in place of docs/results."""
    for module in (tables, known_figures):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    known_figures.known_figures.cache_clear()
    known_figures.scores_of.cache_clear()
    return tmp_path


@pytest.fixture
def results(folder):
    """A comparison whose files are committed as `made`."""
    results = make_results(ACCURACIES)
    write_results(folder, results)
    shutil.move(folder / "predictions", folder / "made")
    rows = known_figures.read_rows(folder / "results.csv")
    of_models = [results.teacher_predictions, *(run.predictions for run in results.runs)]
    for row, predictions in zip(rows, of_models, strict=True):
        for metric in METRICS[results.problem_type]:
            row[f"predict_{metric.name}"] = metric(predictions.labels, predictions.answers)
    with open(folder / "made.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return results


def page(text):
    return text.splitlines()


# ---- Numbers of files ----


def test_numbers_in_a_text_are_given_by_the_mean_over_seeds_and_its_deviation(folder):
    (folder / "runs.csv").write_text(
        "recipe,seed,eval_accuracy\nplain,0,0.80\nplain,1,0.84\nplain,2,0.82\nnew,0,0.9\n"
    )
    right = (
        "- Plain reaches 82.0\n  ± 2.0 per cent (0.820) with T = 4,\n  and new 90.0 <!-- from runs -->, unlike 12.3."
    )
    assert tables.check(page(right)) == []
    for wrong in ("82.1 ± 2.0", "82.0 ± 2.1", "0.821", "2.0"):
        (problem,) = tables.check(page(f"An accuracy of 80.0.\n\nPlain: {wrong} <!-- from runs -->"))
        assert problem.startswith(f"3: {wrong} ")
    (problem,) = tables.check(page("Text <!-- from walks -->"))
    assert "walks" in problem


def test_a_comment_reaches_back_to_the_one_before(folder):
    (folder / "a.csv").write_text("seed,accuracy\n0,0.5\n")
    (folder / "b.csv").write_text("seed,accuracy\n0,0.25\n")
    assert tables.check(page("One has 50.0 <!-- from a --> and the other 25.0 <!-- from b -->.")) == []
    assert len(tables.check(page("One has 25.0 <!-- from a --> and the other 25.0 <!-- from b -->."))) == 1
    assert tables.check(page("- One has 50.0, 25.0 <!-- from a, b -->\n- 99.9\n```\n9.9 <!-- from a -->\n```")) == []


def test_a_copied_interval_has_its_sign_and_a_single_number_needs_none():
    known = known_figures.Known({1: [(1.3,)], 3: [(1.3, -0.2, 2.8)]})
    assert known.has("+1.3 [-0.2, 2.8]") and known.has("-1.3")
    assert not known.has("-1.3 [-2.8, 0.2]") and not known.has("+1.3 [0.2, 2.8]")


# ---- Tables ----

COPY = """Results:

<!-- from study -->
| Recipe | Seeds | Accuracy (%) |
|---|---|---|
| new | 1 | 81.0 |
| plain | 3 | 80.0 ± 1.0 |"""


def test_the_rows_of_a_table_are_those_of_the_study(folder):
    (folder / "study.md").write_text(
        "| Recipe | Loss | Seeds | Accuracy (%) |\n|---|---|---|---|\n"
        "| plain | 81.0 | 3 | 80.0 ± 1.0 |\n| new | 0.2 | 2 | 82.0 ± 0.5 |\n"
    )
    problems = tables.check(page(COPY))
    expected = "6: '1' instead of '2', '81.0' instead of '82.0 ± 0.5'"
    assert problems == [expected], "although the file has 81.0 in another place"
    rebuilt = tables.rebuilt(page(COPY))
    assert rebuilt[:3] == page(COPY)[:3] and "| new    | 2     | 82.0 ± 0.5   |" in rebuilt
    assert tables.check(rebuilt) == [] and tables.rebuilt(rebuilt) == rebuilt
    assert tables.unmarked_tables(rebuilt) == [] and tables.unmarked_tables(rebuilt[3:]) == [1]


def test_a_table_of_layers_is_made_from_the_files_of_a_comparison(folder, results):
    text = ["Before", "<!-- table: made layers -->", "", "After"]
    (problem,) = tables.check(text)
    assert problem.startswith("2: ")
    made = tables.rebuilt(text)
    assert tables.check(made) == [] and made[-1] == "After"
    titles, teacher, odd, even = tables._cells(made[2:7])
    assert titles[0] == "Student layers" and teacher[0] == "teacher (1 2 3 4 5 6)" and odd[0] == "odd (1 3 5)"
    assert odd[1] == "0.090 ± 0.010" and odd[3] == "91.0 ± 1.0"

    scores = score_groups(results.predictions)["accuracy"]
    seeds = pooled_seed_variance(scores.values())
    leads = [difference(scores["distill", strategy], scores[TEACHER], seeds) for strategy in ("odd", "even")]
    corrected = holm([lead.p_value for lead in leads])
    assert odd[4:] == [str(leads[0]), f"{corrected[0]:.3f}"] and even[4:] == [str(leads[1]), f"{corrected[1]:.3f}"]
    assert seeds[False].degrees_of_freedom == 4, "of the two groups that have seeds, two each"

    made[5] = made[5].replace(str(leads[0]), "-4.9 [-5.0, 0.0]")
    (problem,) = tables.check(made)
    assert problem.startswith("6: '-4.9 [-5.0, 0.0]'") and str(leads[0]) in problem


def test_groups_are_compared_in_pairs_and_against_one(folder, results):
    _, _, row = tables.comparison_table("made", "pairs", "distill").splitlines()
    scores = score_groups(results.predictions)["accuracy"]
    lead = difference(scores["distill", "odd"], scores["distill", "even"], pooled_seed_variance(scores.values()))
    assert str(lead) in row and f"{lead.p_value:.3f}" in row
    assert tables.comparison_table("made", "against", "distill-odd").count("odd, distilled") == 3
    assert tables.comparison_table("made", "methods").count("\n") == 1 + 4
    with pytest.raises(ValueError, match="cubes"):
        tables.comparison_table("made", "cubes")
    known = known_figures.known_figures("made")
    back = difference(scores["distill", "even"], scores["distill", "odd"], pooled_seed_variance(scores.values()))
    assert known.has(str(lead)) and known.has(str(back))
    assert known.has(f"p = {lead.p_value:.3f}"), "the only pair needs no correction"


def test_scores_that_are_not_those_of_the_predictions_are_refused(folder, results):
    shutil.copy(folder / "results.csv", folder / "made.csv")
    (problem,) = tables.check(["<!-- table: made methods -->", "| a |", "|---|"])
    assert "differ in the accuracy" in problem
