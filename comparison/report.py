"""The report of a comparison: the two tables, what the intervals allow to say about them, and the figures."""

import itertools
from collections.abc import Collection, Mapping, Sequence

from comparison.bootstrap import Interval, Scores, difference
from comparison.document import Block, Bullets, Code, Figure, Heading, Table, Text
from comparison.results import TEACHER, Results
from training.tables import format_layers, spread

STRATEGY_TITLES = {
    "top": "Top-{depth}",
    "bottom": "Bottom-{depth}",
    "odd": "Odd",
    "even": "Even",
    "uniform": "Uniform",
    "random": "Random (control)",
    "search": "Search",
    "cka": "CKA",
    "block_influence": "Block influence",
}
METHOD_TITLES = {
    "distill": "distilled",
    "finetune": "fine-tuned",
    "lora": "LoRA",
    "lora_distill": "LoRA + distillation",
}
METRIC_TITLES = {"accuracy": "accuracy", "macro_f1": "macro-F1"}

Group = tuple[str, str]


def group_title(group: Group, capital: bool = False) -> str:
    """A group of runs in words: "odd, LoRA"."""
    method, strategy = group
    title = "teacher" if group == TEACHER else f"{strategy}, {METHOD_TITLES[method]}"
    return title[0].upper() + title[1:] if capital else title


# ---- Tables ----


def layer_table(results: Results) -> list[dict[str, str]]:
    """*Student Layer | Training Loss | Validation Loss | Validation Accuracy*: the first method, and the teacher."""
    method = results.runs[0].cell.method
    rows = []
    for (_, strategy), runs in results.groups_of(method).items():
        title = STRATEGY_TITLES[strategy].format(depth=runs[0].student["num_layers"])
        # What is chosen by evidence may differ from seed to seed.
        sets = dict.fromkeys(format_layers(run.student["layers"]) for run in runs if run.student["layers"])
        layers = f" ({'; '.join(sets)})" if sets else ""
        rows.append({"Student Layer": f"{title}{layers}", **_validation([run.student["results"] for run in runs])})
    return [*rows, {"Student Layer": "Teacher", **_validation([results.teacher["results"]])}]


def _validation(models: Sequence[dict]) -> dict[str, str]:
    return {
        "Training Loss": spread([model.get("train_loss_ce") for model in models], 3),
        "Validation Loss": spread([model["eval_loss"] for model in models], 3),
        "Validation Accuracy": spread([100 * model["eval_accuracy"] for model in models], 1),
    }


def method_table(results: Results) -> list[dict[str, str]]:
    """*Model Type | Training Loss | Test Set Performance* of every group of runs, and the teacher's."""
    rows = [_performance(group, [run.student for run in runs], results) for group, runs in results.groups.items()]
    return [*rows, _performance(TEACHER, [results.teacher], results)]


def _performance(group: Group, models: Sequence[dict], results: Results) -> dict[str, str]:
    prefix, split = results.prefix, results.split_title
    scores = {f"{split} Accuracy": "accuracy", f"{split} Macro-F1": "macro_f1"}
    if results.shows_classes:
        scores |= {f"F1 {name}": f"f1_{name}" for name in results.label_names}
    model = models[0]
    adapter = f" + {model['adapter']['megabytes']:.1f}" if "adapter" in model else ""
    return {
        "Model Type": group_title(group, capital=True),
        "Training Loss": spread([model["results"].get("train_loss_ce") for model in models], 3),
        **{
            column: spread([_percent(model["results"].get(f"{prefix}_{name}")) for model in models], 1)
            for column, name in scores.items()
        },
        "Trained Parameters": f"{model['trainable_parameters']:,}" if "trainable_parameters" in model else "-",
        "Parameters": f"{model['parameters']:,}",
        "Size (MB)": f"{model['megabytes']:.1f}{adapter}",
        "ms an Example": f"{results.latency_ms[group]:.1f}",
    }


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


# ---- What can be said ----


def statement(first: str, second: str, metric: str, interval: Interval) -> str:
    """One sentence about a difference, first minus second, that claims no more than its interval as printed.

    Args:
        interval: of a score between 0 and 1; the sentence gives percentage points.
    """
    figures = f"{interval} points of {metric}"
    _, low, high = interval.points  # as the reader sees them
    if low <= 0 <= high:
        return f"{first} and {second} cannot be told apart on this data: {figures}."
    return f"{first} is {'better' if low > 0 else 'worse'} than {second}: {figures}."


def layer_statements(results: Results, scores: Mapping[Group, Scores]) -> list[str]:
    """Every two strategies of the first method, the better one first."""
    groups = list(results.groups_of(results.runs[0].cell.method))
    return [
        statement(first[1], second[1], _metric("accuracy", results), difference(scores[first], scores[second]))
        for first, second in _pairs(groups, scores)
    ]


def method_statements(results: Results, scores: Mapping[Group, Scores]) -> list[str]:
    """For each strategy every two methods, the better one first."""
    sentences = []
    for strategy in dict.fromkeys(strategy for _, strategy in results.groups):
        groups = [group for group in results.groups if group[1] == strategy]
        for first, second in _pairs(groups, scores):
            names = f"{strategy}: {METHOD_TITLES[first[0]]}", METHOD_TITLES[second[0]]
            interval = difference(scores[first], scores[second])
            sentences.append(statement(*names, _metric("macro_f1", results), interval))
    return sentences


def _metric(name: str, results: Results) -> str:
    return f"{results.split_title.lower()} {METRIC_TITLES[name]}"


def _pairs(groups: Sequence[Group], scores: Mapping[Group, Scores]) -> list[tuple[Group, Group]]:
    ranked = sorted(groups, key=lambda group: -scores[group].by_seed.mean())
    return list(itertools.combinations(ranked, 2))


def teacher_table(results: Results, scores: Mapping[str, Mapping[Group, Scores]]) -> list[dict[str, str]]:
    """What each group of students loses against the teacher, in percentage points with intervals."""
    rows = []
    for group in results.groups:
        row = {"Student": group_title(group)}
        for metric, title in METRIC_TITLES.items():
            interval = difference(scores[metric][group], scores[metric][TEACHER])
            row[f"{results.split_title} {title} - teacher's"] = str(interval)
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
    """The whole report.

    Args:
        scores: as `score_groups` returns them.
        figures: caption of each image, by its path from the report, without extension.
        failures: reason of each run that failed, by its name.
    """
    # Fewer where runs have failed.
    numbers = {len(runs) for runs in results.groups.values()}
    student, number = results.runs[0].student, len(results.label_ids)
    layers, methods = layer_statements(results, scores["accuracy"]), method_statements(results, scores["macro_f1"])
    split = results.split_title.lower()
    blocks = [
        Heading(f"Comparison on {results.source}", 1),
        Text(
            f"Students of {student['num_layers']} of the {results.teacher['num_layers']} layers of "
            f"{results.teacher['name']}, layer 1 nearest the input. Figures are means ± standard deviations over "
            f"{_seeds(numbers)}; scores are in per cent. The losses are the cross-entropy with the labels, whatever "
            "the student was trained with, so that they can be compared; that of the training is the mean over all "
            f"its steps. The {split} split has {number:,} examples."
        ),
        *([Heading("Failed runs"), Bullets([f"{name}: {why}" for name, why in failures.items()])] if failures else []),
        Heading("Which layers"),
        Text(f"How the students were trained: {METHOD_TITLES[results.runs[0].cell.method]}."),
        Table(layer_table(results)),
        *([Bullets(layers)] if layers else []),
        Heading("Which method"),
        Table(method_table(results)),
        Text(
            "Fine-tuned and LoRA students see the labels alone, without a teacher. Size is that of the whole student; "
            "an adapter's own comes after the +. The time is the median for single examples, on which the models took "
            "turns, with adapters merged."
        ),
        *([Bullets(methods)] if methods else []),
        Heading("What is lost against the teacher"),
        Table(teacher_table(results, scores)),
        Heading("How sure this is"),
        Text(
            f"Brackets are 95% intervals of the difference on the {split} examples, over the choice of the examples "
            f"(paired bootstrap) and over {_seeds(numbers)}"
            + ("." if min(numbers) > 1 else ", whose spread one seed cannot show: read them as too narrow.")
            + f" Each holds by itself: of the {len(layers) + len(methods)} comparisons above, one in twenty would "
            "come out different from 0 by chance if all were equal. They say nothing about other data or a "
            "teacher that is fine-tuned again."
        ),
        Heading("Figures"),
        *(Figure(path, caption) for path, caption in figures.items()),
        Heading("Made by"),
        Code(command),
    ]
    return blocks


def _seeds(numbers: Collection[int]) -> str:
    fewest, most = min(numbers), max(numbers)
    number = f"{most}" if fewest == most else f"{fewest} to {most}"
    return f"{number} seed{'s' if most > 1 else ''} of training"
