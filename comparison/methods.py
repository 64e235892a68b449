"""The methods of a comparison: what makes a student, and the baselines that a student should beat.

METHODS["lora"].title      # "LoRA"
"""

from dataclasses import dataclass

from layer_mapping import EVIDENCE_STRATEGIES


@dataclass(frozen=True)
class Method:
    """A method.

    Attributes:
        title: in tables and figures.
        description: what it does.
        from_teacher: whether it copies layers of the fine-tuned teacher.
        has_strategies: whether it runs with every layer strategy; the others run once for each seed.
        has_seeds: whether another seed gives another result; the others run once, with scikit-learn.
        labels_alone: whether the loss is that of the labels.
        draws_weights: whether its layers start from fresh weights, as those of the strategy `random` do.
        not_with: strategies that make no sense with it.
        reads_teacher_tokens: whether it is a network with the teacher's tokenizer.
    """

    title: str
    description: str
    from_teacher: bool = True
    has_strategies: bool = True
    has_seeds: bool = True
    labels_alone: bool = True
    draws_weights: bool = False
    not_with: tuple[str, ...] = ()
    reads_teacher_tokens: bool = True

    @property
    def is_classical(self) -> bool:
        """Whether scikit-learn trains it, in one step."""
        return not self.has_seeds


def _baseline(title: str, description: str, **changes) -> Method:
    return Method(title, description, **{"from_teacher": False, "has_strategies": False, **changes})


COPY_NOTHING = ("random",)
METHODS = {
    "distill": Method("distilled", "with the weights of the loss that are given", labels_alone=False),
    "finetune": Method("fine-tuned", "the labels alone"),
    "lora": Method("LoRA", "adapters, the labels alone", not_with=COPY_NOTHING),
    "lora_distill": Method("LoRA + distillation", "adapters, distilled", labels_alone=False, not_with=COPY_NOTHING),
    "weighted": Method("fine-tuned, weighted classes", "the labels alone, rare classes weigh more"),
    "lora_full": _baseline(
        "LoRA, all layers, no teacher", "adapters on the whole encoder before its fine-tuning, the labels alone"
    ),
    "pretrained": _baseline(
        "without a teacher",
        "layers of the encoder before its fine-tuning, the labels alone",
        has_strategies=True,
        not_with=(*COPY_NOTHING, *EVIDENCE_STRATEGIES, "narrow"),
    ),
    "fresh_layers": _baseline(
        "fresh layers, distilled",
        "the teacher's embeddings and fresh layers, distilled",
        labels_alone=False,
        draws_weights=True,
    ),
    "rival": _baseline(
        "rival, fine-tuned",
        "another pretrained encoder, --rival_name_or_path, the labels alone",
        reads_teacher_tokens=False,
    ),
    "linear_probe": _baseline(
        "linear probe", "logistic regression on the frozen encoder", has_seeds=False, reads_teacher_tokens=False
    ),
    "tfidf": _baseline(
        "TF-IDF", "logistic regression on words and parts of words", has_seeds=False, reads_teacher_tokens=False
    ),
    "tfidf_balanced": _baseline(
        "TF-IDF, weighted classes", "as tfidf, rare classes weigh more", has_seeds=False, reads_teacher_tokens=False
    ),
}
LORA_METHODS = ("lora", "lora_distill", "lora_full")
WEIGHTED_METHODS = ("weighted", "tfidf_balanced")
DEFAULT_METHODS = ("distill", "finetune", "lora", "lora_distill")
