"""What is compared: strategies, methods and seeds, and the cells of the grid that they make."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from layer_distillation.errors import UserError
from layer_mapping import STRATEGIES, SYNONYMS
from lora_adapters.arguments import LEARNING_RATE
from training.arguments import StudentArguments

METHODS = ("distill", "finetune", "lora", "lora_distill")
LORA_METHODS = ("lora", "lora_distill")


@dataclass
class ComparisonArguments:
    """What is compared. Lists are separated by spaces or commas."""

    strategies: list[str] = field(
        default_factory=lambda: ["top", "bottom", "odd", "even", "random"],
        metadata={
            "help": "Values of --layer_strategy in run_distillation.py to compare. The first of --methods runs "
            "with each of them."
        },
    )
    methods: list[str] = field(
        default_factory=lambda: list(METHODS),
        metadata={
            "help": "How students are trained: 'distill' (with the given weights of the losses), 'finetune' (on "
            "the labels alone), 'lora' (LoRA on the labels alone), 'lora_distill' (LoRA with the given "
            "weights)."
        },
    )
    method_strategies: list[str] | None = field(
        default=None,
        metadata={
            "help": "Strategies that all methods but the first run with. Unset: those of --strategies. LoRA "
            "leaves 'random' out: it would not train the new weights of the layers."
        },
    )
    seeds: list[str] = field(
        default_factory=lambda: ["0", "1", "2"],
        metadata={
            "help": "Seeds of the students' training, one run for each; whole numbers >= 0. --seed, which splits "
            "the data, is the same for all."
        },
    )
    num_student_layers: int | None = field(
        default=None,
        metadata={
            "help": "Number of layers of each student, from 1 to the teacher's. Unset: half of the teacher's, "
            "rounded down."
        },
    )
    search_budget: float = field(
        default=0.5,
        metadata={"help": "Cost that the strategy 'search' may have, in multiples of the training that follows; > 0."},
    )
    lora_learning_rate: float = field(
        default=LEARNING_RATE, metadata={"help": "Peak learning rate of the LoRA methods; > 0."}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Print the runs and an estimate of their time; train and write nothing."}
    )

    def __post_init__(self):
        self.strategies = _strategies("strategies", self.strategies)
        self.methods = _one_of("methods", self.methods, METHODS)
        self.method_strategies = _strategies("method_strategies", self.method_strategies or self.strategies)
        self.seeds = _split(self.seeds)
        if not self.seeds or not all(seed.isdecimal() for seed in self.seeds):
            raise UserError(f"--seeds must be whole numbers >= 0, found {' '.join(self.seeds)}. An example is 0 1 2.")
        if self.lora_learning_rate <= 0:
            raise UserError(f"--lora_learning_rate must be > 0, found {self.lora_learning_rate}; try {LEARNING_RATE}.")
        if not plan_cells(self):
            raise UserError(
                "LoRA does not train the fresh weights of the strategy 'random', and --strategies and --methods ask "
                "for nothing else. Add a strategy or the method 'distill'."
            )

    def student(self, strategy: str) -> StudentArguments:
        """Returns the arguments of the students of a strategy."""
        return StudentArguments(strategy, num_student_layers=self.num_student_layers, search_budget=self.search_budget)


def _split(words: Sequence[str]) -> list[str]:
    """Splits at commas, by which argument files join lists; a command line has spaces. Leaves repetitions out."""
    return list(dict.fromkeys(name for word in words for name in word.split(",") if name))


def _one_of(name: str, words: Sequence[str], known: Sequence[str]) -> list[str]:
    values = _split(words)
    if not values or not set(values) <= set(known):
        raise UserError(f"--{name} must be some of {', '.join(known)}, found {' '.join(values) or 'none'}.")
    return values


def _strategies(name: str, words: Sequence[str]) -> list[str]:
    """Returns each strategy once: a student is not compared with itself under another name."""
    return list(dict.fromkeys(SYNONYMS.get(strategy, strategy) for strategy in _one_of(name, words, STRATEGIES)))


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    method: str
    strategy: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.method}-{self.strategy}-{self.seed}"

    @property
    def group(self) -> tuple[str, str]:
        """Method and strategy, which the runs of all seeds share."""
        return self.method, self.strategy


def plan_cells(args: ComparisonArguments) -> list[Cell]:
    """Returns all cells, seed by seed, so that an unfinished grid can already be compared."""
    first, *others = args.methods
    groups = [(first, strategy) for strategy in args.strategies]
    groups += itertools.product(others, args.method_strategies)
    return [
        Cell(method, strategy, int(seed))
        for seed in args.seeds
        for method, strategy in groups
        if not (method in LORA_METHODS and strategy == "random")
    ]
