"""How tables, sentences and figures show strategies and methods. Each strategy has an entry here.

STRATEGY_STYLES["top"].title.format(depth=3)    # "Top-3"
group_title(("lora", "odd"))                    # "odd, LoRA"

More than color tells series apart: strategies have a color and a marker, methods a hatch or a panel of their own. The
colors are those of Okabe and Ito, which people with the common color vision deficiencies can tell apart, a brown and a
wine red.
"""

from dataclasses import dataclass

from comparison.methods import METHODS
from comparison.results import TEACHER, Group


@dataclass(frozen=True)
class Style:
    """How a strategy is shown.

    Attributes:
        title: in tables; `{depth}` stands for the number of student layers.
        color, marker: in figures, as matplotlib takes them.
    """

    title: str
    color: str
    marker: str


STRATEGY_STYLES = {
    "top": Style("Top-{depth}", "#0072B2", "^"),  # blue
    "bottom": Style("Bottom-{depth}", "#E69F00", "v"),  # orange
    "odd": Style("Odd", "#009E73", "o"),  # green
    "even": Style("Even", "#D55E00", "s"),  # vermilion
    "uniform": Style("Uniform", "#CC79A7", "P"),  # pink
    "random": Style("Random (control)", "#7F7F7F", "X"),  # gray
    "narrow": Style("Narrow", "#882255", "d"),  # wine
    "search": Style("Search", "#56B4E9", "D"),  # sky blue
    "cka": Style("CKA", "#F0E442", "<"),  # yellow
    "block_influence": Style("Block influence", "#6B4423", ">"),  # brown
}
TEACHER_STYLE = Style("Teacher", "black", "*")
BASELINE_STYLE = Style("Baseline", "#444444", "h")  # of methods without strategies


def style_of(group: Group) -> Style:
    """Returns how figures show a group of runs."""
    _, strategy = group
    return TEACHER_STYLE if group == TEACHER else STRATEGY_STYLES.get(strategy, BASELINE_STYLE)


def hatch_of(group: Group) -> str:
    """Returns the hatch of a group of runs in figures; the teacher has none."""
    return "" if group == TEACHER else METHODS[group[0]].hatch


def strategy_name(strategy: str) -> str:
    """Returns a strategy as sentences and figures name it."""
    return {"cka": "CKA", "block_influence": "block influence"}.get(strategy, strategy)


def group_title(group: Group) -> str:
    """Returns a group of runs in words: "odd, LoRA"."""
    method, strategy = group
    title = "teacher" if group == TEACHER else METHODS[method].title
    return f"{strategy_name(strategy)}, {title}" if strategy else title


def capitalized(text: str) -> str:
    """Returns a text with its first letter in upper case and the others as they are: "Macro-F1"."""
    return text[0].upper() + text[1:]
