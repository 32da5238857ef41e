"""This module puts pydantic's refusals into the words of this package."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, ValidationError

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
"""Pydantic converts no value: "3" and true are no integers. An integer is a float as well."""

MISSING = "is missing"
_RULES = {
    "bool_type": "must be true or false",
    "dataclass_type": "must be an object",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "int_type": "must be a whole number",
    "list_type": "must be a list",
    "missing": MISSING,
    "string_type": "must be a text",
    "tuple_type": "must be a list",
    "unexpected_keyword_argument": "is an unknown field",
}
"""Our words by pydantic's type of error; other errors keep pydantic's words."""


def first_fault(error: ValidationError) -> tuple[tuple[int | str, ...], str, Any]:
    """Returns the place of the first fault, the rule that it breaks, and the value that breaks it."""
    fault = error.errors(include_url=False)[0]
    rule = _RULES.get(fault["type"]) or fault["msg"].replace("Input should be", "must be")
    return fault["loc"], rule, fault["input"]


def dotted(place: tuple[int | str, ...]) -> str:
    """Returns a place within nested values, such as ``results.teacher.triggers[0].asr``."""
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in place]
    return "".join(steps).removeprefix(".")
