"""Tables and the chart of `benchmarks.training_speed`, from its rows."""

from pathlib import Path
from statistics import median

import matplotlib
from matplotlib.figure import Figure

from benchmarks.measuring import median_and_range, ratios_within_rounds
from training.tables import grouped, markdown_table

TITLES = {
    "notebook": "The notebook's loop",
    "textbrewer": "TextBrewer",
    "finetune": "Plain fine-tuning",
    "no_cache": "Ours, teacher in every step",
    "cached": "Ours, stored outputs",
    "hidden_cached": "With hidden states, stored",
    "hidden": "With hidden states, teacher in every step",
    "attention": "With attention, teacher in every step",
    "relation": "With relations, teacher in every step",
}
# Title, the two variants, and the column that is compared.
COMPARISONS = (
    ("Stored outputs / plain fine-tuning", "cached float32", "finetune float32", "turn_seconds"),
    ("Stored outputs / plain fine-tuning, bfloat16", "cached bfloat16", "finetune bfloat16", "turn_seconds"),
    ("Memory, stored outputs / plain fine-tuning", "cached float32", "finetune float32", "peak_mb"),
    ("Memory, stored outputs / plain fine-tuning, bfloat16", "cached bfloat16", "finetune bfloat16", "peak_mb"),
    ("Notebook's loop / stored outputs", "notebook float32", "cached float32", "turn_seconds"),
    ("Notebook's loop / stored outputs, bfloat16", "notebook float32", "cached bfloat16", "turn_seconds"),
    ("TextBrewer / stored outputs", "textbrewer float32", "cached float32", "turn_seconds"),
    ("TextBrewer / stored outputs, bfloat16", "textbrewer float32", "cached bfloat16", "turn_seconds"),
    ("Stored hidden states / stored logits, bfloat16", "hidden_cached bfloat16", "cached bfloat16", "turn_seconds"),
    ("Live hidden states / stored logits, bfloat16", "hidden bfloat16", "cached bfloat16", "turn_seconds"),
    ("Attention / stored logits, bfloat16", "attention bfloat16", "cached bfloat16", "turn_seconds"),
    ("Relations / stored logits, bfloat16", "relation bfloat16", "cached bfloat16", "turn_seconds"),
)


def by_variant(rows: list[dict]) -> dict[str, list[dict]]:
    """Returns the rows by the name of their variant."""
    return grouped(rows, key=lambda row: f"{row['method']} {row['precision']}")


def speed_table(rows: list[dict]) -> str:
    """Returns the table of all variants."""
    return markdown_table(
        [
            {
                "Variant": TITLES[group[0]["method"]],
                "Precision": group[0]["precision"],
                "Seconds an epoch": median_and_range([row["epoch_seconds"] for row in group]),
                "Real tokens/s": f"{median(row['tokens_per_second'] for row in group):,.0f}",
                "Padding (%)": f"{100 * group[0]['padding_share']:.1f}",
                "Peak memory (MB)": f"{group[0]['peak_mb']:,.0f}",
                "Accuracy (%)": f"{100 * group[0]['accuracy']:.1f}",
                "Macro-F1 (%)": f"{100 * group[0]['macro_f1']:.1f}",
            }
            for group in by_variant(rows).values()
        ]
    )


def comparison_table(rows: list[dict]) -> str:
    """Returns the table of ratios, taken within each round, so that a slow round does not change them."""
    groups = by_variant(rows)
    return markdown_table(
        [
            {
                "Ratio": title,
                "Measured": median_and_range(
                    [a[key] / b[key] for a, b in zip(groups[one], groups[other], strict=True)], 3
                ),
            }
            for title, one, other, key in COMPARISONS
            if one in groups and other in groups
        ]
    )


def cache_table(rows: list[dict]) -> str:
    """Returns the table of `cost_of_cache`."""
    return markdown_table(
        [
            {
                "Precision": row["precision"],
                "Teacher's bare forward pass (s)": median_and_range(row["bare"]),
                "Building the cache (s)": median_and_range(row["built"]),
                "Ratio": ratios_within_rounds(row["built"], row["bare"], 3),
                "Bytes on disk": f"{row['bytes']:,}",
                "Bytes an example": f"{row['bytes'] / row['num_examples']:.1f}",
            }
            for row in rows
        ]
    )


def draw(rows: list[dict], file: Path) -> None:
    """Draws seconds an epoch: bars are medians, marks are rounds."""
    groups = list(by_variant(rows).values())[::-1]
    colors = {"float32": "#0072B2", "bfloat16": "#E69F00"}
    figure = Figure(figsize=(7.5, 0.9 + 0.42 * len(groups)), layout="constrained")
    axes = figure.subplots()
    labels = [f"{TITLES[group[0]['method']]}, {group[0]['precision']}" for group in groups]
    medians = [median(row["epoch_seconds"] for row in group) for group in groups]
    axes.barh(labels, medians, color=[colors[group[0]["precision"]] for group in groups], height=0.7)
    for label, middle, group in zip(labels, medians, groups, strict=True):
        seconds = [row["epoch_seconds"] for row in group]
        axes.plot(seconds, [label] * len(seconds), "|", color="black", markersize=9)
        axes.annotate(
            f"{middle:.1f} s", (max(seconds), label), (6, 0), textcoords="offset points", verticalalignment="center"
        )
    axes.set_xlabel("seconds an epoch, median and all rounds")
    axes.set_xlim(0, 1.15 * max(row["epoch_seconds"] for row in rows))
    axes.spines[["top", "right"]].set_visible(False)
    with matplotlib.rc_context({"svg.hashsalt": "training_speed"}):  # the same figures give the same file
        figure.savefig(file, metadata={"Date": None})
