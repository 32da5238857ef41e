"""Every synthesizer with every defence: a run that is stopped and continued gives the same bits."""

import ast
import dataclasses
import inspect
import textwrap

import nets
import pytest
import torch

from abd_hub import Trainer, TrainerOptions, checkpoint, registry

ROUNDS, STOP = 4, 2
QUIET = TrainerOptions(progress=False, checkpoint_every=0, log_every=ROUNDS)
# A new plug-in needs a line here, with which it is tiny and, if it is a defence, active within four rounds.
SYNTHESIZERS = {
    "dafl": {"batch_size": 4, "z_dim": 4, "generator_channels": 4},
    "dfad": {"batch_size": 4, "student_steps": 2, "z_dim": 4, "generator_channels": 4},
    "dfq": {"batch_size": 4, "student_steps": 2, "z_dim": 4, "generator_channels": 4},
    "deepinversion": {
        "batch_size": 4,
        "student_steps": 2,
        "synthesis_batch_size": 6,
        "image_steps": 3,
        "bank_size": 15,
        "crop_padding": 1,
    },
    "fast": {
        "rounds": ROUNDS,
        "batch_size": 4,
        "student_steps": 2,
        "warmup_rounds": 1,
        "synthesis_batch_size": 6,
        "generator_steps": 2,
        "reset_first_layer_round": 3,
        "z_dim": 4,
        "generator_channels": 4,
        "bank_size": 15,
        "crop_padding": 1,
    },
    "cmi": {
        "batch_size": 4,
        "student_steps": 2,
        "generator_steps": 2,
        "synthesis_batch_size": 4,
        "z_dim": 4,
        "generator_channels": 4,
        "embedding_dim": 4,
        "negatives": 5,
        "feature_bank_size": 10,
        "bank_size": 10,
    },
    "ood": {"batch_size": 4, "student_steps": 2, "patches": 20, "crop_padding": 1},
    "real": {"batch_size": 4, "student_steps": 2, "share": 0.5, "crop_padding": 1},
    "zskt": {"batch_size": 4, "student_steps": 2, "z_dim": 4, "generator_channels": 4},
}
DEFENSES = {
    "self_retrospection": {"last_rounds": 3, "perturbation_steps": 2, "fixed_point_steps": 2},
    "shuffling_vaccine": {"check": False, "layers": 2, "coefficient": 5.0},
    "universal_direction": {"begin": 0.75, "batches": 2, "steps": 2, "step_images": 10},
}
PAIRS = [
    [],
    ["shuffling_vaccine"],
    ["self_retrospection"],
    ["shuffling_vaccine", "self_retrospection"],
]
"""The paper's defences, each alone and both."""


def names(kind):
    return [entry.name for entry in registry.catalog(kind)]


def settings(kind, name, table):
    """The plug-in with the settings of its line in the table."""
    assert name in table, (
        f"tests/test_plugins.py has no settings for {kind} {name!r}; add a line to its table"
    )
    return registry.get(kind, name)(**table[name])


def make(synthesizer, defenses, dtype=torch.float32):
    method = settings("synthesizers", synthesizer, SYNTHESIZERS)
    method = dataclasses.replace(method, rounds=ROUNDS)
    teacher = nets.randomised(nets.wrn(base_width=4, dtype=dtype)).freeze()
    student = nets.wrn(seed=1, base_width=4, drop_rate=0.1, dtype=dtype)
    at_work = [settings("defenses", name, DEFENSES).build(teacher, 0) for name in defenses]
    images = (nets.pixels(20) * 255).to(torch.uint8) if "dataset" in vars(method) else None
    return Trainer(teacher, student, method, at_work, QUIET, seed=3, images=images)


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


@pytest.mark.parametrize("synthesizer", names("synthesizers"))
@pytest.mark.parametrize(
    "defenses", [*PAIRS, ["universal_direction"], sorted(names("defenses"))], ids="+".join
)
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
def test_a_defence_changes_the_student(name):
    """What calls itself active must show in the weights."""
    without, defended = make("zskt", []), make("zskt", [name])
    pairs = zip(without.fit().state_dict().values(), defended.fit().state_dict().values(), strict=True)
    assert any(not torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(("kind", "table"), [("synthesizers", SYNTHESIZERS), ("defenses", DEFENSES)])
def test_the_table_holds_every_plugin_and_no_other(kind, table):
    missing = set(names(kind)) - set(table)
    assert not missing, f"tests/test_plugins.py has no settings for {kind} {missing}; add a line to its table"
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
