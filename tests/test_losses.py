"""Tests of the losses against references written straight from the definitions, in float64 with `math` alone."""

import math
import textwrap

import pytest
import torch
import torch.nn.functional as F

import layer_distillation.losses
from layer_distillation.losses import (
    attention_loss,
    cosine_loss,
    hidden_state_loss,
    kl_divergence_loss,
    relation_loss,
    task_loss,
)
from layer_distillation.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL, infer_problem_type
from tests.tiny_models import TINY_CLASSIFIERS, VOCAB_SIZE

BATCH, NUM_LABELS = 5, 4
PROBLEM_TYPES = [SINGLE_LABEL, MULTI_LABEL, REGRESSION]
TEMPERATURES = [0.5, 1.0, 2.0, 10.0]


def random_logits(seed, shape=(BATCH, NUM_LABELS)):
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_labels(problem_type, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if problem_type == SINGLE_LABEL:
        return torch.randint(NUM_LABELS, (BATCH,), generator=generator)
    if problem_type == MULTI_LABEL:
        return torch.randint(2, (BATCH, NUM_LABELS), generator=generator).float()
    return torch.randn(BATCH, NUM_LABELS, generator=generator)


def softmax(row):
    exponentials = [math.exp(value) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def mean(values):
    return sum(values) / len(values)


def squared_error(row, target):
    return mean([(a - b) ** 2 for a, b in zip(row, target, strict=True)])


def reference_task_loss(logits, labels, problem_type):
    losses = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        if problem_type == SINGLE_LABEL:
            losses.append(-math.log(softmax(row)[label]))
        elif problem_type == MULTI_LABEL:
            chances = [sigmoid(value) for value in row]
            losses.append(-mean([math.log(p if y == 1 else 1 - p) for p, y in zip(chances, label, strict=True)]))
        else:
            losses.append(squared_error(row, label))
    return losses


def reference_kl(student_logits, teacher_logits, temperature, problem_type):
    losses = []
    for student, teacher in zip(student_logits.tolist(), teacher_logits.tolist(), strict=True):
        if problem_type == REGRESSION:
            losses.append(squared_error(student, teacher))
            continue
        student = [value / temperature for value in student]
        teacher = [value / temperature for value in teacher]
        if problem_type == SINGLE_LABEL:
            pairs = zip(softmax(teacher), softmax(student), strict=True)
            divergence = sum(p * math.log(p / q) for p, q in pairs)
        else:
            pairs = zip(map(sigmoid, teacher), map(sigmoid, student), strict=True)
            divergence = mean([p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)) for p, q in pairs])
        losses.append(temperature**2 * divergence)
    return losses


def assert_close_to_reference(losses, reference, tolerance=1e-5):
    assert losses.shape == (BATCH,) and losses.dtype == torch.float32
    assert losses.tolist() == pytest.approx(reference, rel=tolerance, abs=1e-6)


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_task_loss_follows_its_definition(problem_type):
    logits, labels = random_logits(1), random_labels(problem_type)
    assert_close_to_reference(
        task_loss(logits, labels, problem_type), reference_task_loss(logits, labels, problem_type)
    )


def test_shares_and_unknown_labels_of_multi_label_data_enter_the_loss_as_defined():
    logits, labels = random_logits(0), torch.rand(BATCH, NUM_LABELS, generator=torch.Generator().manual_seed(1))
    labels[0, 1] = labels[1, 0] = labels[1, 3] = labels[4] = math.nan
    logits.requires_grad_()
    losses = task_loss(logits, labels, MULTI_LABEL)
    for row, targets, loss in zip(logits.tolist(), labels.tolist(), losses.tolist(), strict=True):
        known = [(sigmoid(value), target) for value, target in zip(row, targets, strict=True) if target == target]
        terms = [-target * math.log(p) - (1 - target) * math.log(1 - p) for p, target in known]
        assert loss == pytest.approx(mean(terms) if terms else 0, rel=1e-5)
    losses.sum().backward()
    assert (logits.grad[labels.isnan()] == 0).all() and logits.grad.isfinite().all()


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_kl_divergence_follows_its_definition(problem_type):
    student, teacher = random_logits(1), random_logits(2)
    for temperature in TEMPERATURES:
        losses = kl_divergence_loss(student, teacher, temperature, problem_type)
        # Divided by T = 10, the distributions are so close that float32 keeps four digits of their divergence.
        assert_close_to_reference(losses, reference_kl(student, teacher, temperature, problem_type), 1e-4)


def test_cosine_loss_follows_its_definition_and_ignores_the_size_of_the_logits():
    student, teacher = random_logits(1), random_logits(2)
    reference = []
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        product = sum(a * b for a, b in zip(s, t, strict=True))
        reference.append(1 - product / math.sqrt(sum(a * a for a in s) * sum(b * b for b in t)))
    assert_close_to_reference(cosine_loss(student, teacher), reference)
    assert_close_to_reference(cosine_loss(7 * student, 0.1 * teacher), reference)


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_kl_divergence_of_equal_logits_is_exactly_zero(problem_type):
    for scale in (1e-3, 1.0, 1e4):
        for temperature in TEMPERATURES:
            logits = scale * random_logits(1)
            assert kl_divergence_loss(logits, logits.clone(), temperature, problem_type).tolist() == [0.0] * BATCH


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_losses_stay_finite_for_extreme_logits(problem_type):
    student = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    teacher = -student.detach()
    labels = torch.tensor([1, 0]) if problem_type == SINGLE_LABEL else torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    losses = [
        task_loss(student, labels, problem_type),
        kl_divergence_loss(student, teacher, 2.0, problem_type),
        cosine_loss(student, teacher),
    ]
    torch.stack(losses).sum().backward()
    assert all(loss.isfinite().all() for loss in losses) and student.grad.isfinite().all()


@pytest.mark.parametrize(
    ("problem_type", "probabilities", "num_terms"),
    [(SINGLE_LABEL, lambda logits: logits.softmax(dim=-1), 1), (MULTI_LABEL, torch.sigmoid, NUM_LABELS)],
    ids=["single-label", "multi-label"],
)
def test_gradient_of_kl_divergence_is_t_times_the_difference_of_the_probabilities(
    problem_type, probabilities, num_terms
):
    for temperature in TEMPERATURES:
        student, teacher = random_logits(1).requires_grad_(), random_logits(2)
        kl_divergence_loss(student, teacher, temperature, problem_type).sum().backward()
        difference = probabilities(student.detach() / temperature) - probabilities(teacher / temperature)
        torch.testing.assert_close(student.grad, temperature * difference / num_terms, rtol=1e-4, atol=1e-5)


def test_gradient_of_cosine_loss_is_that_of_its_definition():
    student, teacher = random_logits(1).requires_grad_(), random_logits(2)
    cosine_loss(student, teacher).sum().backward()
    s, t = student.detach().double(), teacher.double()
    s_norm, t_norm = s.norm(dim=-1, keepdim=True), t.norm(dim=-1, keepdim=True)
    cosine = (s * t).sum(dim=-1, keepdim=True) / (s_norm * t_norm)
    expected = cosine * s / s_norm**2 - t / (s_norm * t_norm)
    torch.testing.assert_close(student.grad.double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    student, teacher = random_logits(1).to(dtype), random_logits(2).to(dtype)
    assert torch.equal(cosine_loss(student, teacher), cosine_loss(student.float(), teacher.float()))
    for problem_type in PROBLEM_TYPES:
        labels = random_labels(problem_type)
        assert torch.equal(task_loss(student, labels, problem_type), task_loss(student.float(), labels, problem_type))
        losses = kl_divergence_loss(student, teacher, 2.0, problem_type)
        assert torch.equal(losses, kl_divergence_loss(student.float(), teacher.float(), 2.0, problem_type))


@pytest.mark.parametrize(
    ("problem_type", "num_labels", "labels"),
    [
        (SINGLE_LABEL, 3, torch.tensor([0, 2, 1, 1])),
        (MULTI_LABEL, 3, torch.tensor([[0.0, 1, 1], [0, 0, 0], [1, 0, 1], [1, 1, 1]])),
        (REGRESSION, 1, torch.tensor([0.5, -1.0, 2.0, 0.0])),
    ],
)
def test_mean_of_task_loss_and_inferred_problem_type_are_those_of_a_transformers_head(
    problem_type, num_labels, labels
):
    model = TINY_CLASSIFIERS["bert"](1, num_labels)
    input_ids = torch.randint(VOCAB_SIZE, (4, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = model(input_ids=input_ids, labels=labels)
    assert infer_problem_type(num_labels, labels) == model.config.problem_type == problem_type
    torch.testing.assert_close(task_loss(outputs.logits, labels, problem_type).mean(), outputs.loss)


def test_infer_problem_type_without_labels_goes_by_the_number_of_outputs():
    assert infer_problem_type(3, None) == SINGLE_LABEL
    assert infer_problem_type(1, None) == REGRESSION


def test_label_smoothing_is_that_of_pytorch_and_of_the_definition():
    logits, labels = random_logits(1), random_labels(SINGLE_LABEL)
    losses = task_loss(logits, labels, label_smoothing=0.2)
    expected = F.cross_entropy(logits, labels, label_smoothing=0.2)
    torch.testing.assert_close(losses.mean(), expected)
    reference = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        target = [0.2 / NUM_LABELS + (0.8 if index == label else 0) for index in range(NUM_LABELS)]
        reference.append(-sum(y * math.log(p) for y, p in zip(target, softmax(row), strict=True)))
    assert_close_to_reference(losses, reference)


def test_regression_accepts_integer_targets_of_either_shape():
    logits, targets = random_logits(1, (BATCH, 1)), torch.arange(BATCH)
    losses = task_loss(logits, targets, REGRESSION)
    assert_close_to_reference(losses, [(row[0] - y) ** 2 for row, y in zip(logits.tolist(), targets.tolist())])
    assert torch.equal(losses, task_loss(logits, targets.unsqueeze(-1), REGRESSION))


def test_unknown_targets_of_a_regression_are_left_out():
    logits, targets = random_logits(1, (BATCH, 3)), random_logits(2, (BATCH, 3))
    expected = (logits - targets).square().mean(dim=1)
    targets[0, 1] = targets[1] = math.nan
    expected[0], expected[1] = (logits[0, [0, 2]] - targets[0, [0, 2]]).square().mean(), 0
    assert_close_to_reference(task_loss(logits, targets, REGRESSION), expected.tolist())


def test_the_example_at_the_top_of_the_module_runs():
    example = textwrap.dedent(
        "\n".join(line for line in layer_distillation.losses.__doc__.splitlines() if line.startswith("    "))
    )
    values = {}
    exec(example, values)
    assert values["student_logits"].grad.abs().min() > 0


# ---- Losses on layers ----

LENGTHS = (6, 3, 1, 4)
MASK = torch.tensor([[1] * length + [0] * (6 - length) for length in LENGTHS])
HEADS = 2


def hidden_states(seed, width=4):
    return random_logits(seed, (len(LENGTHS), 6, width)).double()


def attention_probabilities(seed):
    scores = random_logits(seed, (len(LENGTHS), HEADS, 6, 6)).double()
    return scores.masked_fill(MASK[:, None, None, :] == 0, -math.inf).softmax(dim=-1)


def reference_hidden_state_loss(student, teacher, mask):
    def direction(vector):
        length = math.sqrt(sum(x * x for x in vector))
        return [x / length for x in vector]

    return [
        mean(
            [
                sum((a - b) ** 2 for a, b in zip(direction(s), direction(t), strict=True))
                for s, t, counts in zip(student_row, teacher_row, mask_row, strict=True)
                if counts
            ]
        )
        for student_row, teacher_row, mask_row in zip(student.tolist(), teacher.tolist(), mask.tolist(), strict=True)
    ]


def reference_kl_of_rows(student, teacher):
    return sum(t * math.log(t / s) for s, t in zip(student, teacher, strict=True) if t > 0)


def reference_attention_loss(student, teacher, divergence):
    def of_rows(s, t):
        return reference_kl_of_rows(s, t) if divergence == "kl" else len(s) * squared_error(s, t)

    return [
        mean([of_rows(student[i, h, q].tolist(), teacher[i, h, q].tolist()) for h in range(HEADS) for q in range(n)])
        for i, n in enumerate(LENGTHS)
    ]


def reference_relation_loss(student, teacher, num_heads):
    def relations(vectors, query):
        size = len(vectors[0]) // num_heads
        for head in range(num_heads):
            parts = [vector[head * size : (head + 1) * size] for vector in vectors]
            yield softmax([sum(a * b for a, b in zip(parts[query], key)) / math.sqrt(size) for key in parts])

    values = []
    for s, t, length in zip(student.tolist(), teacher.tolist(), LENGTHS, strict=True):
        s, t = s[:length], t[:length]
        rows = [pair for q in range(length) for pair in zip(relations(s, q), relations(t, q), strict=True)]
        values.append(mean([reference_kl_of_rows(*pair) for pair in rows]))
    return values


@pytest.mark.parametrize("mask", [MASK, MASK.flip(1)], ids=["padding on the right", "padding on the left"])
def test_hidden_state_loss_is_that_of_the_definition(mask):
    student, teacher = hidden_states(0), hidden_states(1)
    first = torch.zeros_like(mask)
    for row, is_token in zip(first, mask.tolist(), strict=True):
        row[is_token.index(1)] = 1
    for tokens, counted in (("all", mask), ("first", first)):
        expected = reference_hidden_state_loss(student, teacher, counted)
        assert hidden_state_loss(student, teacher, mask, tokens).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("divergence", ["kl", "mse"])
def test_attention_loss_is_that_of_the_definition(divergence):
    student, teacher = attention_probabilities(0), attention_probabilities(1)
    expected = reference_attention_loss(student, teacher, divergence)
    assert attention_loss(student, teacher, MASK, divergence).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(("num_heads", "teacher_width"), [(1, 4), (2, 12), (4, 12)])
def test_relation_loss_is_that_of_the_definition_also_for_other_widths(num_heads, teacher_width):
    student, teacher = hidden_states(0), hidden_states(1, teacher_width)
    expected = reference_relation_loss(student, teacher, num_heads)
    assert relation_loss(student, teacher, MASK, num_heads).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def of_layers(name, student, teacher, mask=MASK):
    match name:
        case "hidden":
            return hidden_state_loss(student, teacher, mask)
        case "relation":
            return relation_loss(student, teacher, mask, 2)
        case _:
            return attention_loss(student, teacher, mask, name)


LAYER_LOSSES = ("hidden", "kl", "mse", "relation")


def layer_tensors(name, seed):
    return attention_probabilities(seed) if name in ("kl", "mse") else hidden_states(seed)


@pytest.mark.parametrize("name", LAYER_LOSSES)
def test_losses_on_layers_are_0_for_the_teacher_itself_and_positive_for_another(name):
    teacher = layer_tensors(name, 0)
    assert of_layers(name, teacher.clone(), teacher).tolist() == [0] * len(LENGTHS)
    losses = of_layers(name, layer_tensors(name, 1), teacher)
    several = torch.tensor(LENGTHS) > (1 if name != "hidden" else 0)  # one token attends and relates to itself only
    assert losses.shape == (len(LENGTHS),) and losses.dtype == torch.float32
    assert (losses[several] > 0.01).all()


@pytest.mark.parametrize("name", LAYER_LOSSES)
def test_padding_contributes_nothing_to_losses_on_layers(name):
    student, teacher = layer_tensors(name, 0), layer_tensors(name, 1)
    expected = of_layers(name, student, teacher)
    for tensor in (student, teacher):
        padded = MASK == 0 if name not in ("kl", "mse") else (MASK == 0)[:, None, :].expand(-1, HEADS, -1)
        tensor[padded] = 7.0
    assert of_layers(name, student, teacher).tolist() == expected.tolist()
    student.requires_grad_(True)
    of_layers(name, student, teacher).sum().backward()
    assert student.grad.isfinite().all() and student.grad[padded].abs().max() == 0
