"""A part of the fuzz of the data reader, compared with pandas and the modules csv and json."""

import random
from collections import Counter

from experiments.fuzz_reader import GOOD, outcome_of_splits, read_with_pandas, run_case
from experiments.made_up_files import KINDS, make_case, rows_again


def test_made_up_files_are_read_as_pandas_reads_them_or_refused_with_their_name(tmp_path):
    outcomes = {number: run_case(number, tmp_path, read_with_pandas, seed=1) for number in range(120)}
    wrong = {
        number: (case.path.name, case.kind, case.arguments, outcome)
        for number, (case, outcome) in outcomes.items()
        if outcome not in GOOD
    }
    assert wrong == {}
    counts = Counter(outcome for _, outcome in outcomes.values())
    assert counts["right"] > 40 and counts["refused"] > 40
    assert {case.kind for case, _ in outcomes.values()} == set(KINDS)


def test_kinds_of_files_that_are_rarely_made_are_read_as_pandas_reads_them(tmp_path):
    # Soft labels with decimal commas, and a cell of lists that is a number.
    files = ((503, 968), (512, 16), (517, 492))
    assert [run_case(number, tmp_path, read_with_pandas, seed)[1] for seed, number in files] == ["right"] * 3


def test_splits_that_differ_are_read_alike_and_the_label_order_counts(tmp_path):
    outcomes, with_order = {}, Counter()
    for number in range(80):
        case, rng = make_case(number, tmp_path, seed=2), random.Random(number)
        other, order = rows_again(case, number, seed=2), ()
        if case.kind in ("names", "lists of names") and not case.order and rng.random() < 0.7:
            values = [row[list(row)[-1]] or () for row in case.rows]
            names = {name for value in values for name in ([value] if case.kind == "names" else value)}
            order = tuple(rng.sample(sorted(names), len(names)))
        try:
            outcomes[number] = outcome_of_splits(case, other, order, read_with_pandas)
        except Exception as error:
            outcomes[number] = f"{type(error).__name__}: {error}"
        with_order[outcomes[number]] += bool(order)
    wrong = {number: outcome for number, outcome in outcomes.items() if outcome not in GOOD}
    assert wrong == {}
    assert Counter(outcomes.values())["right"] > 25 and with_order["right"] > 2
