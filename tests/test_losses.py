"""Losses against the definitions, written out in float64."""

import math

import torch

from abd_hub.losses import attention_transfer, kl, kl_per_sample


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
