"""``python -m short_inspection distill ...`` is ``python -m abd_hub.child`` with a shorter inspection."""

import functools
import sys

from abd_hub.child import main
from abd_hub.core import registry
from abd_hub.runs import inspect


def shorten(set_attribute=setattr, set_item=dict.__setitem__):
    """2,000 patches in the place of 10,000, and 120 steps in the place of 300, take a third of the time."""
    search = registry.get("inspections", "trigger_inversion")
    quick = functools.partial(search, steps=120)
    set_attribute(inspect, "PATCHES", 2000)
    set_item(registry._registered["inspections"], "trigger_inversion", quick)


if __name__ == "__main__":
    shorten()
    sys.exit(main())
