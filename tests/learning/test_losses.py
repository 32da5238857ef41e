"""Losses against the definitions, written out in float64."""

import math

import pytest
import torch

from abd_hub.learning.losses import (
    attention_transfer,
    cross_entropy,
    cross_entropy_per_sample,
    information_entropy,
    jensen_shannon,
    kl,
    kl_per_sample,
    mean_magnitude,
    one_hot_loss,
    total_variation,
)


def textbook_kl(p_logits, q_logits, temperature):
    rows = []
    for p_row, q_row in zip(
        (p_logits / temperature).tolist(), (q_logits / temperature).tolist(), strict=True
    ):
        p = [math.exp(x) / sum(math.exp(y) for y in p_row) for x in p_row]
        q = [math.exp(x) / sum(math.exp(y) for y in q_row) for x in q_row]
        rows.append(sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True)))
    return rows


def test_kl_is_the_definition_at_any_temperature():
    torch.manual_seed(0)
    p, q = torch.randn(2, 5, 7, dtype=torch.float64)
    for temperature in (0.5, 1.0, 4.0):
        expected = torch.tensor(textbook_kl(p, q, temperature), dtype=torch.float64)
        torch.testing.assert_close(kl_per_sample(p, q, temperature), expected, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(kl(p, q, temperature), expected.mean(), rtol=1e-12, atol=1e-14)


def test_kl_of_half_precision_logits_is_computed_in_float32():
    p = torch.tensor([[4.0, 0.0]], dtype=torch.bfloat16)
    q = torch.tensor([[3.75, 0.0]], dtype=torch.bfloat16)
    found = kl(p, q)
    assert found.dtype == torch.float32
    expected = textbook_kl(p.double(), q.double(), 1.0)[0]
    assert math.isclose(found.item(), expected, rel_tol=1e-3)


def test_attention_transfer_is_the_definition():
    torch.manual_seed(0)
    student = [torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 5, 2, 2, dtype=torch.float64)]
    teacher = [torch.randn(2, 6, 4, 4, dtype=torch.float64), torch.randn(2, 5, 2, 2, dtype=torch.float64)]
    expected = 0.0
    for s, t in zip(student, teacher, strict=True):
        maps = []
        for features in (s, t):
            flat = (features**2).mean(dim=1).reshape(2, -1)
            maps.append(flat / flat.norm(dim=1, keepdim=True))
        expected += float(((maps[0] - maps[1]) ** 2).mean())
    assert math.isclose(float(attention_transfer(student, teacher)), expected, rel_tol=1e-12)


def rows_of_probabilities(logits):
    rows = []
    for row in logits.tolist():
        total = sum(math.exp(x) for x in row)
        rows.append([math.exp(x) / total for x in row])
    return rows


def test_information_entropy_and_its_gradient_are_the_definition():
    """H = - sum_c q_c ln q_c, q the mean of the rows p_n; dH / dl_nk = - p_nk (ln q_k - p_n . ln q) / N."""
    torch.manual_seed(0)
    logits = (2 * torch.randn(6, 4, dtype=torch.float64)).requires_grad_()
    p = rows_of_probabilities(logits)
    log_q = [math.log(sum(row[c] for row in p) / 6) for c in range(4)]
    expected = -sum(math.exp(x) * x for x in log_q)
    gradient = [
        [-row[k] * (log_q[k] - sum(a * b for a, b in zip(row, log_q, strict=True))) / 6 for k in range(4)]
        for row in p
    ]
    found = information_entropy(logits)
    assert math.isclose(found.item(), expected, rel_tol=1e-12)
    (slope,) = torch.autograd.grad(found, logits)
    torch.testing.assert_close(slope, torch.tensor(gradient, dtype=torch.float64), rtol=1e-10, atol=1e-14)


def test_information_entropy_is_largest_where_all_classes_show_alike():
    every, one = 100 * torch.eye(5).double(), 100 * torch.eye(5)[:1].expand(5, 5).double()
    assert math.isclose(information_entropy(every).item(), math.log(5), rel_tol=1e-12)
    assert information_entropy(one).abs().item() < 1e-9


def test_cross_entropies_are_the_definition():
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 4, dtype=torch.float64), [0, 3, 1, 1, 2, 0]
    p = rows_of_probabilities(logits)
    exact = [-math.log(row[y]) for row, y in zip(p, labels, strict=True)]
    expected = torch.tensor(exact, dtype=torch.float64)
    found = cross_entropy_per_sample(logits, torch.tensor(labels))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    surest = sum(-math.log(max(row)) for row in p) / 6
    assert math.isclose(one_hot_loss(logits).item(), surest, rel_tol=1e-12)


def test_mean_magnitude_of_half_precision_is_taken_in_float32():
    features = torch.tensor([[1.0, -2.0, 0.0], [0.5, 0.25, -1.0]], dtype=torch.bfloat16)
    found = mean_magnitude(features)
    assert found.dtype == torch.float32
    assert math.isclose(found.item(), 4.75 / 6, rel_tol=1e-6)


def textbook_jensen_shannon(p_logits, q_logits, temperature):
    total = 0.0
    for p_row, q_row in zip(p_logits.tolist(), q_logits.tolist(), strict=True):
        p, q = (
            [math.exp(x / temperature) / sum(math.exp(y / temperature) for y in row) for x in row]
            for row in (p_row, q_row)
        )
        mixed = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        for side in (p, q):
            total += sum(a * math.log(a / m) for a, m in zip(side, mixed, strict=True)) / 2
    return total / len(p_logits)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_jensen_shannon_is_the_definition(temperature):
    torch.manual_seed(0)
    p, q = 2 * torch.randn(2, 5, 7, dtype=torch.float64)
    expected = textbook_jensen_shannon(p, q, temperature)
    assert math.isclose(float(jensen_shannon(p, q, temperature)), expected, rel_tol=1e-12)
    assert math.isclose(float(jensen_shannon(q, p, temperature)), expected, rel_tol=1e-12)


def test_jensen_shannon_lies_between_nothing_and_ln_2():
    sure = torch.tensor([[500.0, -500.0], [-500.0, 500.0]], requires_grad=True)
    assert jensen_shannon(sure, sure).item() == 0
    apart = jensen_shannon(sure, sure.flip(0))
    assert math.isclose(apart.item(), math.log(2), rel_tol=1e-6)
    apart.backward()
    assert sure.grad.isfinite().all()


def test_gradient_of_jensen_shannon():
    torch.manual_seed(0)
    logits = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda p, q: jensen_shannon(p, q, 3.0), logits)


@pytest.mark.parametrize("size", [(4, 6), (5, 3)])
def test_total_variation_is_the_definition(size):
    torch.manual_seed(0)
    height, width = size
    pixels = torch.randn(2, 3, height, width, dtype=torch.float64)
    expected = 0.0
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        squares = 0.0
        for image in pixels:
            for channel in image.tolist():
                for y in range(height - down):
                    for x in range(max(0, -right), width - max(0, right)):
                        squares += (channel[y][x] - channel[y + down][x + right]) ** 2
        expected += math.sqrt(squares)
    assert math.isclose(float(total_variation(pixels)), expected, rel_tol=1e-12)


def test_cross_entropy_is_the_definition_and_wide():
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 4, dtype=torch.float64), [0, 3, 1, 1, 2]
    pairs = zip(logits.tolist(), labels, strict=True)
    rows = [row[label] - math.log(sum(map(math.exp, row))) for row, label in pairs]
    found = cross_entropy(logits, torch.tensor(labels))
    assert math.isclose(float(found), -sum(rows) / 5, rel_tol=1e-12)
    assert cross_entropy(logits.bfloat16(), torch.tensor(labels)).dtype == torch.float32
