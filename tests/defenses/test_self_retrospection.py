"""Self-retrospection against explicit derivatives in float64."""

import nets
import pytest
import torch
from torch import nn
from torch.func import functional_call

from abd_hub import Batch, InputError, SelfRetrospection
from abd_hub.learning.modes import running_statistics_kept


class Tiny(nn.Module):
    """Smooth, with second derivatives that are not zero."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.Tanh(), nn.Linear(6, 5))

    def forward(self, x):
        return self.layers(x)


def divergence(p_logits, q_logits):
    p = p_logits.softmax(1)
    return (p * (p_logits.log_softmax(1) - q_logits.log_softmax(1))).sum(1).mean()


def test_hypergradient_matches_an_explicit_hessian():
    """v = sum_k (I - eta H)^k g with H written out, the mixed derivative as a Jacobian."""
    torch.manual_seed(0)
    student = nets.plain(Tiny())
    images = nets.pixels(10)
    settings = SelfRetrospection(
        perturbation_steps=3,
        fixed_point_steps=5,
        inner_learning_rate=0.1,
        perturbed_share=0.3,
        norm_weight=0.05,
    )
    retrospection = settings.build(student, seed=4)
    weights = list(student.parameters())
    found = retrospection.hypergradient(student, images, weights)
    clean = student(images).detach()
    delta = retrospection.perturbation(student, images, clean).detach().flatten()
    names = [name for name, _ in student.named_parameters()]
    flat = torch.cat([w.detach().flatten() for w in weights])

    def run(theta, x):
        parts = theta.split([w.numel() for w in weights])
        named = {n: p.view_as(w) for n, p, w in zip(names, parts, weights, strict=True)}
        return functional_call(student, named, (x,))

    def inner(d, theta):
        return 0.05 * d.square().sum() - divergence(
            clean, run(theta, images + d.view(1, 3, 8, 8) * student.std)
        )

    def outer(d, theta):
        moved = torch.cat([images[:3] + d.view(1, 3, 8, 8) * student.std, images[3:]])
        return divergence(clean, run(theta, moved))

    hessian = torch.autograd.functional.hessian(lambda d: inner(d, flat), delta)
    assert hessian.abs().max() > 0.05
    g = torch.autograd.functional.jacobian(lambda d: outer(d, flat), delta)
    step = torch.eye(192, dtype=torch.float64) - 0.1 * hessian
    v = sum(torch.linalg.matrix_power(step, k) @ g for k in range(5))

    def slope(theta):
        d = delta.clone().requires_grad_()
        return torch.autograd.grad(inner(d, theta), d, create_graph=True)[0]

    mixed = torch.autograd.functional.jacobian(slope, flat)
    direct = torch.autograd.functional.jacobian(lambda theta: outer(delta, theta), flat)
    expected = direct - 0.1 * v @ mixed
    torch.testing.assert_close(torch.cat([f.flatten() for f in found]), expected, rtol=1e-8, atol=1e-12)
    assert (0.1 * v @ mixed).norm() > 1e-3 * direct.norm(), "the implicit part is not negligible here"


@pytest.mark.parametrize("source", ["student", "teacher"])
def test_perturbation_raises_its_objective_and_is_shared_by_the_batch(source):
    student = nets.plain(nets.randomized(nets.PlainNet(norm=False), 1)).eval()
    teacher = nets.plain(nets.randomized(nets.PlainNet(norm=False), 2)).freeze()
    retrospection = SelfRetrospection(source=source).build(teacher, seed=0)
    images = nets.pixels(16)
    delta = retrospection.perturbation(student, images, student(images).detach())
    assert delta.shape == (1, 3, 8, 8)
    model = student if source == "student" else teacher
    start = torch.zeros_like(delta) + 0.01
    gains = [divergence(model(images), model(images + d * teacher.std)) for d in (start, delta)]
    assert gains[1] > 10 * gains[0]


def test_add_gradients_adds_to_what_is_there_and_keeps_running_statistics():
    student = nets.wrn(dtype=torch.float64).train()
    teacher = nets.wrn(seed=1, dtype=torch.float64).freeze()
    images = nets.pixels(8)
    batch = Batch(images, teacher(images).detach())
    student(images).sum().backward()
    before = {n: p.grad.clone() for n, p in student.named_parameters()}
    statistics = {n: b.clone() for n, b in student.named_buffers()}
    retrospection = SelfRetrospection(perturbation_steps=2).build(teacher)
    twin = SelfRetrospection(perturbation_steps=2).build(teacher)
    with running_statistics_kept(student):
        added = twin.hypergradient(student, images, list(student.parameters()))
    retrospection.add_gradients(student, batch)
    for (name, parameter), gradient in zip(student.named_parameters(), added, strict=True):
        torch.testing.assert_close(parameter.grad, before[name] + gradient)
    assert any(gradient.abs().max() > 0 for gradient in added)
    for name, buffer in student.named_buffers():
        assert torch.equal(buffer, statistics[name]), name
    assert student.training
    assert retrospection.report().facts == {"student_steps": 1}


def test_the_teachers_perturbation_is_found_once_a_batch():
    student, teacher = nets.wrn(seed=2).train(), nets.wrn(seed=1).freeze()
    retrospection = SelfRetrospection(source="teacher", perturbation_steps=4).build(teacher)
    passes = []
    teacher.register_forward_pre_hook(lambda *_: passes.append(1))
    first, second = (nets.pixels(6, seed, torch.float32) for seed in (0, 1))
    counts = []
    for index, pixels in enumerate((first, first, second, second, second)):
        if index == 4:
            pixels.mul_(0.5)
        retrospection.add_gradients(student, Batch(pixels, torch.zeros(6, 5)))
        counts.append(len(passes))
    assert counts == [5, 5, 10, 10, 15], "four steps and the clean answers, once for each batch"


def test_it_begins_late_with_a_fresh_learning_rate():
    teacher = nets.wrn().freeze()
    retrospection = SelfRetrospection(last_rounds=3, learning_rate=1e-4).build(teacher)
    active, fresh = [], []
    for index in range(10):
        retrospection.begin_round(index, 10, teacher)
        active.append(retrospection.active)
        fresh.append(retrospection.fresh_learning_rate(index, 10))
    assert active == [False] * 7 + [True] * 3
    assert fresh == [None] * 7 + [1e-4] + [None] * 2
    assert not retrospection.report().active
    assert "NOT ACTIVE" in retrospection.report().sentence


@pytest.mark.parametrize(
    ("field", "value"),
    [("last_rounds", 0), ("perturbed_share", 0.0), ("learning_rate", -1.0), ("source", "both")],
)
def test_values_out_of_range_are_refused_by_name(field, value):
    with pytest.raises(InputError, match=f"self_retrospection.{field}"):
        SelfRetrospection(**{field: value})
