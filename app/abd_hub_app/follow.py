"""Follows a run of a visitor from its request to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from abd_hub_app.run_job import Job, State, View
from abd_hub_app.run_queue import RunQueue

_LOOK_EVERY = 0.5


async def follow(queue: RunQueue, job: Job) -> AsyncIterator[View]:
    """Yields the state of a run after every change; the last one is its end.

    Args:
        queue: carries out the run.
        job: the run.
    """
    before = None
    while True:
        try:
            view = await asyncio.to_thread(queue.look, job)
        except RuntimeError as error:
            if "after shutdown" not in str(error):
                raise
            return  # the server ends; nobody reads a further answer

        now = (view.state, view.before, view.round, view.step, int(view.seconds), view.stopping)
        # A run that has ended since the look is looked at once more.
        if view.state not in (State.WAITING, State.RUNNING):
            yield view
            return
        if now != before:
            yield view
            before = now
        await asyncio.sleep(_LOOK_EVERY)
