"""The table of what visitors did on the page."""

from collections.abc import Mapping
from typing import Any

from table_text import table

OUTCOMES = ("well", "cancelled", "left", "killed", "full", "refused", "wrong")


def visitors_table(facts: Mapping[str, Any]) -> str:
    """Returns the acts by kind, with the other figures in lines below."""
    cells = [
        [row["action"], str(row["count"]), *(str(row[name]) for name in OUTCOMES)]
        + [f"{row[name]:.2f}" for name in ("p50_s", "p95_s", "max_s")]
        for row in facts["acts"]
    ]
    head = ["act", "count", *OUTCOMES, "p50, s", "p95, s", "max, s"]
    memory = facts["memory"]
    lines = (
        f"({facts['visitors']} visitors for {facts['minutes']:g} minutes. {facts['kills']} runs were killed, "
        f"{facts['kills told']} visitors were told,\nand a line was full {facts['full lines']} times. The "
        f"server had {memory['start_server_mb']:.0f} MB first, {memory['middle_server_mb']:.0f} MB in the "
        f"middle and {memory['end_server_mb']:.0f} MB\nlast; in the last third it grew by "
        f"{memory['growth_mb_a_minute']:.1f} MB a minute. Its runs had {memory['most_children_mb']:.0f} MB "
        f"at most.\nViolations: {len(facts['violations'])}.)"
    )
    return f"{table(head, cells)}\n\n{lines}"
