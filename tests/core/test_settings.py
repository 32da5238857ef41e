"""Settings refuse what is out of range or of another type, by name, and keep what they are given."""

import copy
import dataclasses
import pickle
from typing import Annotated, Any, Literal

import pytest

from abd_hub.core.errors import InputError
from abd_hub.core.settings import Count, CountOrNone, NotNegative, Range, Settings, Share, ShareBelowOne


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baker(Settings, place="bakery"):
    loaves: Count = 2
    helpers: CountOrNone = None
    hours: Annotated[int, Range(least=1, most=24)] = 8
    salt: Share = 0.5
    loss: ShareBelowOne = 0
    debt: NotNegative = 0.0
    open: bool = True
    grain: Literal["rye", "oat"] = "rye"
    name: str = "x"
    shares: tuple[Annotated[float, Range(above=0, below=1)], ...] = ()
    inner: Inner | None = None
    more: dict[str, Any] = dataclasses.field(default_factory=dict)
    made: int = dataclasses.field(init=False, repr=False, default=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cook(Baker):
    """Somebody else's, with the fields' bare types."""

    loaves: int = 3
    pots: Count = 1


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Slotted(Baker, place="slots"):
    pots: Count = 1


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("loaves", 0, "must be at least 1, got 0"),
        ("loaves", "3", "must be a whole number, got '3'"),
        ("loaves", True, "must be a whole number, got True"),
        ("loaves", 2.0, "must be a whole number, got 2.0"),
        ("loaves", None, "must be a whole number, got None"),
        ("helpers", 0, "must be at least 1, got 0"),
        ("hours", 25, "must be a whole number from 1 to 24, got 25"),
        ("salt", 1.5, "must be in [0, 1], got 1.5"),
        ("salt", "0.2", "must be a number, got '0.2'"),
        ("salt", float("nan"), "must be a finite number, got nan"),
        ("loss", 1, "must be in [0, 1), got 1"),
        ("debt", -1, "must not be negative, got -1"),
        ("debt", float("inf"), "must be a finite number, got inf"),
        ("open", 1, "must be true or false, got 1"),
        ("grain", "rice", "must be 'rye' or 'oat', got 'rice'"),
        ("name", 3, "must be a text, got 3"),
        ("shares", "ab", "must be a list, got 'ab'"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(field, value, words):
    with pytest.raises(InputError) as refused:
        Baker(**{field: value})
    assert str(refused.value) == f"bakery.{field}: {words}"


def test_a_wrong_value_in_a_sequence_is_named_by_its_place():
    with pytest.raises(InputError, match=r"^bakery\.shares\[1\]: must be in \(0, 1\), got 1$"):
        Baker(shares=(0.5, 1))


@pytest.mark.parametrize("value", [(0.5,), [0.5]])
def test_values_stay_as_they_were_given(value):
    inner = Inner(size="left to its own class")
    made = Baker(salt=1, shares=value, inner=inner, hours=24)
    assert type(made.salt) is int
    assert made.shares is value
    assert made.inner is inner


def test_what_a_base_states_holds_in_a_class_of_somebody_else():
    for kind, place in ((Cook, "cook"), (Slotted, "slots")):
        for field in ("loaves", "pots"):
            with pytest.raises(InputError, match=rf"^{place}\.{field}: must be at least 1, got 0$"):
                kind(**{field: 0})
    assert Cook().loaves == 3


def test_settings_are_dataclasses_like_any_other():
    made = Baker(loaves=5)
    assert pickle.loads(pickle.dumps(made)) == copy.deepcopy(made) == made
    assert dataclasses.asdict(made)["loaves"] == 5
    with pytest.raises(InputError, match="loaves"):
        dataclasses.replace(made, loaves=-1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.loaves = 1
