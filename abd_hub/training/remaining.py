"""Estimates how long a run still takes, from the rounds so far and from a forecast of all others.

Rounds cost differently. In the first ones, a method may have no student steps yet. In the last ones, a
defense may cost twenty times as much. So the first, the ordinary and the last rounds are counted apart. A
kind of which no round is over yet has the cost of the forecast, corrected by the speed of those that are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["idle", "ordinary", "late"]

FORECAST_AFTER = 10.0
"""Seconds after which a run makes a forecast, so that short runs need none."""
FEWEST, SHARE = 20, 4
"""The cost of a round is a mean over the newest quarter of the rounds, and at least over so many."""
SLOWEST = 4.0
"""Most times by which the speed of one kind of round corrects the forecast of another."""


@dataclass(frozen=True)
class Forecast:
    """Holds seconds that were measured before they were needed."""

    rounds: dict[Kind, float]
    """Time of a round of each kind; a kind may be missing."""
    after: float = 0.0
    """Time of what follows the last round."""


class Remaining:
    """Follows a loop of rounds.

    Args:
        idle: number of the first rounds, which are cheaper.
        late: number of the last rounds, which are more expensive.
        make: returns the forecast; it is called once, after ``FORECAST_AFTER`` seconds.
    """

    def __init__(self, idle: int = 0, late: int = 0, make: Callable[[], Forecast] | None = None) -> None:
        self.idle, self.late, self.make = idle, late, make
        self.forecast = Forecast({})
        self._costs: dict[Kind, tuple[int, float]] = {}
        """Maps a kind to the number of its rounds so far and their mean cost."""
        self._estimate: tuple[float, float] | None = None
        """Holds a time of ``time.monotonic`` and the seconds that were left then."""
        self._began = self._last = time.monotonic()

    def begin(self) -> None:
        """Starts the clock, before the first round of this process."""
        self._began = self._last = time.monotonic()

    def after_round(self, done: int, total: int) -> None:
        """Notes that round ``done`` of ``total`` has ended."""
        now = time.monotonic()
        self._note(self._kind(done - 1, total), now - self._last)
        if self.make is not None and now - self._began >= FORECAST_AFTER:
            self.forecast, self.make = self.make(), None
        self._last = time.monotonic()
        seconds = self._rounds(done, total)
        self._estimate = None if seconds is None else (self._last, seconds + self.forecast.after)

    def left(self) -> float | None:
        """Returns the seconds until the run ends; None where nobody can tell. Any thread may call it."""
        estimate = self._estimate
        if estimate is None or self.make is not None:  # a part of the time would be a wrong number
            return None
        then, seconds = estimate
        return max(self.forecast.after, seconds - (time.monotonic() - then))

    def _kind(self, index: int, total: int) -> Kind:
        if index >= total - self.late:
            return "late"
        return "idle" if index < self.idle else "ordinary"

    def _note(self, kind: Kind, seconds: float) -> None:
        count, mean = self._costs.get(kind, (0, 0.0))
        # The first round also makes what the later ones find, such as a compiled pass.
        newest = 1 if count < 2 else min(count, max(FEWEST, count // SHARE))
        self._costs[kind] = (count + 1, mean + (seconds - mean) / newest)

    def _rounds(self, done: int, total: int) -> float | None:
        """Returns the seconds of the rounds that are left; None where the cost of a kind is unknown."""
        late = min(self.late, total - done)
        idle = max(0, min(self.idle - done, total - done - late))
        ahead: dict[Kind, int] = {"idle": idle, "ordinary": total - done - late - idle, "late": late}
        seconds = 0.0
        for kind, count in ahead.items():
            cost = self._cost(kind) if count else 0.0
            if cost is None:
                return None
            seconds += count * cost
        return seconds

    def _cost(self, kind: Kind) -> float | None:
        if kind in self._costs:
            return self._costs[kind][1]
        expected = self.forecast.rounds
        if kind not in expected:
            return None
        known = [
            (count, mean / expected[one]) for one, (count, mean) in self._costs.items() if one in expected
        ]
        slower = max(known)[1] if known else 1.0
        return expected[kind] * min(SLOWEST, max(1 / SLOWEST, slower))
