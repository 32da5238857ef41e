"""Every synthesizer with every defense: a run that is stopped and continued gives the same bits."""

import ast
import dataclasses
import inspect
import textwrap

import pytest
import torch
from plugin_rows import DEFENSES, PAIRS, ROUNDS, STOP, SYNTHESIZERS, make, names

from abd_hub.core import registry
from abd_hub.learning import checkpoint


def stopped_and_continued(folder, synthesizer, defenses):
    first, second = make(synthesizer, defenses), make(synthesizer, defenses)
    first.student.train()
    for index in range(STOP):
        first._round(index)
    path = checkpoint.save(folder, STOP, first.state_dict(), 1)
    second.round, state = checkpoint.load(path)
    second.load_state_dict(state)
    second.fit()
    return second


EVERY = sorted(names("defenses"))
ALONE = [[name] for name in EVERY if [name] not in PAIRS]
# Each defense beside a generator that follows the student, a bank, and real images; other methods with all.
ROWS = [(method, defenses) for method in ("zskt", "fast", "real") for defenses in (*PAIRS, *ALONE)]
ROWS += [(method, []) for method in names("synthesizers") if (method, []) not in ROWS]
ROWS += [(method, EVERY) for method in names("synthesizers")]
NAMES = ["+".join([method, *defenses]) for method, defenses in ROWS]


@pytest.mark.parametrize(("synthesizer", "defenses"), ROWS, ids=NAMES)
def test_stopped_and_continued_gives_the_same_bits(tmp_path, synthesizer, defenses):
    whole = make(synthesizer, defenses)
    whole.fit()
    inactive = [d.name for d in whole.defenses if not d.report().active]
    assert not inactive, f"never active within {ROUNDS} rounds: {inactive}; change their settings"
    parts = stopped_and_continued(tmp_path, synthesizer, defenses)
    for (name, one), other in zip(
        whole.student.state_dict().items(), parts.student.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    assert [d.report() for d in parts.defenses] == [d.report() for d in whole.defenses]


@pytest.mark.parametrize("name", names("defenses"))
def test_a_defense_changes_the_student(name):
    """What calls itself active must show in the weights."""
    without, defended = make("zskt", []), make("zskt", [name])
    pairs = zip(without.fit().state_dict().values(), defended.fit().state_dict().values(), strict=True)
    assert any(not torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(("kind", "table"), [("synthesizers", SYNTHESIZERS), ("defenses", DEFENSES)])
def test_the_table_holds_every_plugin_and_no_other(kind, table):
    missing = set(names(kind)) - set(table)
    assert not missing, (
        f"tests/support/plugin_rows.py has no settings for {kind} {missing}; add a line to its table"
    )
    assert set(table) == set(names(kind))


def documented(kind):
    """Names of the fields that are followed by a docstring, in a class and its bases."""
    found = set()
    for base in kind.__mro__:
        if not dataclasses.is_dataclass(base):
            continue
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        for field, text in zip(node.body, node.body[1:], strict=False):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str())):
                    found.add(name)
    return found


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in ("synthesizers", "defenses") for name in names(kind)]
)
def test_settings_are_frozen_documented_and_have_defaults(kind, name):
    plugin = registry.get(kind, name)
    assert dataclasses.is_dataclass(plugin)
    assert plugin.__dataclass_params__.frozen
    fields = dataclasses.fields(plugin)
    missing = dataclasses.MISSING
    assert not [f.name for f in fields if f.default is missing and f.default_factory is missing]
    assert not {f.name for f in fields} - documented(plugin)
