"""A part of the fuzz of the data reader, compared with pandas and the modules csv and json."""

from collections import Counter

from experiments.fuzz_reader import GOOD, read_with_pandas, run_case
from experiments.made_up_files import KINDS


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
