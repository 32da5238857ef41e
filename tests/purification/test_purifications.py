"""What every purification keeps to: its help, its citation, the teacher's bits, and the seed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from planted import planted

from abd_hub import TriggerInversion, catalog, inspect_model, load_images, purify_model
from abd_hub.config.purifying import _parser
from abd_hub.core import registry
from abd_hub.core.purifications import Purification

NAMES = [entry.name for entry in catalog("purifications")]
FAST = {
    "trigger_unlearning": {"steps": 4, "candidates": 40, "batch_size": 16},
    "channel_lipschitz_pruning": {"deviations": 1.0},
}
"""Settings with which each takes a second and changes the teacher; the defaults serve all others."""
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def teacher():
    return planted(0, poisoned=True, epochs=2)


@pytest.fixture(scope="module")
def digits():
    return load_images("digits", "train").images[:400]


@pytest.fixture(scope="module")
def report(teacher, digits):
    return inspect_model(teacher, images=digits, inspection=TriggerInversion(steps=5))


@pytest.mark.parametrize("name", NAMES)
def test_its_settings_and_its_help(name):
    (entry,) = [each for each in catalog("purifications") if each.name == name]
    settings = registry.get("purifications", name)
    assert issubclass(settings, Purification) and settings.place == name
    assert entry.summary.endswith(".") and settings().purify.__doc__
    assert settings.citation.startswith("@") and "year" in settings.citation
    helps = {action.dest: action.help for action in _parser(name, settings)._actions}
    for field in dataclasses.fields(settings):
        assert str(helps[f"{name}.{field.name}"]).count(" ") > 3, field.name
    for document in ("recipes/guides/purification.md", "abd_hub/__init__.pyi"):
        shown = {name, settings.__name__}
        assert any(each in (ROOT / document).read_text(encoding="utf-8") for each in shown), document


@pytest.mark.parametrize("name", NAMES)
def test_the_teacher_keeps_its_bits_and_the_seed_decides_those_of_the_copy(name, teacher, digits, report):
    settings = registry.get("purifications", name)(**FAST.get(name, {}))
    before = {key: tensor.clone() for key, tensor in teacher.state_dict().items()}
    modes = [(module.training, len(module._forward_hooks)) for module in teacher.modules()]
    state, frozen, ref = torch.get_rng_state(), teacher.frozen, teacher.ref
    made = [
        purify_model(
            teacher,
            images=digits,
            purification=settings,
            inspection=TriggerInversion(steps=2),
            report=report,
            force=True,
            seed=3,
        )
        for _ in range(2)
    ]

    after = teacher.state_dict()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert modes == [(module.training, len(module._forward_hooks)) for module in teacher.modules()]
    assert (teacher.frozen, teacher.ref) == (frozen, ref)
    assert not any(weight.requires_grad or weight.grad is not None for weight in teacher.parameters())
    assert torch.equal(torch.get_rng_state(), state), "no draw comes from the global generator"

    (first, told), (second, _) = made
    assert told.name == name and told.changed and 0 <= told.agreement <= 1
    assert json.loads(json.dumps(told.to_json(), allow_nan=False))["changed"]
    assert first.frozen and not first.training and not any(p.requires_grad for p in first.parameters())
    copies = [copy.state_dict() for copy in (first, second)]
    assert copies[0].keys() == before.keys() == copies[1].keys()
    assert all(torch.equal(copies[0][key], copies[1][key]) for key in before)
    assert any(not torch.equal(copies[0][key], before[key]) for key in before)
    assert all(tensor.isfinite().all() for tensor in copies[0].values())
    assert first.ref == second.ref != teacher.ref
