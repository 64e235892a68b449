"""The arguments of a run that name teacher, student and vocabulary, and the defaults that depend on others."""

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from layer_distillation.arguments import DistillationTrainingArguments
from layer_distillation.errors import UserError
from layer_distillation.pretrained import PACKAGED_TEACHER
from layer_mapping import (
    EVIDENCE_STRATEGIES,
    check_layers,
    check_strategy,
    join_layers,
    parse_layers,
    select_layers,
    shrinking_layers,
)
from text_data.arguments import DataArguments

HUB_TEACHER = "google-bert/bert-base-uncased"


@dataclass
class TeacherArguments:
    """Which teacher, and how it is fine-tuned where its head is not trained for the task."""

    teacher_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub name of the teacher. A fine-tuned classifier is used as it is; a pretrained "
            f"encoder is fine-tuned first. '{PACKAGED_TEACHER}' is the encoder in the PyPI package of "
            f"this name. Unset: {HUB_TEACHER}, or with the sample data {PACKAGED_TEACHER}."
        },
    )
    teacher_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of a teacher on the Hub. Unset: its main branch."}
    )
    trust_remote_code: bool = field(
        default=False,
        metadata={"help": "Run Python code that comes with a checkpoint. Off: a checkpoint that needs it is refused."},
    )
    tokenizer_name: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub name of a tokenizer with the teacher's vocabulary. Unset: the teacher's own."
        },
    )
    ignore_mismatched_sizes: bool = field(
        default=False,
        metadata={
            "help": "Fine-tune a teacher whose head was trained for other labels, with a new head if the number "
            "of labels differs. Off: such a teacher is an error."
        },
    )
    teacher_num_train_epochs: float = field(
        default=3.0,
        metadata={
            "help": "Passes over the training data in the teacher's fine-tuning; > 0. A teacher with a trained "
            "head is not fine-tuned."
        },
    )
    teacher_learning_rate: float = field(
        default=5e-5, metadata={"help": "Peak learning rate of the teacher's fine-tuning; > 0."}
    )
    teacher_seed: int = field(
        default=42,
        metadata={
            "help": "Seed of the teacher's fine-tuning. It is separate from --seed, so that runs with different "
            "seeds can share a teacher."
        },
    )
    teacher_output_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder for the fine-tuned teacher. Runs that name the same folder share the teacher. Unset: "
            "OUTPUT_DIR/teacher."
        },
    )
    overwrite_teacher: bool = field(
        default=False,
        metadata={
            "help": "Fine-tune the teacher again where --teacher_output_dir holds one that was made in another way, "
            "and replace it. Off: such a teacher is an error."
        },
    )
    teacher_cache: bool = field(
        default=True,
        metadata={
            "help": "Run the teacher once over the training data, and train from its stored outputs. Off: the "
            "teacher runs in every step."
        },
    )
    teacher_cache_dir: str | None = field(
        default=None, metadata={"help": "Folder for the stored teacher outputs. Unset: TEACHER_OUTPUT_DIR/outputs."}
    )
    hidden_state_cache_gb: float = field(
        default=0.0,
        metadata={
            "help": "Largest size, in GB, of the stored hidden states for --hidden_weight; the log says how many "
            "GB they need. 0: they are not stored, and the teacher runs in every step."
        },
    )

    def __post_init__(self):
        if self.teacher_num_train_epochs <= 0:
            raise UserError(
                f"--teacher_num_train_epochs must be > 0, found {self.teacher_num_train_epochs}. A teacher whose "
                "head is trained is not fine-tuned, so leave the option out."
            )
        if self.teacher_learning_rate <= 0:
            raise UserError(f"--teacher_learning_rate must be > 0, found {self.teacher_learning_rate}; try 5e-5.")
        if self.hidden_state_cache_gb < 0:
            raise UserError(
                f"--hidden_state_cache_gb must be >= 0, found {self.hidden_state_cache_gb}. Use 0 to store none."
            )


@dataclass
class StudentArguments:
    """What the student starts from: layers of the teacher, or a checkpoint of its own."""

    layer_strategy: str | None = field(
        default=None,
        metadata={
            "help": "Which K of the teacher's layers 1 (nearest the input) to N the student copies. top or "
            "first: the first K. bottom or last: the last K. odd: 1,3,5,...; even: 2,4,6,... (both only "
            "if K = N/2). uniform: spread evenly, with layer N. random: none, all weights are new. "
            "narrow: all N, each without the inner neurons that matter least (see "
            "--student_intermediate_size). By data: search, the winner of short training runs (see "
            "--search_budget); cka and block_influence, the K layers that change their input most "
            "(measured: poor sets). Unset: odd."
        },
    )
    layers: str | None = field(
        default=None,
        metadata={
            "help": "Numbers of the teacher's layers to copy, in the order of the student, each once: 1,3,5. "
            "Layer 1 is nearest the input. If given, --layer_strategy and --num_student_layers have no "
            "effect. Unset: --layer_strategy decides."
        },
    )
    num_student_layers: int | None = field(
        default=None,
        metadata={"help": "Depth K of the student, from 1 to the teacher's depth N. Unset: half of N, rounded down."},
    )
    student_intermediate_size: int | None = field(
        default=None,
        metadata={
            "help": "Number of inner neurons of each layer that --layer_strategy narrow keeps; >= 1. Unset: a "
            "quarter of the teacher's, which halves the operations of a BERT-like encoder."
        },
    )
    search_budget: float = field(
        default=0.5,
        metadata={
            "help": "Cost that --layer_strategy search may have, in multiples of the training that follows; > 0. "
            "The search always stores the teacher's outputs."
        },
    )
    stages: str | None = field(
        default=None,
        metadata={
            "help": "Numbers of layers of several students, decreasing: 5,4,3. Each is built from the student "
            "before it (the first from the teacher) and trained in full with the same teacher; the last "
            "has the layers of --layer_strategy. Strategies by data choose again for each student. "
            "Measured: no gain on SST-2. Unset: one student."
        },
    )
    student_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub name of a pretrained model to train as the student; its depth and width are free. "
            "Losses on layers need one with the teacher's tokenizer. Unset: the student copies layers of the teacher."
        },
    )
    logit_adjustment: bool = field(
        default=False,
        metadata={
            "help": "After the training, move the student's logits towards the classes that are rare in the training "
            "split, by the amount that gives the highest macro-F1 on the validation split. Probabilities change too. "
            "Off: the student stays as it was trained."
        },
    )
    license: str | None = field(
        default=None,
        metadata={"help": "License of the student for its model card, as the Hub writes it: apache-2.0. Unset: none."},
    )

    def __post_init__(self):
        if self.student_name_or_path is not None:
            for name in ("layer_strategy", "layers", "num_student_layers", "stages", "student_intermediate_size"):
                if getattr(self, name) is not None:
                    raise UserError(
                        f"--student_name_or_path {self.student_name_or_path} has its own layers, so it does not go "
                        f"with --{name} {getattr(self, name)}. Leave one of the two out."
                    )
            return
        if self.layer_strategy is None:
            self.layer_strategy = "odd"
        check_strategy(self.layer_strategy)
        if self.student_intermediate_size is not None and not (self.is_narrow and self.student_intermediate_size >= 1):
            strategy = self.layer_strategy if self.layers is None else f"--layers {self.layers}"
            raise UserError(
                "--student_intermediate_size must be at least 1, and only --layer_strategy narrow reads it, found "
                f"{self.student_intermediate_size} with {strategy}."
            )
        if self.num_student_layers is not None and self.num_student_layers < 1:
            raise UserError(f"--num_student_layers must be at least 1, found {self.num_student_layers}.")
        if self.layers is not None:
            check_layers(parse_layers(self.layers))
        if not (math.isfinite(self.search_budget) and self.search_budget > 0):
            raise UserError(
                f"--search_budget must be > 0, found {self.search_budget}. It is a multiple of one full run; try 0.5."
            )
        if self.stages is not None:
            self._check_stages()

    def _check_stages(self):
        depths = parse_layers(self.stages)
        if not depths or depths[-1] < 1 or any(later >= earlier for earlier, later in zip(depths, depths[1:])):
            raise UserError(
                f"--stages must be decreasing depths of at least 1, found {self.stages}. An example is 5,4,3."
            )
        for name in ("layers", "num_student_layers"):
            if getattr(self, name) is not None:
                raise UserError(
                    f"--stages {self.stages} says how deep every student is, so it does not go with --{name} "
                    f"{getattr(self, name)}. Leave one of the two out."
                )
        if self.layer_strategy == "random":
            raise UserError(
                "--stages builds each student from the one before it, but --layer_strategy random copies nothing. Use "
                "--layer_strategy uniform, or leave --stages out."
            )

    def per_stage(self, num_teacher_layers: int) -> "tuple[StudentArguments, ...]":
        """Returns the arguments of every stage; the last stage makes the student. Without `stages` there is one.

        Strategies by evidence choose among the layers of the stage before. For all other strategies, `layers` comes
        from `shrinking_layers`, renumbered to the layers of the stage before.

        Raises:
            UserError: the strategy or the depths do not fit a teacher of this depth.
        """
        if self.stages is None:
            return (self,)
        depths = parse_layers(self.stages)
        if depths[0] >= num_teacher_layers:
            raise UserError(
                f"--stages must start below the teacher's depth, {num_teacher_layers}, found {self.stages}. Start "
                "with fewer layers."
            )
        stages = tuple(replace(self, stages=None, num_student_layers=depth) for depth in depths)
        if self.needs_evidence:
            return stages
        of_student = select_layers(self.layer_strategy, num_teacher_layers, depths[-1])
        of_stages = shrinking_layers(of_student, num_teacher_layers, depths)
        before = [range(1, num_teacher_layers + 1), *of_stages]
        return tuple(
            replace(stage, layers=join_layers([kept.index(layer) + 1 for layer in layers]))
            for stage, kept, layers in zip(stages, before, of_stages)
        )

    @property
    def is_narrow(self) -> bool:
        """Whether the student keeps all layers and leaves out inner neurons."""
        return self.layers is None and self.layer_strategy == "narrow"

    @property
    def needs_evidence(self) -> bool:
        """Whether it takes data to choose the layers."""
        return self.layers is None and self.layer_strategy in EVIDENCE_STRATEGIES

    @property
    def strategy_name(self) -> str:
        """What chooses the layers, for the record of a run; "explicit" where they are listed."""
        return self.layer_strategy if self.layers is None else "explicit"

    @property
    def short_name(self) -> str:
        """A name for folders: the list of layers, the strategy, or the student's own."""
        if self.student_name_or_path is not None:
            return Path(self.student_name_or_path).name
        return "-".join(filter(None, (self.layers or self.layer_strategy, self.stages)))


@dataclass
class VocabularyArguments:
    """How much of the vocabulary is kept."""

    trim_vocabulary: bool = field(
        default=False,
        metadata={
            "help": "Leave out the pieces of the vocabulary that the training texts do not have. Texts whose pieces "
            "are all kept are read as before, other words are split into kept pieces. Off: all pieces stay."
        },
    )
    vocabulary_size: int | None = field(
        default=None,
        metadata={
            "help": "Trim the vocabulary to this many pieces: those that any word can be written with, then the most "
            "frequent in the training texts. Unset: --trim_vocabulary keeps all that the texts have."
        },
    )

    def __post_init__(self):
        if self.vocabulary_size is not None:
            if self.vocabulary_size < 1:
                raise UserError(f"--vocabulary_size must be at least 1, found {self.vocabulary_size}. Try 8000.")
            self.trim_vocabulary = True


@dataclass
class OutputArguments:
    """What may be replaced in the output folder."""

    overwrite_output_dir: bool = field(
        default=False,
        metadata={
            "help": "Train again where --output_dir holds a finished run, whatever its settings. Replaces that run "
            "and removes its folders merged and export. Off: the same run is kept as it is, another one is an error."
        },
    )


def resolve_defaults(
    teacher_args: TeacherArguments,
    data_args: DataArguments,
    training_args: DistillationTrainingArguments,
    given: Collection[str],
    run_name: str,
) -> None:
    """Fills in the arguments whose default depends on others.

    Args:
        given: names of the arguments that were given.
        run_name: the end of the output folder's name.
    """
    if teacher_args.teacher_name_or_path is None:
        teacher_args.teacher_name_or_path = HUB_TEACHER if data_args.is_given else PACKAGED_TEACHER
    if "output_dir" not in given:
        training_args.output_dir = f"outputs/{data_args.short_name}-{run_name}"
    if teacher_args.teacher_output_dir is None:
        teacher_args.teacher_output_dir = str(Path(training_args.output_dir) / "teacher")
    if teacher_args.teacher_cache_dir is None:
        teacher_args.teacher_cache_dir = str(Path(teacher_args.teacher_output_dir) / "outputs")
    # Not by their values: `--eval_strategy` sets `do_eval` too.
    if not {"do_train", "do_eval", "do_predict"} & set(given):
        training_args.do_train = training_args.do_eval = training_args.do_predict = True
