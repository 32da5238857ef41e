"""Errors for the user: one line that names the field, the value and the remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


class InputError(ValueError):
    """Something the user gave is wrong. The message names field, value and remedy in one line."""


class Interrupted(Exception):
    """The run was asked to stop; its checkpoint is written."""
