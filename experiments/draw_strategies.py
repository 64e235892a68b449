"""Draws which layers of a 12-layer teacher each strategy keeps.

    python -m experiments.draw_strategies      # writes docs/layer_strategies.svg

The layers come from `select_layers`, so that the picture cannot disagree with the code.
"""

import argparse

from benchmarks.results import ROOT
from layer_mapping import select_layers

NUM_LAYERS = 12
ROWS = (("top", "first"), ("bottom", "last"), ("odd", None), ("even", None), ("uniform", None))
CELL, LEFT, TOP = 44, 150, 62
# Readable on white and on black. Kept and dropped layers differ in fill, not only in hue, for the color-blind.
INK, KEPT, DROPPED = "#6e7781", "#0072b2", "none"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    width, height = LEFT + NUM_LAYERS * CELL + 20, TOP + len(ROWS) * CELL + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="15" role="img" aria-label="Teacher layers that each strategy keeps">',
        text(LEFT, 20, "input side", INK, "start"),
        text(LEFT + NUM_LAYERS * CELL, 20, "head side", INK, "end"),
        text(LEFT - 12, 48, "teacher layer", INK, "end"),
    ]
    parts += [text(LEFT + (n - 0.5) * CELL, 48, str(n), INK, "middle") for n in range(1, NUM_LAYERS + 1)]
    for row, (strategy, synonym) in enumerate(ROWS):
        y = TOP + row * CELL
        name = f"{strategy} ({synonym})" if synonym else strategy
        parts.append(text(LEFT - 12, y + 27, name, INK, "end"))
        layers = select_layers(strategy, NUM_LAYERS)
        for n in range(1, NUM_LAYERS + 1):
            x, fill = LEFT + (n - 1) * CELL + 4, KEPT if n in layers else DROPPED
            side = CELL - 8
            parts.append(
                f'<rect x="{x}" y="{y + 4}" width="{side}" height="{side}" rx="6" fill="{fill}" stroke="{INK}"/>'
            )
            if n in layers:
                parts.append(text(x + CELL / 2 - 4, y + 27, str(layers.index(n) + 1), "#ffffff", "middle"))
    parts.append(text(LEFT, height - 14, "filled: copied, with its number in the student", INK, "start"))
    (ROOT / "docs" / "layer_strategies.svg").write_text("\n".join([*parts, "</svg>"]) + "\n")


def text(x: float, y: float, content: str, fill: str, anchor: str) -> str:
    """Returns an SVG text element; `anchor` is start, middle or end."""
    return f'<text x="{x:g}" y="{y:g}" fill="{fill}" text-anchor="{anchor}">{content}</text>'


if __name__ == "__main__":
    main()
