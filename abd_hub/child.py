"""``python -m abd_hub.child distill ...`` runs the command in a process that ends when its supervisor dies.

``abd_hub.core.processes`` explains how the two are tied together.
"""

from __future__ import annotations

import sys

from abd_hub.core.processes import follow_supervisor

GRACE = 30.0
"""Seconds for a last checkpoint after the supervisor has died."""


def main() -> int:
    """Runs the command that the arguments name; returns its exit code."""
    follow_supervisor(grace=GRACE)

    from abd_hub.cli import main as command

    return command(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
