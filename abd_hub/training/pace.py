"""Says on how many rounds a run counts, and counts again where its time is limited.

A schedule, such as a cosine, needs the number of all rounds from the first one on. A run with a budget begins
with an estimate. Other programs come and go on the machine, so at some rounds it estimates again, from the
speed of the rounds since then. From there on the schedules count on the new number: the learning rate follows
the share of the run that is over.

The pairs (round, number of all rounds from there on) are the whole effect of the clock on the student. With
the same pairs, ``planned``, a run repeats to the bit without a clock.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

MARKS = (0.03, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.85, 0.92, 0.97)
"""Shares of a part of the run after which it estimates again."""
SLOWEST = 4.0
"""Most times by which the time for the end of the run is corrected, as few rounds may not be typical."""
TOO_SMALL = 0.005
"""A change by a smaller share of the remaining rounds is left out, because it is noise."""


@dataclass
class TimeLimit:
    """Holds the time that a run may take, and what its parts cost before the first round, in seconds."""

    budget: float
    """The whole time of the run."""
    kept: float
    """Time for what follows the last round."""
    round_seconds: float
    """Time of an ordinary round, as it was measured before the first."""
    late_seconds: float = 0.0
    """Time of one of the last rounds, in which a defense costs more."""
    late_rounds: int = 0
    """Counts these last rounds."""
    idle_rounds: int = 0
    """Counts the first rounds, which take less time, because the student has no steps in them."""
    began: float = field(default_factory=time.monotonic)
    """Time of ``time.monotonic`` at which this process began with the run."""
    earlier: float = 0.0
    """Seconds that the run had used before it was resumed."""

    def spent(self) -> float:
        """Returns the seconds that the run has used, its earlier parts included."""
        return self.earlier + time.monotonic() - self.began


class Pace:
    """Gives the number of all rounds, in every round.

    Args:
        rounds: number of all rounds at the beginning.
        planned: pairs (first round, number of all rounds from there on); empty for ``rounds`` throughout.
        limit: the time; None keeps to ``rounds`` and ``planned``.
        accelerator: of all processes; needed for a limit only. The main process decides.
    """

    def __init__(
        self,
        rounds: int,
        planned: Sequence[Sequence[int]] = (),
        limit: TimeLimit | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.totals: list[tuple[int, int]] = [(first, total) for first, total in planned] or [(0, rounds)]
        self.limit = limit
        self.accelerator = accelerator
        self._measured_from: tuple[int, float] | None = None
        """Holds a round and the seconds spent before it, from which the speed is measured."""

    def total(self, done: int) -> int:
        """Returns the number of all rounds after ``done`` of them; all processes must call it every round."""
        total = [number for first, number in self.totals if first <= done][-1]
        if self.limit is None or done >= total:
            return total
        late_from = total - self.limit.late_rounds
        if self._measured_from is None and done == 0:
            total = self._prepared(total)
        if self._measured_from is None or done in (self.limit.idle_rounds, late_from):
            self._measured_from = (done, self.limit.spent())
            return total
        if not self._is_mark(done, late_from, total):
            return total
        return self._decided(done, total)

    def _prepared(self, total: int) -> int:
        """Leaves out rounds for the time since the estimate, such as 46 s in which a method makes patches."""
        assert self.limit is not None
        lost = [round((self.limit.spent() - self.limit.earlier) / self.limit.round_seconds)]
        if self.accelerator is not None and self.accelerator.num_processes > 1:
            broadcast_object_list(lost)
        if lost[0] <= TOO_SMALL * total:
            return total
        fewest = min(total, self.limit.idle_rounds + self.limit.late_rounds + 2)
        self.totals = [(0, max(fewest, total - lost[0]))]
        return self.totals[0][1]

    def _is_mark(self, done: int, late_from: int, total: int) -> bool:
        """Returns whether a new estimate is due: at some shares of the ordinary and of the late rounds."""
        assert self.limit is not None
        first, last = (self.limit.idle_rounds, late_from) if done < late_from else (late_from, total)
        shares = [(number - first) / (last - first) for number in (done - 1, done)]
        return done > first and any(shares[0] < mark <= shares[1] for mark in MARKS)

    def _decided(self, done: int, total: int) -> int:
        """Lets the main process estimate, and passes its number to all."""
        assert self.limit is not None and self._measured_from is not None
        now = self.limit.spent()
        first, before = self._measured_from
        wanted = [rounds_that_fit(self.limit, done, total, now, max(1e-9, (now - before) / (done - first)))]
        if self.accelerator is not None and self.accelerator.num_processes > 1:
            broadcast_object_list(wanted)
        self._measured_from = (done, now)
        if abs(wanted[0] - total) <= TOO_SMALL * (total - done):
            return total
        self.totals.append((done, wanted[0]))
        return wanted[0]

    def state_dict(self) -> dict[str, Any]:
        """Returns the pairs so far and the time used; nothing for a run without a limit."""
        return {} if self.limit is None else {"totals": self.totals, "spent": self.limit.spent()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on with the pairs of ``state_dict``; the time used counts."""
        if self.limit is None or not state:
            return
        self.totals = [(first, total) for first, total in state["totals"]]
        self.limit.earlier = state["spent"]


def rounds_that_fit(limit: TimeLimit, done: int, total: int, now: float, seconds: float) -> int:
    """Returns the number of all rounds with which a run ends in time.

    Args:
        limit: the time, and what rounds cost before the first.
        done: finished rounds.
        total: number of all rounds so far.
        now: seconds that the run has used.
        seconds: time of one of the newest rounds.

    Returns:
        At least ``done`` + 1. Late rounds keep their number. Once they have begun, the number only falls,
        because a defense has begun with them.
    """
    late = done >= total - limit.late_rounds
    # A busy machine needs more time for the end of the run as well.
    slower = seconds / (limit.late_seconds if late else limit.round_seconds)
    left = limit.budget - now - limit.kept * min(SLOWEST, max(1 / SLOWEST, slower))
    if late:
        return max(done + 1, min(total, done + round(left / seconds)))
    ordinary = (left - limit.late_rounds * limit.late_seconds * slower) / seconds
    return done + max(1, round(ordinary)) + limit.late_rounds
