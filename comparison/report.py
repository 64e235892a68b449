"""The report of a comparison: the two tables, what the intervals allow to say about them, and the figures.

report = build_report(results, scores, figures, failures, command)
write_document(OUTPUT_DIR, "report", report)
"""

import itertools
from collections.abc import Collection, Mapping, Sequence

from comparison.bootstrap import Interval, Scores, difference
from comparison.document import Block, Bullets, Code, Figure, Heading, Table, Text
from comparison.results import METRICS, TEACHER, Group, Results
from comparison.styles import METHOD_TITLES, STRATEGY_STYLES, TEACHER_STYLE, capitalized, group_title, strategy_name
from layer_distillation.record import ModelRecord
from training.tables import METRIC_TITLES, format_layers, spread

# ---- Tables ----


def layer_table(results: Results) -> list[dict[str, str]]:
    """Returns the first method's students and the teacher.

    Columns: *Student Layer | Training Loss | Validation Loss | Validation Accuracy*.
    """
    rows = []
    for (_, strategy), runs in results.groups_of(results.first_method).items():
        title = STRATEGY_STYLES[strategy].title.format(depth=runs[0].student.num_layers)
        # Strategies by evidence may choose other layers for every seed.
        sets = dict.fromkeys(format_layers(run.student.layers) for run in runs if run.student.layers)
        layers = f" ({'; '.join(sets)})" if sets else ""
        rows.append({"Student Layer": f"{title}{layers}", **_validation([run.student for run in runs])})
    return [*rows, {"Student Layer": TEACHER_STYLE.title, **_validation([results.teacher])}]


def _validation(models: Sequence[ModelRecord]) -> dict[str, str]:
    scores = [model.results for model in models]
    return {
        "Training Loss": spread([metrics.get("train_loss_ce") for metrics in scores], 3),
        "Validation Loss": spread([metrics["eval_loss"] for metrics in scores], 3),
        "Validation Accuracy": spread([100 * metrics["eval_accuracy"] for metrics in scores], 1),
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
    columns = {f"{split} {capitalized(METRIC_TITLES[name])}": name for name in METRICS}
    if results.shows_classes:
        columns |= {f"F1 {name}": f"f1_{name}" for name in results.label_names}
    scores = [model.results for model in models]
    return {
        "Model Type": capitalized(group_title(group)),
        "Training Loss": spread([metrics.get("train_loss_ce") for metrics in scores], 3),
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


def statement(first: str, second: str, metric: str, interval: Interval) -> str:
    """Returns a sentence about a difference, first minus second, that claims no more than its interval as printed.

    Args:
        interval: of a score between 0 and 1; the sentence gives percentage points.
    """
    figures = f"{interval} points of {metric}"
    _, low, high = interval.points  # as the reader sees them
    if low <= 0 <= high:
        return f"{first} and {second} cannot be told apart on this data: {figures}."
    return f"{first} is {'better' if low > 0 else 'worse'} than {second}: {figures}."


def layer_statements(results: Results, scores: Mapping[Group, Scores]) -> list[str]:
    """Returns a sentence for every two strategies of the first method, the better one first."""
    groups = list(results.groups_of(results.first_method))
    return [
        statement(
            strategy_name(first[1]),
            strategy_name(second[1]),
            _metric("accuracy", results),
            difference(scores[first], scores[second]),
        )
        for first, second in _pairs(groups, scores)
    ]


def method_statements(results: Results, scores: Mapping[Group, Scores]) -> list[str]:
    """Returns for each strategy a sentence for every two methods, the better one first."""
    sentences = []
    for strategy in dict.fromkeys(strategy for _, strategy in results.groups):
        groups = [group for group in results.groups if group[1] == strategy]
        for first, second in _pairs(groups, scores):
            names = f"{strategy_name(strategy)}: {METHOD_TITLES[first[0]]}", METHOD_TITLES[second[0]]
            interval = difference(scores[first], scores[second])
            sentences.append(statement(*names, _metric("macro_f1", results), interval))
    return sentences


def _metric(name: str, results: Results) -> str:
    return f"{results.split_title.lower()} {METRIC_TITLES[name]}"


def _pairs(groups: Sequence[Group], scores: Mapping[Group, Scores]) -> list[tuple[Group, Group]]:
    ranked = sorted(groups, key=lambda group: -scores[group].by_seed.mean())
    return list(itertools.combinations(ranked, 2))


def teacher_table(results: Results, scores: Mapping[str, Mapping[Group, Scores]]) -> list[dict[str, str]]:
    """Returns how far each group of students is from the teacher, in percentage points with intervals."""
    rows = []
    for group in results.groups:
        row = {"Student": group_title(group)}
        for metric, by_group in scores.items():
            interval = difference(by_group[group], by_group[TEACHER])
            row[f"{results.split_title} {METRIC_TITLES[metric]} minus teacher's (points)"] = str(interval)
        rows.append(row)
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
    layers, methods = layer_statements(results, scores["accuracy"]), method_statements(results, scores["macro_f1"])
    return [
        Heading(f"Comparison on {results.source}", 1),
        Text(_introduction(results)),
        *([Heading("Failed runs"), Bullets([f"{name}: {why}" for name, why in failures.items()])] if failures else []),
        Heading("Which layers"),
        Text(f"Training method: {METHOD_TITLES[results.first_method]}."),
        Table(layer_table(results)),
        *([Bullets(layers)] if layers else []),
        Heading("Which method"),
        Table(method_table(results)),
        Text(
            "Fine-tuned and LoRA students are trained on the labels alone, without a teacher. The size is that of the "
            "whole student; the size of an adapter follows the +. The time is the median over single examples. The "
            "models took turns on each example, with adapters merged."
        ),
        *([Bullets(methods)] if methods else []),
        Heading("What is lost against the teacher"),
        Table(teacher_table(results, scores)),
        Heading("How sure this is"),
        Text(_reservations(results, len(layers) + len(methods))),
        Heading("Figures"),
        *(Figure(path, caption) for path, caption in figures.items()),
        Heading("Command"),
        Code(command),
    ]


def _introduction(results: Results) -> str:
    teacher, depths = results.teacher, sorted({run.student.num_layers for run in results.runs})
    return (
        f"Students have {' or '.join(map(str, depths))} of the {teacher.num_layers} layers of {teacher.name}; layer 1 "
        f"is nearest the input. Numbers are means ± standard deviations over {_seeds(_seeds_per_group(results))}; "
        "scores are in per cent. All losses are the cross-entropy with the labels, whatever loss a student was "
        "trained with, so that they can be compared. The training loss is the mean over all steps. "
        f"The {results.split_title.lower()} split has {len(results.label_ids):,} examples."
    )


def _reservations(results: Results, num_comparisons: int) -> str:
    numbers = _seeds_per_group(results)
    one_seed = "One seed cannot show how far seeds differ: read intervals over one seed as too narrow. "
    return (
        f"Brackets are 95% intervals of a difference on the {results.split_title.lower()} examples, over the choice "
        f"of the examples (paired bootstrap) and over {_seeds(numbers)}. {one_seed if min(numbers) == 1 else ''}"
        "Each interval holds by itself: if all students were equal, one in twenty of the "
        f"{num_comparisons} comparisons above would show a difference by chance. The intervals say nothing about "
        "other data, nor about a teacher that is fine-tuned again."
    )


def _seeds_per_group(results: Results) -> set[int]:
    """Returns the numbers of finished runs that groups have: groups whose runs failed have fewer."""
    return {len(runs) for runs in results.groups.values()}


def _seeds(numbers: Collection[int]) -> str:
    fewest, most = min(numbers), max(numbers)
    number = f"{most}" if fewest == most else f"{fewest} to {most}"
    return f"{number} seed{'s' if most > 1 else ''} of training"
