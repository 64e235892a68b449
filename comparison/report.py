"""The report of a comparison: the two tables, what the intervals allow to say about them, and the figures.

report = build_report(results, scores, figures, failures, command)
write_document(OUTPUT_DIR, "report", report)
"""

import itertools
from collections.abc import Collection, Mapping, Sequence

from comparison.bootstrap import Interval, Scores, difference, holm, p_value_in_print, pooled_seed_variance, score
from comparison.document import Block, Bullets, Code, Figure, Heading, Table, Text
from comparison.methods import METHODS
from comparison.metrics import Metric, calibration_error
from comparison.results import TEACHER, Group, Results
from comparison.styles import STRATEGY_STYLES, TEACHER_STYLE, capitalized, group_title, strategy_name
from layer_distillation.record import ModelRecord
from training.evaluation import TRAINING_LOSS
from training.tables import format_layers, spread

SIGNIFICANT = 0.05

CALIBRATION = (
    "The mean distance between confidence and share of right answers, over bins of confidence: of each run, averaged "
    "over the runs. On few examples it is too large."
)

# ---- Tables ----


def layer_table(results: Results) -> list[dict[str, str]]:
    """Returns the first method's students and the teacher.

    Columns: *Student Layer | Training Loss | Validation Loss | Validation Accuracy*, or the metric of the task.
    """
    rows = []
    for (_, strategy), runs in results.groups_of(results.first_method).items():
        title = STRATEGY_STYLES[strategy].title.format(depth=runs[0].student.num_layers)
        # Strategies by evidence may choose other layers for every seed.
        sets = dict.fromkeys(format_layers(run.student.layers) for run in runs if run.student.layers)
        layers = f" ({'; '.join(sets)})" if sets else ""
        rows.append({"Student Layer": f"{title}{layers}", **_validation([run.student for run in runs], results)})
    return [*rows, {"Student Layer": TEACHER_STYLE.title, **_validation([results.teacher], results)}]


def _validation(models: Sequence[ModelRecord], results: Results) -> dict[str, str]:
    scores, (metric, _) = [model.results for model in models], results.metrics
    return {
        "Training Loss": spread([metrics.get(TRAINING_LOSS) for metrics in scores], 3),
        "Validation Loss": spread([metrics["eval_loss"] for metrics in scores], 3),
        f"Validation {capitalized(metric.title)}": spread(
            [_percent(metrics.get(f"eval_{metric.name}")) for metrics in scores], 1
        ),
    }


def method_table(results: Results) -> list[dict[str, str]]:
    """Returns *Model Type | Training Loss | Test Set Performance* of every group of runs and the teacher."""
    rows = []
    for group, runs in results.groups.items():
        student = runs[0].student
        rows.append(
            {
                **_performance(group, [run.student for run in runs], results),
                "Trained Parameters": f"{student.trainable_parameters:,}",
                **_cost(group, student, results, student.adapter),
            }
        )
    performance = _performance(TEACHER, [results.teacher], results)
    rows.append({**performance, "Trained Parameters": "-", **_cost(TEACHER, results.teacher, results)})
    return rows


def _performance(group: Group, models: Sequence[ModelRecord], results: Results) -> dict[str, str]:
    split = results.split_title
    columns = {f"{split} {capitalized(metric.title)}": metric.name for metric in results.metrics}
    if results.shows_classes:
        columns |= {f"F1 {name}": f"f1_{name}" for name in results.label_names}
    scores = [model.results for model in models]
    return {
        "Model Type": capitalized(group_title(group)),
        "Training Loss": spread([metrics.get(TRAINING_LOSS) for metrics in scores], 3),
        **{
            column: spread([_percent(metrics.get(f"{results.prefix}_{name}")) for metrics in scores], 1)
            for column, name in columns.items()
        },
    }


def _cost(group: Group, model: ModelRecord, results: Results, adapter: Mapping | None = None) -> dict[str, str]:
    adapter_size = f" + {adapter['megabytes']:.1f}" if adapter else ""
    return {
        "Parameters": f"{model.parameters:,}",
        "Size (MB)": f"{model.megabytes:.1f}{adapter_size}",
        "ms per Example": f"{results.latency_ms[group]:.1f}",
    }


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


# ---- What can be said ----


def statement(first: str, second: str, metric: str, interval: Interval, p_value: float) -> str:
    """Returns a sentence about a difference, first minus second, that claims no more than its interval as printed.

    Args:
        interval: of a score between 0 and 1; the sentence gives percentage points.
        p_value: corrected for the number of sentences of its kind.
    """
    figures = f"{interval} points of {metric}"
    _, low, high = interval.points  # as the reader sees them
    if not interval.over_seeds:
        return f"{first} and {second} have too few seeds to be compared: {figures}."
    figures += f", corrected p {p_value_in_print(p_value, '= ', '< ')}"
    if low <= 0 <= high or p_value >= SIGNIFICANT:
        return f"{first} and {second} cannot be told apart on this data: {figures}."
    return f"{first} is {'better' if low > 0 else 'worse'} than {second}: {figures}."


def layer_statements(results: Results, scores: Mapping[Group, Scores]) -> list[str]:
    """Returns a sentence for every two strategies of the first method, the better one first."""
    names = {group: strategy_name(group[1]) for group in results.groups_of(results.first_method)}
    return _statements(
        [(names[a], names[b], a, b) for a, b in _pairs(list(names), scores)], results.metrics[0], results, scores
    )


def method_statements(results: Results, scores: Mapping[Group, Scores]) -> list[str]:
    """Returns for each strategy a sentence for every two methods, the better one first.

    The baselines that have no strategy are compared with the students of each strategy.
    """
    baselines = [group for group in results.groups if not group[1]]
    comparisons = []
    for strategy in dict.fromkeys(strategy for _, strategy in results.groups if strategy):
        groups = [group for group in results.groups if group[1] == strategy]
        for first, second in _pairs([*groups, *baselines], scores):
            if first[1] or second[1]:
                names = f"{strategy_name(strategy)}: {METHODS[first[0]].title}", METHODS[second[0]].title
                comparisons.append((*names, first, second))
    comparisons += [(group_title(a), group_title(b), a, b) for a, b in _pairs(baselines, scores)]
    return _statements(comparisons, results.metrics[1], results, scores)


def _statements(
    comparisons: Sequence[tuple[str, str, Group, Group]],
    metric: Metric,
    results: Results,
    scores: Mapping[Group, Scores],
) -> list[str]:
    """Returns a sentence for each comparison of a family, given by two names and two groups.

    There is none where a score is undefined.
    """
    comparisons = [each for each in comparisons if all(_is_defined(metric, group, results) for group in each[2:])]
    seeds = pooled_seed_variance(scores.values())
    intervals = [difference(scores[first], scores[second], seeds) for _, _, first, second in comparisons]
    corrected = holm([interval.p_value for interval in intervals])
    title = f"{results.split_title.lower()} {metric.title}"
    lone = {group for group, of_group in scores.items() if of_group.varies and len(of_group.by_seed) == 1}

    def named(name: str, group: Group, interval: Interval) -> str:
        return f"{name} (one seed)" if group in lone and not interval.over_seeds else name

    return [
        statement(named(a, group, interval), named(b, other, interval), title, interval, p_value)
        for (a, b, group, other), interval, p_value in zip(comparisons, intervals, corrected, strict=True)
    ]


def _is_defined(metric: Metric, group: Group, results: Results) -> bool:
    """Whether all models of a group have the metric, as the tables show it.

    Where all labels or all answers are equal, there is no correlation, but the scores have 0 in its place.
    """
    models = [results.teacher] if group == TEACHER else [run.student for run in results.groups[group]]
    return all(f"{results.prefix}_{metric.name}" in model.results for model in models)


def _pairs(groups: Sequence[Group], scores: Mapping[Group, Scores]) -> list[tuple[Group, Group]]:
    ranked = sorted(groups, key=lambda group: -scores[group].by_seed.mean())
    return list(itertools.combinations(ranked, 2))


def teacher_table(results: Results, scores: Mapping[str, Mapping[Group, Scores]]) -> list[dict[str, str]]:
    """Returns how far each group of students is from the teacher, in percentage points with intervals."""
    rows = []
    seeds = {metric.name: pooled_seed_variance(scores[metric.name].values()) for metric in results.metrics}
    for group in results.groups:
        row = {"Student": group_title(group)}
        for metric in results.metrics:
            of_metric = scores[metric.name]
            interval = difference(of_metric[group], of_metric[TEACHER], seeds[metric.name])
            is_defined = all(_is_defined(metric, each, results) for each in (group, TEACHER))
            lost = interval.in_print if is_defined else "-"
            row[f"{results.split_title} {metric.title} minus teacher's (points)"] = lost
        rows.append(row)
    return rows


def calibration_table(scores: Mapping[Group, Scores]) -> list[dict[str, str]]:
    """Returns the mean calibration error of the runs of each group, and of the teacher, with intervals."""
    seeds, rows = pooled_seed_variance(scores.values()), []
    for group, of_group in scores.items():
        error = str(score(of_group, seeds)).lstrip("+")
        rows.append(
            {"Model": capitalized(group_title(group)), f"{capitalized(calibration_error.title)} (points)": error}
        )
    return rows


# ---- Report ----


def build_report(
    results: Results,
    scores: Mapping[str, Mapping[Group, Scores]],
    figures: Mapping[str, str],
    failures: Mapping[str, str],
    command: str,
) -> list[Block]:
    """Returns the whole report.

    Args:
        scores: as `score_groups` returns them.
        figures: the caption of each image, by its path from the report, without extension.
        failures: the reason of each run that failed, by its name.
    """
    of_layers, of_methods = (scores[metric.name] for metric in results.metrics)
    layers, methods = layer_statements(results, of_layers), method_statements(results, of_methods)
    calibration = []
    if calibration_error.name in scores:
        calibration = [
            Heading("Calibration"),
            Table(calibration_table(scores[calibration_error.name])),
            Text(CALIBRATION),
        ]
    which_layers = []
    if results.first_method is not None:
        which_layers = [
            Heading("Which layers"),
            Text(f"Training method: {METHODS[results.first_method].title}."),
            Table(layer_table(results)),
            *([Bullets(layers)] if layers else []),
        ]
    return [
        Heading(f"Comparison on {results.source}", 1),
        Text(_introduction(results)),
        *([Heading("Failed runs"), Bullets([f"{name}: {why}" for name, why in failures.items()])] if failures else []),
        *which_layers,
        Heading("Which method"),
        Table(method_table(results)),
        Bullets(_method_descriptions(results)),
        Text(
            "The size is that of the whole student; the size of an adapter follows the +. The time is the median over "
            "single examples. The networks took turns on each example, with adapters merged."
        ),
        *([Bullets(methods)] if methods else []),
        Heading("What is lost against the teacher"),
        Table(teacher_table(results, scores)),
        *calibration,
        Heading("How sure this is"),
        Text(_reservations(results, layers, methods)),
        Heading("Figures"),
        *(Figure(path, caption) for path, caption in figures.items()),
        Heading("Command"),
        Code(command),
    ]


def _method_descriptions(results: Results) -> list[str]:
    used = dict.fromkeys(method for method, _ in results.groups)
    return [f"{capitalized(METHODS[method].title)}: {METHODS[method].description}." for method in used]


def _introduction(results: Results) -> str:
    teacher = results.teacher
    depths = sorted({run.student.num_layers for run in results.runs if METHODS[run.cell.method].from_teacher})
    students = ""
    if depths:
        students = (
            f"Students have {' or '.join(map(str, depths))} of the {teacher.num_layers} layers of {teacher.name}; "
            "layer 1 is nearest the input. "
        )
    return (
        f"{students}Numbers are means ± standard deviations over {_seeds(_seeds_per_group(results))}; "
        "scores are in per cent. All losses are those of the labels alone, whatever loss a student was trained with: "
        "they can be compared. The training loss is that of the finished model on all training examples, without "
        f"dropout. The {results.split_title.lower()} split has {len(results.labels):,} examples."
    )


def _reservations(results: Results, layers: Sequence[str], methods: Sequence[str]) -> str:
    numbers = _seeds_per_group(results)
    one_seed = ""
    if max(numbers) == 1:
        one_seed = "One seed cannot show how far seeds differ, so nothing is claimed. "
    return (
        f"Brackets are 95% intervals of a difference on the {results.split_title.lower()} examples, over the choice "
        f"of the examples (paired bootstrap) and over {_seeds(numbers)}, whose variance is pooled over all groups. "
        f"{one_seed}Each interval holds by itself. The p-values are corrected for the number of sentences by "
        f"Holm's method, for the {len(layers)} about layers and for the {len(methods)} about methods: if all were "
        "equal, the chance of any wrong claim would be 5% in each list. Not to be told apart does not mean equal. "
        "The intervals say nothing about other data, nor about a teacher that is fine-tuned again. Every interval can "
        "be computed again: `python -m experiments.intervals`."
    )


def _seeds_per_group(results: Results) -> set[int]:
    """Returns the numbers of finished runs that groups have: groups whose runs failed have fewer."""
    return {len(runs) for runs in results.groups.values() if METHODS[runs[0].cell.method].has_seeds} or {1}


def _seeds(numbers: Collection[int]) -> str:
    fewest, most = min(numbers), max(numbers)
    number = f"{most}" if fewest == most else f"{fewest} to {most}"
    return f"{number} seed{'s' if most > 1 else ''} of training"
