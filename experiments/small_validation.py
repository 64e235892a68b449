"""How far a small validation set misleads: how often it ranks two students in the wrong order.

    python -m experiments.small_validation outputs/sst2-comparison/runs/distill-odd-0/predictions_validation.csv \\
        outputs/sst2-comparison/runs/distill-bottom-0/predictions_validation.csv

Both files hold predictions for the same examples. The right order is that on all of them. Subsets of each size are
drawn without replacement.
"""

import argparse
from pathlib import Path

import numpy as np

from experiments.runs import read_predictions
from training.tables import markdown_table

SIZES = (50, 100, 200, 500, 1000)
NUM_SUBSETS = 10_000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", nargs=2, type=Path, help="predictions_SPLIT.csv of two runs")
    (labels, first), (other_labels, second) = map(read_predictions, parser.parse_args().predictions)
    if None in labels:
        parser.error("the files hold predictions for examples without labels")
    if labels != other_labels:
        parser.error("the two files hold predictions for different examples")
    first, second = (np.array(labels) == predictions for predictions in (first, second))
    if first.mean() < second.mean():
        first, second = second, first
    print(f"All {len(first):,} examples: {100 * first.mean():.1f} and {100 * second.mean():.1f} % right.\n")
    print(markdown_table([misranked(first, second, size) for size in SIZES if size < len(first)]))


def misranked(better: np.ndarray, worse: np.ndarray, size: int) -> dict[str, str]:
    """Returns a row of the table: how subsets of one size rank the two students.

    Args:
        better, worse: whether each prediction is right, `(examples,)`.
    """
    generator = np.random.default_rng(0)
    subsets = [generator.choice(len(better), size, replace=False) for _ in range(NUM_SUBSETS)]
    scores = np.array([(better[subset].mean(), worse[subset].mean()) for subset in subsets])
    low, high = np.percentile(100 * scores[:, 0], [2.5, 97.5])
    return {
        "Examples": str(size),
        "The better one's accuracy on 95% of the subsets (%)": f"{low:.1f} to {high:.1f}",
        "The worse one ahead or level (%)": f"{100 * (scores[:, 1] >= scores[:, 0]).mean():.1f}",
        "The worse one ahead (%)": f"{100 * (scores[:, 1] > scores[:, 0]).mean():.1f}",
    }


if __name__ == "__main__":
    main()
