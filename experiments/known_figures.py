"""What the committed files of a result give: the figures that a page may print with the result's name.

    known = known_figures("sst2")                  # of docs/results/sst2.csv, .md, .json, .jsonl and sst2/*.npz
    known.has("86.4 ± 0.1"), known.has("+1.3 [0.3, 2.2]"), known.has("0.212")

A figure is a number with a decimal point, a mean with its deviation, or an estimate with its interval. It is known if
the files give it to as many digits as the page prints: a csv file the means and deviations over its seeds, also in per
cent; predictions every score and difference with its interval, and the corrected p-values of every two strategies of a
method; the other files what stands in them.
"""

import csv
import functools
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from benchmarks.results import RESULTS
from comparison.bootstrap import Scores, difference, holm, pooled_seed_variance, score
from comparison.results import Group, read_predictions, score_groups
from layer_distillation.errors import UserError
from training.tables import grouped

_NUMBER = r"[-+]?\d[\d,]*\.\d+(?:e[-+]\d+)?"
FIGURE = re.compile(rf"(?<![\w.]){_NUMBER}(?: ± {_NUMBER}| \[{_NUMBER}, {_NUMBER}\])?(?!\.?\w)")
# Columns of csv files that tell groups of runs apart. All others but `seed` hold what was measured.
KEYS = (
    "method",
    "strategy",
    "recipe",
    "variant",
    "model",
    "sentences",
    "examples",
    "batch_size",
    "way",
    "learning_rate",
    "steps",
    "precision",
    "setting",
    "seeds",
    "metric",
    "interval",
    "layers",
)

Figure = tuple[float, ...]  # a number, or mean and deviation, or estimate and limits


@dataclass(frozen=True)
class Known:
    """The figures of a result.

    Attributes:
        figures: by their length.
    """

    figures: Mapping[int, Sequence[Figure]]

    def has(self, text: str) -> bool:
        """Returns whether the files give a figure as it is printed; the sign of a single number does not count."""
        numbers = numbers_in(text)
        digits = [len(number.partition("e")[0].partition(".")[2]) for number in numbers]
        printed = [float(number.replace(",", "")) for number in numbers]
        margins = [_half_a_step(number, places) for number, places in zip(numbers, digits, strict=True)]
        return any(
            all(abs(factor * a - b) <= margin for a, b, margin in zip(candidate, printed, margins, strict=True))
            for known in self.figures.get(len(printed), ())
            for candidate in ((known, (-known[0],)) if len(known) == 1 else (known,))
            for factor in (1, 100)
        )


def _half_a_step(number: str, places: int) -> float:
    exponent = int(number.partition("e")[2] or 0)
    return 0.5000001 * 10.0 ** (exponent - places)


def numbers_in(figure: str) -> list[str]:
    """Returns the numbers of a figure as they are printed: one, mean and deviation, or estimate and limits."""
    return re.findall(_NUMBER, figure)


@functools.cache
def known_figures(name: str) -> Known:
    """Reads the files of a result.

    Raises:
        UserError: there are none.
    """
    readers = {"csv": _of_csv, "md": _of_text, "json": _of_json, "jsonl": _of_json, "": _of_predictions}
    figures = []
    for suffix, read in readers.items():
        path = RESULTS / (f"{name}.{suffix}" if suffix else name)
        if path.exists():
            figures += read(path)
    if not figures:
        raise UserError(f"There is no file of the result {name} in docs/results.")
    # A page may name a mean without its deviation, or an estimate without its limits.
    figures += [figure[:1] for figure in figures if len(figure) > 1]
    return Known(grouped(dict.fromkeys(figures), key=len))


def _of_csv(file: Path) -> Iterator[Figure]:
    rows = read_rows(file)
    keys = [key for key in KEYS if key in rows[0]]
    # Strategies by evidence choose other layers with each seed.
    for names in (keys, [key for key in keys if key != "layers"]):
        for of_group in grouped(rows, key=lambda row: tuple(row[name] for name in names)).values():
            for column in rows[0].keys() - {*keys, "seed"}:
                values = [number for row in of_group if (number := _as_number(row[column])) is not None]
                if values:
                    yield (mean(values), stdev(values)) if len(values) > 1 else (values[0],)


def read_rows(file: Path) -> list[dict[str, str]]:
    """Returns the rows of a csv file."""
    with open(file, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _of_text(file: Path) -> Iterator[Figure]:
    for figure in FIGURE.findall(file.read_text(encoding="utf-8")):
        yield tuple(float(number.replace(",", "")) for number in numbers_in(figure))


def _of_json(file: Path) -> Iterator[Figure]:
    text = file.read_text(encoding="utf-8")
    for value in map(json.loads, text.splitlines()) if file.suffix == ".jsonl" else [json.loads(text)]:
        yield from _numbers(value)


def _numbers(value) -> Iterator[Figure]:
    if isinstance(value, dict) and {"estimate", "low", "high"} <= value.keys():
        value = tuple(value[name] for name in ("estimate", "low", "high"))
        if None not in value:
            yield value
    elif isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, float):
        yield (value,)


# ---- Predictions ----


@functools.cache
def scores_of(name: str) -> dict[str, dict[Group, Scores]]:
    """Returns the scores of a comparison's groups from its committed predictions, by metric: first that of layers."""
    return score_groups(read_predictions(RESULTS / name), with_calibration=False)


def _of_predictions(folder: Path) -> Iterator[Figure]:
    for scores in scores_of(folder.name).values():
        seeds = pooled_seed_variance(scores.values())
        intervals = [score(of_group, seeds) for of_group in scores.values()]
        intervals += [difference(first, second, seeds) for first, second in itertools.permutations(scores.values(), 2)]
        for interval in intervals:
            yield interval.points if interval.over_seeds else interval.points[:1]
        # Those of the tables that compare every two strategies of a method.
        for of_method in grouped(scores, key=lambda group: group[0]).values():
            leads = [
                difference(scores[one], scores[other], seeds) for one, other in itertools.combinations(of_method, 2)
            ]
            yield from ((p_value,) for p_value in holm([lead.p_value for lead in leads if lead.over_seeds]))
