"""Checks the pairs with which a run repeats another whose number of rounds or epochs changed on the way."""

from __future__ import annotations

from collections.abc import Sequence

from abd_hub.core.errors import InputError


def check_planned(pairs: Sequence[Sequence[int]], unit: str, total: int, owner: str, *, resume: bool) -> None:
    """Refuses pairs that are no plan, or that end with another number.

    Args:
        pairs: each is a place and the number of all units from there on.
        unit: round or epoch; it names the field.
        total: number of all units.
        owner: names in messages what has this number.
        resume: whether the run goes on; then the number may be raised.

    Raises:
        InputError: the pairs do not fit; the message names the field.
    """
    if not pairs:
        return
    fit = all(len(pair) == 2 and pair[0] >= 0 and pair[1] >= 1 for pair in pairs)
    begins = [pair[0] for pair in pairs]
    if not fit or begins[0] != 0 or sorted(set(begins)) != begins:
        raise InputError(
            f"planned_{unit}s: must be pairs [{unit}, number of {unit}s], by {unit}s from 0, got {pairs}"
        )
    if pairs[-1][1] != total and not resume:
        raise InputError(
            f"planned_{unit}s: end with {pairs[-1][1]} {unit}s, but the {owner} has {total}; make both the "
            "same"
        )
