"""Holds the tables and numbers of README.md and docs/ to the files in docs/results, and rebuilds the tables.

    python -m experiments.tables            # rebuilds the tables of all pages
    python -m experiments.tables --check    # tells what the files do not give, and changes nothing; a test does this

Two comments in a page name the files, without their endings:

- `<!-- from sst2, rte -->` after a text, or on the line above a table: the files give every number with a decimal
  point that stands before the comment in its paragraph (back to an earlier comment), or in the table
  (`experiments/known_figures.py`). A row that stands in a table of `docs/results/NAME.md` too is copied from there.
- `<!-- table: full_depth_sst2 layers -->` above a table, or where one is to be: the table is made from
  `NAME.csv`, the `results.csv` of a comparison, and `NAME/*.npz`, its `predictions`. The kinds of tables:

      layers              layers of the first method, losses, scores, and the distance from the teacher
      methods             all groups, losses, scores, trained parameters, and the distance from the teacher
      pairs METHOD        every two groups of a method
      against GROUP       every group against one, such as distill-odd

  Intervals are 95%, over the examples and the seeds, whose variance is pooled over all groups of the comparison.
  p-values are corrected for the number of rows of the table that have one (Holm).
"""

import argparse
import itertools
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from benchmarks.results import RESULTS, ROOT
from comparison.bootstrap import Interval, difference, holm, p_value_in_print, pooled_seed_variance
from comparison.results import TEACHER, Group
from comparison.styles import capitalized, group_title
from experiments.known_figures import FIGURE, known_figures, read_rows, scores_of
from layer_distillation.errors import UserError
from training.evaluation import TRAINING_LOSS
from training.tables import METRIC_TITLES, grouped, markdown_table, spread

COMMENT = re.compile(r"<!-- (from|table:) (.+?) -->")
NUMBERS_OF_RUNS = ("Seeds", "Runs")
NEW_PARAGRAPH = re.compile(r"\s*([-*] |\d+\. |#|\|)")
CELL_BORDER = re.compile(r"(?<!\\)\|")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where files and pages differ")
    args = parser.parse_args(argv)
    problems, unmarked = [], []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        lines = page.read_text(encoding="utf-8").splitlines()
        if not args.check and (new := rebuilt(lines)) != lines:
            lines = new
            page.write_text("\n".join(lines) + "\n", encoding="utf-8")
        problems += [f"{page.relative_to(ROOT)}:{problem}" for problem in check(lines)]
        unmarked += [f"{page.relative_to(ROOT)}:{number}" for number in unmarked_tables(lines)]
    print("\n".join(problems) or "The files give every marked table and number.")
    print(f"Tables with figures that no comment names a file for: {', '.join(unmarked) or 'none'}.")
    if problems:
        sys.exit(1)


# ---- Pages ----


@dataclass(frozen=True)
class Mark:
    """A comment of a page, and what it is about.

    Attributes:
        kind: "from" or "table:".
        words: what the comment says after it.
        line: number of the comment's line, from 1.
        text: that the comment stands behind; empty where it stands above a table.
        start, stop: lines of the table, 0-based; equal where there is none.
    """

    kind: str
    words: str
    line: int
    text: str
    start: int
    stop: int


def marks(lines: Sequence[str]) -> Iterator[Mark]:
    """Finds the comments of a page, outside of code."""
    before, in_code = "", False
    for index, line in enumerate(lines):
        in_code ^= line.lstrip().startswith("```")
        if in_code or not line.strip() or NEW_PARAGRAPH.match(line):
            before = ""
        if in_code:
            continue
        position = 0
        for comment in COMMENT.finditer(line):
            # A figure may go on in the next line, which is indented in a list.
            text = " ".join((before + line[position : comment.start()]).split())
            start = index + 1
            while start < len(lines) and not lines[start].strip():
                start += 1
            stop = start
            while stop < len(lines) and lines[stop].startswith("|"):
                stop += 1
            if start == stop:
                start = stop = index + 1
            yield Mark(*comment.groups(), index + 1, text, start, stop)
            before, position = "", comment.end()
        before += line[position:] + " "


def check(lines: Sequence[str]) -> list[str]:
    """Returns what the files do not give, with the number of the line."""
    problems = []
    for mark in marks(lines):
        try:
            if mark.kind == "from" and mark.text:
                problems += _unknown(mark.text, mark)
            elif mark.start == mark.stop:
                problems.append(f"{mark.line}: there is no table below the comment")
            else:
                problems += _differences(mark, lines)
        except UserError as error:
            problems.append(f"{mark.line}: {error}")
    return problems


def unmarked_tables(lines: Sequence[str]) -> list[int]:
    """Returns the numbers of the first lines of tables with figures that no comment stands above."""
    marked, numbers = {mark.start for mark in marks(lines)}, []
    pairs = enumerate(zip(lines, ["", *lines], strict=False))
    starts = [number for number, (line, before) in pairs if line.startswith("|") and not before.startswith("|")]
    for start in starts:
        table = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
        if start not in marked and FIGURE.search("\n".join(table)):
            numbers.append(start + 1)
    return numbers


def _unknown(text: str, mark: Mark) -> list[str]:
    known = [known_figures(name) for name in _names(mark)]
    figures = dict.fromkeys(FIGURE.findall(text))
    return [
        f"{mark.line}: {figure} is not given by {mark.words}"
        for figure in figures
        if not any(of_file.has(figure) for of_file in known)
    ]


def _differences(mark: Mark, lines: Sequence[str]) -> list[str]:
    rows, expected = _cells(lines[mark.start : mark.stop]), _cells(_table_of(mark, lines))
    if len(rows) != len(expected):
        return [f"{mark.line}: the table has {len(rows)} rows, the files give {len(expected)}"]
    problems = []
    for position, (row, given) in enumerate(zip(rows, expected, strict=True)):
        if row != given:
            cells = [f"{a!r} instead of {b!r}" for a, b in itertools.zip_longest(row, given) if a != b]
            below_titles = 1 if position else 0  # the line of dashes
            problems.append(f"{mark.start + 1 + position + below_titles}: {', '.join(cells)}")
    if mark.kind == "from":
        problems += _unknown("\n".join(lines[mark.start : mark.stop]), mark)
    return problems


def rebuilt(lines: Sequence[str]) -> list[str]:
    """Returns a page with its tables made from the files."""
    lines = list(lines)
    for mark in reversed(list(marks(lines))):
        if mark.kind == "table:" or not mark.text:
            table = _table_of(mark, lines)
            if _cells(table) != _cells(lines[mark.start : mark.stop]):
                lines[mark.start : mark.stop] = table
    return lines


def _table_of(mark: Mark, lines: Sequence[str]) -> list[str]:
    """Returns the lines of a table as the files give it."""
    if mark.kind == "table:":
        return comparison_table(*mark.words.split()).splitlines()
    rows = _cells(lines[mark.start : mark.stop])
    for name in _names(mark):
        file = RESULTS / f"{name}.md"
        if file.is_file():
            rows = _copied(rows, file.read_text(encoding="utf-8").splitlines())
    return _lines(rows) if rows != _cells(lines[mark.start : mark.stop]) else list(lines[mark.start : mark.stop])


def _names(mark: Mark) -> list[str]:
    return [name.strip() for name in mark.words.split(",")]


def _cells(table: Sequence[str]) -> list[list[str]]:
    """Returns the cells of a table's lines, without the line below the titles."""
    rows = [[cell.strip() for cell in CELL_BORDER.split(line.strip())[1:-1]] for line in table]
    return rows[:1] + rows[2:]


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    titles, *others = rows
    return markdown_table([dict(zip(titles, row, strict=True)) for row in others]).splitlines()


def _copied(rows: list[list[str]], page: Sequence[str]) -> list[list[str]]:
    """Returns the rows of a table with the figures of the rows that a table of another page has too.

    Rows are the same where the cells without figures are, but for the number of runs, in a table that has all columns.
    """
    titles, *others = rows
    labels = [
        place
        for place, title in enumerate(titles)
        if title not in NUMBERS_OF_RUNS and not any(FIGURE.search(row[place]) for row in others)
    ]
    for table in _tables(page):
        if len(set(titles)) < len(titles) or not set(titles) <= set(table[0]):
            continue
        places = [table[0].index(title) for title in titles]
        given = grouped(
            [[row[place] for place in places] for row in table[1:]], key=lambda row: tuple(row[i] for i in labels)
        )
        found = [given.get(tuple(row[i] for i in labels), []) for row in others]
        others = [new[0] if len(new) == 1 else row for row, new in zip(others, found, strict=True)]
    return [titles, *others]


def _tables(page: Sequence[str]) -> Iterator[list[list[str]]]:
    for is_table, lines in itertools.groupby(page, key=lambda line: line.startswith("|")):
        if is_table:
            yield _cells(list(lines))


# ---- Tables of comparisons ----


@dataclass(frozen=True)
class Comparison:
    """The committed results of a comparison.

    Attributes:
        name: of its files.
        groups: rows of the csv file by method and strategy, the teacher among them.
    """

    name: str
    groups: Mapping[Group, Sequence[Mapping[str, str]]]

    @property
    def prefix(self) -> str:
        """Prefix of the metrics on the reported split."""
        return "predict" if "predict_loss" in self.groups[TEACHER][0] else "eval"

    @property
    def students(self) -> list[Group]:
        return [group for group in self.groups if group != TEACHER]

    def spread(self, group: Group, column: str, digits: int, factor: int = 1) -> str:
        return spread([factor * float(row[column]) for row in self.groups[group]], digits)

    def title(self, metric: str) -> str:
        return f"{'Test' if self.prefix == 'predict' else 'Validation'} {METRIC_TITLES[metric]}"

    def differences(self, pairs: Sequence[tuple[Group, Group]], metric: str) -> list[tuple[Interval, str]]:
        """Returns the first minus the second of each pair, and the p-value, corrected for the number of p-values.

        Where nothing is known about other seeds, there is none.
        """
        scores = scores_of(self.name)[metric]
        seeds = pooled_seed_variance(scores.values())
        intervals = [difference(scores[first], scores[second], seeds) for first, second in pairs]
        corrected = iter(holm([interval.p_value for interval in intervals if interval.over_seeds]))
        return [
            (interval, p_value_in_print(next(corrected)) if interval.over_seeds else "-") for interval in intervals
        ]


def read_comparison(name: str) -> Comparison:
    """Reads the files of a comparison.

    Raises:
        UserError: they are missing, or the predictions do not have the scores of the csv file.
    """
    if not (RESULTS / f"{name}.csv").is_file() or not (RESULTS / name).is_dir():
        raise UserError(f"A table of {name} needs docs/results/{name}.csv and docs/results/{name}/*.npz.")
    groups = grouped(read_rows(RESULTS / f"{name}.csv"), key=lambda row: (row["method"], row["strategy"]))
    comparison = Comparison(name, groups)
    for metric in scores_of(name):
        of_predictions = {group: scores.by_seed.mean() for group, scores in scores_of(name)[metric].items()}
        for group in groups | of_predictions:
            stated = [float(row[f"{comparison.prefix}_{metric}"]) for row in groups.get(group, [])]
            if not stated or abs(mean(stated) - of_predictions.get(group, 0)) > 1e-4:
                raise UserError(f"{name}.csv and its predictions differ in the {metric} of {group_title(group)}.")
    return comparison


def comparison_table(name: str, kind: str, *words: str) -> str:
    """Returns a table of a comparison as Markdown.

    Args:
        kind: as in the text above.
        words: METHOD or GROUP where the kind has one, then optionally a metric. By default it is the first of the
            comparison for `layers` and `pairs`, the second for the others.

    Raises:
        UserError: there is no such table.
    """
    comparison = read_comparison(name)
    of_layers, of_methods = scores_of(name)
    match kind, *words:
        case "layers", *metric:
            return _layer_table(comparison, *metric or [of_layers])
        case "methods", *metric:
            return _method_table(comparison, *metric or [of_methods])
        case "pairs", method, *metric:
            groups = [group for group in comparison.students if group[0] == method]
            pairs = list(itertools.combinations(groups, 2))
            return _pair_table(comparison, pairs, *metric or [of_layers])
        case "against", reference, *metric:
            second = tuple(f"{reference}-".split("-")[:2])
            pairs = [(group, second) for group in comparison.groups if group != second]
            return _pair_table(comparison, pairs, *metric or [of_methods])
    raise UserError(f"No table is called '{' '.join((kind, *words))}'. See python -m experiments.tables --help.")


def _layer_table(comparison: Comparison, metric: str) -> str:
    first = comparison.students[0][0]
    students = [group for group in comparison.students if group[0] == first]
    rows = []
    for group in (TEACHER, *students):
        layers = "; ".join(dict.fromkeys(row["layers"] for row in comparison.groups[group]))
        rows.append(
            {
                "Student layers": f"{group[1] or 'teacher'} ({layers})".replace("(none)", "(fresh weights)"),
                "Training loss": comparison.spread(group, TRAINING_LOSS, 3),
                "Validation loss": comparison.spread(group, "eval_loss", 3),
                f"Validation {METRIC_TITLES[metric]} (%)": comparison.spread(group, f"eval_{metric}", 1, 100),
            }
        )
    return _with_distances(rows, comparison, students, metric)


def _method_table(comparison: Comparison, metric: str) -> str:
    rows = []
    for group, runs in comparison.groups.items():
        trained = runs[0]["trainable_parameters"]
        rows.append(
            {
                "Model": capitalized(group_title(group)),
                "Training loss": comparison.spread(group, TRAINING_LOSS, 3),
                **{
                    f"{comparison.title(name)} (%)": comparison.spread(group, f"{comparison.prefix}_{name}", 1, 100)
                    for name in scores_of(comparison.name)
                },
                "Trained parameters": f"{int(trained):,}" if trained else "-",
            }
        )
    return _with_distances(rows, comparison, comparison.students, metric)


def _with_distances(
    rows: Sequence[dict[str, str]], comparison: Comparison, students: Sequence[Group], metric: str
) -> str:
    """Returns a table of the teacher and some students with two more columns: how far they are from the teacher."""
    title = f"{comparison.title(metric)} minus teacher's (points)"
    distances = comparison.differences([(group, TEACHER) for group in students], metric)
    cells = [{title: interval.in_print, "p (Holm)": p_value} for interval, p_value in distances]
    return markdown_table([row | more for row, more in zip(rows, [{}, *cells], strict=True)])


def _pair_table(comparison: Comparison, pairs: Sequence[tuple[Group, Group]], metric: str) -> str:
    differences = comparison.differences(pairs, metric)
    return markdown_table(
        [
            {
                "First": group_title(first),
                "Second": group_title(second),
                f"{comparison.title(metric)}, first minus second (points)": interval.in_print,
                "p (Holm)": p_value,
            }
            for (first, second), (interval, p_value) in zip(pairs, differences, strict=True)
        ]
    )


if __name__ == "__main__":
    main()
