"""Settings are frozen dataclasses whose fields state their ranges; pydantic checks each new instance.

A class derives from ``Settings`` and annotates its fields with the types below. No value is converted. A
range in a base class holds in every class that derives from it.
"""

from __future__ import annotations

import dataclasses
import inspect
from functools import cache
from typing import Annotated, Any, get_args, get_origin

from pydantic import GetCoreSchemaHandler, Strict, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from abd_hub.core.errors import InputError
from abd_hub.core.faults import STRICT, dotted, first_fault


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """States the range of a number for ``Annotated``: a lower end, and perhaps an upper one.

    jsonargparse ignores this class, although it would check pydantic's own constraints. So the refusal comes
    from here, in one line that names the field.
    """

    above: float | None = None
    """Lower end, not included."""
    least: float | None = None
    """Lower end, included."""
    below: float | None = None
    """Upper end, not included."""
    most: float | None = None
    """Upper end, included."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Returns pydantic's check of the type, followed by the check of the range; None has no range."""
        rule = self.rule(whole=float not in (source, *get_args(source)))

        def check(value: float | None) -> float | None:
            if value is None or self.holds(value):
                return value
            raise PydanticCustomError("out_of_range", rule)

        return core_schema.no_info_after_validator_function(check, handler(source))

    def holds(self, value: float) -> bool:
        """Returns whether the value lies in the range; NaN does not."""
        high_enough = (self.above is None or value > self.above) and (
            self.least is None or value >= self.least
        )
        low_enough = (self.below is None or value < self.below) and (self.most is None or value <= self.most)
        return high_enough and low_enough

    def rule(self, *, whole: bool) -> str:
        """Returns the rule for messages, such as "must be positive"; ``whole`` for an integer."""
        low = self.above if self.least is None else self.least
        high = self.below if self.most is None else self.most

        if high is None and low == 0:
            return "must not be negative" if self.above is None else "must be positive"
        if high is None:
            return f"must be at least {low:g}"
        if whole:
            return f"must be a whole number from {low:g} to {high:g}"

        opening, closing = "(" if self.least is None else "[", ")" if self.most is None else "]"
        return f"must be in {opening}{low:g}, {high:g}{closing}"


Count = Annotated[int, Range(least=1)]
CountOrNone = Annotated[int | None, Range(least=1)]
CountOrZero = Annotated[int, Range(least=0)]
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(least=0)]
NotNegativeOrNone = Annotated[float | None, Range(least=0)]
Share = Annotated[float, Range(least=0, most=1)]
PositiveShare = Annotated[float, Range(above=0, most=1)]
ShareBelowOne = Annotated[float, Range(least=0, below=1)]


class Settings:
    """Refuses a field of a wrong type or out of its range with ``InputError``; frozen dataclasses extend it.

    A field that holds another dataclass is checked by that class. A class with a rule across fields checks it
    in its own ``__post_init__``, after the inherited one.

    Args:
        place: prefix of the fields in messages; by default the name of the class in lower case.
    """

    place = ""

    def __init_subclass__(cls, place: str | None = None) -> None:
        super().__init_subclass__()
        # A dataclass with slots is made twice, the second time without arguments.
        if place is not None or "place" not in vars(cls):
            cls.place = cls.__name__.lower() if place is None else place

    def __post_init__(self) -> None:
        """Refuses values of a wrong type or outside their range.

        Raises:
            InputError: a value breaks its rule; the message names the field.
        """
        kind: Any = type(self)
        for name, check in _checks(kind):
            try:
                check.validate_python(getattr(self, name))
            except ValidationError as error:
                within, rule, value = first_fault(error)
                raise self.refusal(dotted((name, *within)), rule, value) from error

    def refusal(self, field: str, rule: str, value: Any) -> InputError:
        """Returns the error for a field whose value breaks the rule, such as "must be positive"."""
        return InputError(f"{self.place}.{field}: {rule}, got {value!r}")


@cache
def _checks(kind: Any) -> list[tuple[str, TypeAdapter[Any]]]:
    """Returns the checks of each field, first the inherited ones."""
    stated = [inspect.get_annotations(base, eval_str=True) for base in reversed(kind.__mro__)]
    return [
        (field.name, TypeAdapter(_lenient(types[field.name]), config=STRICT))
        for field in dataclasses.fields(kind)
        for types in stated
        if field.init and field.name in types and not _holds_a_dataclass(types[field.name])
    ]


def _lenient(kind: Any) -> Any:
    """Returns a type that takes lists and tuples alike; their items stay strict."""
    return Annotated[kind, Strict(False)] if get_origin(kind) in (list, tuple) else kind


def _holds_a_dataclass(kind: Any) -> bool:
    # A ``Range`` is an instance of a dataclass, and no type.
    return (isinstance(kind, type) and dataclasses.is_dataclass(kind)) or any(
        map(_holds_a_dataclass, get_args(kind))
    )
