"""Distillation losses: pure functions of tensors, usable with any training loop.

    import torch
    from layer_distillation.losses import kl_divergence_loss, task_loss

    student_logits = torch.tensor([[2.0, -1.0], [0.0, 1.0]], requires_grad=True)
    teacher_logits = torch.tensor([[3.0, -2.0], [1.0, 0.0]])
    labels = torch.tensor([0, 1])
    loss = 0.5 * task_loss(student_logits, labels) + 0.5 * kl_divergence_loss(student_logits, teacher_logits, 2.0)
    loss.mean().backward()

Every function returns one value per example, shape `(batch,)` in float32. The caller reduces them: only the caller
knows how many examples the whole batch holds when it is split over processes and accumulation steps.

The losses on logits (`task_loss`, `kl_divergence_loss`, `cosine_loss`) accept `(tokens, num_labels)` as well, for
models that predict a label for every token. The losses on layers (`hidden_state_loss`, `attention_loss`,
`relation_loss`) all take the arguments `(student, teacher, attention_mask, how)`; the table in `loss_table.py` names
what they compare.
"""

import torch
import torch.nn.functional as F

from layer_distillation.errors import UserError
from layer_distillation.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL

# ---- on logits ----


def task_loss(
    logits: torch.Tensor, labels: torch.Tensor, problem_type: str = SINGLE_LABEL, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Returns the hard-label loss of each example.

    Args:
        logits: `(batch, num_labels)`, any floating-point dtype.
        labels: class ids `(batch,)` for single-label; targets from 0 to 1 `(batch, num_labels)` for multi-label, NaN
            where a label is unknown; targets `(batch,)` or `(batch, num_labels)` for regression, likewise.
        problem_type: as in `config.problem_type`.
        label_smoothing: share of the target mass spread evenly over the classes, in [0, 1); single-label only.

    Returns:
        `(batch,)`: cross-entropy in nats, or binary cross-entropy in nats or squared error, averaged over the known
        labels (0 if none is known). The mean over the examples that have a label is what the
        `transformers` heads compute.
    """
    logits = logits.float()
    if problem_type == SINGLE_LABEL:
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    labels = labels.float().view_as(logits)
    is_known = ~labels.isnan()
    compare = F.binary_cross_entropy_with_logits if problem_type == MULTI_LABEL else F.mse_loss
    losses = compare(logits, labels.nan_to_num(), reduction="none")
    return (losses * is_known).sum(dim=-1) / is_known.sum(dim=-1).clamp_min(1)


def kl_divergence_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    temperature: float = 1.0,
    problem_type: str = SINGLE_LABEL,
) -> torch.Tensor:
    """Returns the soft-label loss of each example: how far the student's prediction is from the teacher's.

    Single-label, with `p` the teacher's and `q` the student's distribution, both softened by `T`
    (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2):

        T^2 * KL(p || q) = T^2 * sum_c p_c * (log p_c - log q_c),    p = softmax(teacher / T), q = softmax(student / T)

    `T^2` keeps the size of the gradient independent of `T`. Multi-label problems use the same formula with one
    Bernoulli distribution per label, averaged over the labels. Regression has no distribution to soften and uses the
    squared error to the teacher's output. Equal logits give exactly 0.

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
    """Returns one minus the cosine of the angle between the two logit vectors of each example.

    The loss looks at the direction of the logits, not at their size. It needs two or more labels: the cosine of two
    numbers is +-1 and has no gradient.

    Args:
        student_logits, teacher_logits: `(batch, num_labels)`; the teacher's should carry no gradient.

    Returns:
        `(batch,)` in [0, 2].
    """
    return 1 - F.cosine_similarity(student_logits.float(), teacher_logits.float(), dim=-1)


# ---- on layers ----


def hidden_state_loss(
    student_states: torch.Tensor, teacher_states: torch.Tensor, attention_mask: torch.Tensor, tokens: str = "all"
) -> torch.Tensor:
    """Returns how far the directions of the student's hidden states are from the teacher's, in one layer.

    The loss is the mean over the tokens of |s / |s| - t / |t||^2. Sun et al. 2019, "Patient Knowledge Distillation for
    BERT Model Compression", equation 7, compare the first token. Jiao et al. 2020, "TinyBERT", equation 8, all.

    Args:
        student_states, teacher_states: `(batch, length, width)`; the teacher's should carry no gradient.
        attention_mask: `(batch, length)`, 1 for tokens and 0 for padding.
        tokens: "all" or "first".

    Returns:
        `(batch,)` in [0, 4].
    """
    token_mask = attention_mask
    if tokens == "first":  # which is not at position 0 where padding is on the left
        token_mask = attention_mask * (attention_mask.cumsum(dim=-1) == 1)
    difference = F.normalize(student_states.float(), dim=-1) - F.normalize(teacher_states.float(), dim=-1)
    return _mean_over_tokens(difference.square().sum(dim=-1), token_mask)


def attention_loss(
    student_attentions: torch.Tensor,
    teacher_attentions: torch.Tensor,
    attention_mask: torch.Tensor,
    divergence: str = "kl",
) -> torch.Tensor:
    """Returns how far the student's attention is from the teacher's, head by head, in one layer.

    With t and s the teacher's and the student's distribution of a token's attention, the loss is the mean over heads
    and tokens of KL(t || s) (Wang et al. 2020, "MiniLM", equation 6) or of |s - t|^2 (Jiao et al. 2020, "TinyBERT",
    equation 7, who compare scores before the softmax, which the models of `transformers` do not return).

    Args:
        student_attentions, teacher_attentions: `(batch, heads, length, length)`, probabilities along the last
            dimension; the teacher's should carry no gradient.
        attention_mask: `(batch, length)`, 1 for tokens and 0 for padding.
        divergence: "kl" or "mse".

    Returns:
        `(batch,)`; KL in nats.
    """
    student, teacher = student_attentions.float(), teacher_attentions.float()
    if divergence == "kl":
        smallest = torch.finfo(student.dtype).tiny  # masked tokens have probability 0
        rows = _kl(student.clamp_min(smallest).log(), teacher.clamp_min(smallest).log()).sum(dim=-1)
    else:
        rows = (student - teacher).square().sum(dim=-1)
    return _mean_over_tokens(rows.mean(dim=1), attention_mask)


def relation_loss(
    student_vectors: torch.Tensor,
    teacher_vectors: torch.Tensor,
    attention_mask: torch.Tensor,
    num_relation_heads: int,
) -> torch.Tensor:
    """Returns how far the relations among the student's queries (or keys, or values) are from the teacher's.

    The vectors A of all tokens are split into relation heads a of d_a features. R_a = softmax(A_a A_a' / sqrt(d_a))
    says how strongly each token relates to every token. The loss is the mean over heads and tokens of
    KL(R_teacher || R_student): Wang et al. 2021, "MiniLMv2", equations 5 to 7. The widths and the numbers of attention
    heads of student and teacher may differ.

    Args:
        student_vectors, teacher_vectors: `(batch, length, width)`; the teacher's should carry no gradient.
        attention_mask: `(batch, length)`, 1 for tokens and 0 for padding.
        num_relation_heads: a divisor of both widths.

    Returns:
        `(batch,)`, in nats.

    Raises:
        UserError: the number of heads does not divide a width.
    """
    widths = student_vectors.shape[-1], teacher_vectors.shape[-1]
    if any(width % num_relation_heads for width in widths):
        raise UserError(
            "--relation_heads must divide the widths of the vectors of student and teacher, which are "
            f"{widths[0]} and {widths[1]}, found {num_relation_heads}. Grouped queries are wider than keys and values."
        )
    student = _log_relations(student_vectors.float(), attention_mask, num_relation_heads)
    teacher = _log_relations(teacher_vectors.float(), attention_mask, num_relation_heads)
    return _mean_over_tokens(_kl(student, teacher).sum(dim=-1).mean(dim=1), attention_mask)


def _log_relations(vectors: torch.Tensor, attention_mask: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Turns `(batch, length, width)` into log-probabilities `(batch, num_heads, length, length)`, padding masked."""
    heads = vectors.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    scores = heads @ heads.transpose(-1, -2) / heads.shape[-1] ** 0.5
    # The smallest finite number: minus infinity minus itself, which KL computes, is not a number.
    is_padding = attention_mask[:, None, None, :] == 0
    return F.log_softmax(scores.masked_fill(is_padding, torch.finfo(scores.dtype).min), dim=-1)


def _mean_over_tokens(values: torch.Tensor, token_mask: torch.Tensor) -> torch.Tensor:
    """Turns `(batch, length)` into `(batch,)`."""
    return (values * token_mask).sum(dim=-1) / token_mask.sum(dim=-1)


def _kl(student_log_probs: torch.Tensor, teacher_log_probs: torch.Tensor) -> torch.Tensor:
    """Returns the terms of KL(teacher || student), in the shape of the inputs."""
    return F.kl_div(student_log_probs, teacher_log_probs, reduction="none", log_target=True)
