"""Inspections that take less time; ``python -m short_inspection distill ...`` runs a command with one.

That command is the one of ``python -m abd_hub.child``.
"""

import sys

from abd_hub.child import main
from abd_hub.core import registry
from abd_hub.runs import inspect

PATCHES = 2000
"""In the place of 10,000."""
STEPS = 120
"""In the place of 300; enough for a single pixel of its own color, but not for the demo's square."""
SEARCH = 200
"""In the place of 300; enough for the demo's square."""
UNLEARNING = 60
"""In the place of 120 steps; enough for the demo."""


def shorten(set_attribute, set_item):
    """Changes this process by the functions of a monkeypatch; an inspection takes a third of the time."""
    set_attribute(inspect, "PATCHES", PATCHES)
    set_item(registry.get("inspections", "trigger_inversion").__init__.__kwdefaults__, "steps", STEPS)


if __name__ == "__main__":
    inspect.PATCHES = PATCHES
    registry.get("inspections", "trigger_inversion").__init__.__kwdefaults__["steps"] = SEARCH
    registry.get("purifications", "trigger_unlearning").__init__.__kwdefaults__["steps"] = UNLEARNING
    sys.exit(main())
