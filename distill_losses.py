"""Distillation losses: pure functions of tensors, usable with any training loop.

Every function returns one value per example, shape `(batch,)` in float32, and leaves the reduction to the caller: only
the caller knows how many examples the whole batch holds once it is split over processes and accumulation steps.

    from distill_losses import kl_divergence_loss, task_loss

    loss = 0.5 * task_loss(student_logits, labels) + 0.5 * kl_divergence_loss(student_logits, teacher_logits, 2.0)
    loss.mean().backward()
"""

import torch
import torch.nn.functional as F

SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"


def infer_problem_type(num_labels: int, labels: torch.Tensor | None) -> str:
    """The problem type that `transformers` heads infer when `config.problem_type` is unset.

    One output is a regression, floating-point labels are multi-label targets, integer labels (or none) mean classes.
    """
    if num_labels == 1:
        return REGRESSION
    return MULTI_LABEL if labels is not None and labels.is_floating_point() else SINGLE_LABEL


def task_loss(
    logits: torch.Tensor, labels: torch.Tensor, problem_type: str = SINGLE_LABEL, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Hard-label loss of each example.

    Args:
        logits: `(batch, num_labels)`, any floating-point dtype.
        labels: class ids `(batch,)` for single-label, 0/1 targets `(batch, num_labels)` for multi-label, targets
            `(batch,)` or `(batch, num_labels)` for regression.
        problem_type: as in `config.problem_type`.
        label_smoothing: share of the target mass spread evenly over the classes, in [0, 1); single-label only.

    Returns:
        `(batch,)`: cross-entropy in nats, binary cross-entropy in nats averaged over the labels, or squared error
        averaged over the outputs. Their mean over the batch is what the `transformers` heads compute.
    """
    logits = logits.float()
    if problem_type == SINGLE_LABEL:
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    labels = labels.float().view_as(logits)
    if problem_type == MULTI_LABEL:
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=-1)
    return F.mse_loss(logits, labels, reduction="none").mean(dim=-1)


def kl_divergence_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    temperature: float = 1.0,
    problem_type: str = SINGLE_LABEL,
) -> torch.Tensor:
    """Soft-label loss of each example: how far the student's prediction is from the teacher's.

    Single-label, with `p` the teacher's and `q` the student's distribution, both softened by `T`
    (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2):

        T^2 * KL(p || q) = T^2 * sum_c p_c * (log p_c - log q_c),    p = softmax(teacher / T), q = softmax(student / T)

    `T^2` keeps the gradient's size independent of `T`. Multi-label problems use the same with one Bernoulli
    distribution per label, averaged over the labels; regression, which has no distribution to soften, uses the squared
    error to the teacher's output. Equal logits give exactly 0.

    Args:
        student_logits, teacher_logits: `(batch, num_labels)`; the teacher's should carry no gradient.
        temperature: `T` > 0; has no effect on regression.
        problem_type: as in `config.problem_type`.

    Returns:
        `(batch,)`, in nats times `T^2` (squared units of the target for regression).
    """
    student_logits, teacher_logits = student_logits.float(), teacher_logits.float()
    if problem_type == REGRESSION:
        return F.mse_loss(student_logits, teacher_logits, reduction="none").mean(dim=-1)
    student_logits, teacher_logits = student_logits / temperature, teacher_logits / temperature
    if problem_type == SINGLE_LABEL:
        divergence = _kl(F.log_softmax(student_logits, dim=-1), F.log_softmax(teacher_logits, dim=-1)).sum(dim=-1)
    else:
        present = _kl(F.logsigmoid(student_logits), F.logsigmoid(teacher_logits))
        absent = _kl(F.logsigmoid(-student_logits), F.logsigmoid(-teacher_logits))
        divergence = (present + absent).mean(dim=-1)
    return temperature**2 * divergence


def cosine_loss(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """One minus the cosine of the angle between the two logit vectors of each example.

    Looks at the direction of the logits only, not their size. Needs two or more labels: the cosine of two numbers is
    +-1 and has no gradient.

    Args:
        student_logits, teacher_logits: `(batch, num_labels)`.

    Returns:
        `(batch,)` in [0, 2].
    """
    return 1 - F.cosine_similarity(student_logits.float(), teacher_logits.float(), dim=-1)


def _kl(student_log_probs: torch.Tensor, teacher_log_probs: torch.Tensor) -> torch.Tensor:
    return F.kl_div(student_log_probs, teacher_log_probs, reduction="none", log_target=True)
