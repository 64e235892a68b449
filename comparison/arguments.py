"""What is compared: strategies, methods and seeds, and the cells of the grid that they make."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from comparison.methods import DEFAULT_METHODS, METHODS
from layer_distillation.errors import UserError
from layer_mapping import STRATEGIES, SYNONYMS
from lora_adapters.arguments import LEARNING_RATE
from text_data.names import split_words
from training.arguments import StudentArguments


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
        default_factory=lambda: list(DEFAULT_METHODS),
        metadata={
            "help": "How students are trained, and what they are compared with: "
            + "; ".join(f"{name}: {method.description}" for name, method in METHODS.items())
            + "."
        },
    )
    method_strategies: list[str] | None = field(
        default=None,
        metadata={
            "help": "Strategies that all methods but the first run with. Unset: those of --strategies. LoRA "
            "leaves 'random' out: it would not train the new weights of the layers. 'pretrained' runs with "
            "strategies that name their layers."
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
    encoder_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "The teacher before its fine-tuning, for the methods 'pretrained', 'lora_full' and "
            "'linear_probe'. Unset: --teacher_name_or_path, if it is fine-tuned here."
        },
    )
    rival_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub name of the small pretrained encoder that the method 'rival' fine-tunes."},
    )
    num_workers: int = field(
        default=1,
        metadata={
            "help": "Processes that run cells side by side; each gets its share of the threads, or a GPU. To add "
            "processes, start the same command again, also on other machines that share the folder."
        },
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Print the runs and an estimate of their time; train and write nothing."}
    )

    def __post_init__(self):
        self.strategies = _strategies("strategies", self.strategies)
        self.methods = _one_of("methods", self.methods, METHODS)
        self.method_strategies = _strategies("method_strategies", self.method_strategies or self.strategies)
        self.seeds = split_words(self.seeds)
        if not self.seeds or not all(seed.isdecimal() for seed in self.seeds):
            raise UserError(f"--seeds must be whole numbers >= 0, found {' '.join(self.seeds)}. An example is 0 1 2.")
        self.seeds = list(dict.fromkeys(str(int(seed)) for seed in self.seeds))  # 1 and 01 are one run
        if self.lora_learning_rate <= 0:
            raise UserError(f"--lora_learning_rate must be > 0, found {self.lora_learning_rate}; try {LEARNING_RATE}.")
        if self.num_workers < 1:
            raise UserError(f"--num_workers must be at least 1, found {self.num_workers}.")
        if not METHODS[self.methods[0]].from_teacher:
            raise UserError(
                f"The first of --methods compares layers of the teacher, but {self.methods[0]} takes none. Start with "
                "another, such as distill."
            )
        if ("rival" in self.methods) != (self.rival_name_or_path is not None):
            raise UserError(
                "The method rival and --rival_name_or_path go together, found only one of them. Give both or none."
            )
        if not plan_cells(self):
            raise UserError(
                f"--methods {' '.join(self.methods)} train no fresh layers, and --strategies asks for nothing but "
                "'random'. Add a strategy or the method 'distill'."
            )

    def student(self, strategy: str) -> StudentArguments:
        """Returns the arguments of the students of a strategy; empty stands for any."""
        return StudentArguments(
            strategy or "uniform", num_student_layers=self.num_student_layers, search_budget=self.search_budget
        )


def _one_of(name: str, words: Sequence[str], known: Sequence[str]) -> list[str]:
    values = split_words(words)
    if not values or not set(values) <= set(known):
        raise UserError(f"--{name} must be some of {', '.join(known)}, found {' '.join(values) or 'none'}.")
    return values


def _strategies(name: str, words: Sequence[str]) -> list[str]:
    """Returns each strategy once: a student is not compared with itself under another name."""
    return list(dict.fromkeys(SYNONYMS.get(strategy, strategy) for strategy in _one_of(name, words, STRATEGIES)))


@dataclass(frozen=True)
class Cell:
    """One run of the grid.

    Attributes:
        strategy: empty for a method without strategies.
    """

    method: str
    strategy: str
    seed: int

    @property
    def name(self) -> str:
        return "-".join(filter(None, (self.method, self.strategy, str(self.seed))))

    @property
    def group(self) -> tuple[str, str]:
        """Method and strategy, which the runs of all seeds share."""
        return self.method, self.strategy


def plan_cells(args: ComparisonArguments) -> list[Cell]:
    """Returns all cells, seed by seed, so that an unfinished grid can already be compared."""
    first, *others = args.methods
    groups = [(first, strategy) for strategy in args.strategies]
    for method in others:
        groups += itertools.product([method], args.method_strategies if METHODS[method].has_strategies else [""])
    return [
        Cell(method, strategy, int(seed))
        for seed in args.seeds
        for method, strategy in groups
        if (METHODS[method].has_seeds or seed == args.seeds[0]) and strategy not in METHODS[method].not_with
    ]
