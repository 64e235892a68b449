"""The methods of a comparison: what makes a student, and the baselines that a student should beat.

METHODS["lora"].title      # "LoRA"
"""

from dataclasses import dataclass

from layer_mapping import EVIDENCE_STRATEGIES

# The arguments that name a checkpoint to start from: the teacher before its fine-tuning, and another encoder.
ENCODER, RIVAL = "encoder_name_or_path", "rival_name_or_path"


@dataclass(frozen=True)
class Method:
    """A method.

    Attributes:
        title: in tables and figures.
        description: what it does.
        hatch: in figures, as matplotlib takes it.
        from_teacher: whether it copies layers of the fine-tuned teacher.
        checkpoint: the argument that names what it starts from; `None` for the teacher, or for nothing.
        all_layers: whether its network has all layers of the encoder.
        has_strategies: whether it runs with every layer strategy; the others run once for each seed.
        has_seeds: whether another seed gives another result; the others run once, with scikit-learn.
        labels_alone: whether the loss is that of the labels.
        weights_classes: whether rare classes weigh more.
        has_adapters: whether LoRA adapters are trained, in place of all weights.
        draws_weights: whether its layers start from fresh weights, as those of the strategy `random` do.
        not_with: strategies that make no sense with it.
    """

    title: str
    description: str
    hatch: str
    from_teacher: bool = True
    checkpoint: str | None = None
    all_layers: bool = False
    has_strategies: bool = True
    has_seeds: bool = True
    labels_alone: bool = True
    weights_classes: bool = False
    has_adapters: bool = False
    draws_weights: bool = False
    not_with: tuple[str, ...] = ()

    @property
    def is_classical(self) -> bool:
        """Whether scikit-learn trains it, in one step."""
        return not self.has_seeds

    @property
    def reads_teacher_tokens(self) -> bool:
        """Whether it is a network with the teacher's tokenizer."""
        return not self.is_classical and self.checkpoint != RIVAL


COPY_NOTHING = ("random",)


def _lora(title: str, description: str, hatch: str, **changes) -> Method:
    return Method(title, description, hatch, has_adapters=True, not_with=COPY_NOTHING, **changes)


def _baseline(title: str, description: str, hatch: str, **changes) -> Method:
    return Method(title, description, hatch, **{"from_teacher": False, "has_strategies": False, **changes})


METHODS = {
    "distill": Method("distilled", "with the weights of the loss that are given", "", labels_alone=False),
    "finetune": Method("fine-tuned", "the labels alone", "///"),
    "lora": _lora("LoRA", "adapters, the labels alone", "..."),
    "lora_distill": _lora("LoRA + distillation", "adapters, distilled", "xxx", labels_alone=False),
    "weighted": Method(
        "fine-tuned, weighted classes", "the labels alone, rare classes weigh more", "\\\\\\", weights_classes=True
    ),
    "lora_full": _baseline(
        "LoRA, all layers, no teacher",
        "adapters on the whole encoder before its fine-tuning, the labels alone",
        "oo",
        checkpoint=ENCODER,
        all_layers=True,
        has_adapters=True,
    ),
    "pretrained": _baseline(
        "without a teacher",
        "layers of the encoder before its fine-tuning, the labels alone",
        "|||",
        checkpoint=ENCODER,
        has_strategies=True,
        not_with=(*COPY_NOTHING, *EVIDENCE_STRATEGIES, "narrow"),
    ),
    "fresh_layers": _baseline(
        "fresh layers, distilled",
        "the teacher's embeddings and fresh layers, distilled",
        "---",
        labels_alone=False,
        draws_weights=True,
    ),
    "rival": _baseline(
        "rival, fine-tuned",
        "another pretrained encoder, --rival_name_or_path, the labels alone",
        "+++",
        checkpoint=RIVAL,
    ),
    "linear_probe": _baseline(
        "linear probe", "logistic regression on the frozen encoder", "ooo", checkpoint=ENCODER, has_seeds=False
    ),
    "tfidf": _baseline("TF-IDF", "logistic regression on words and parts of words", "O", has_seeds=False),
    "tfidf_balanced": _baseline(
        "TF-IDF, weighted classes", "as tfidf, rare classes weigh more", "**", has_seeds=False, weights_classes=True
    ),
}
DEFAULT_METHODS = ("distill", "finetune", "lora", "lora_distill")
