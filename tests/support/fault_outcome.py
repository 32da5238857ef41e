"""How one trial with a fault went."""

from dataclasses import dataclass


@dataclass
class Outcome:
    """Says how one trial went; ``why`` is empty where nothing is lost, half-written or different."""

    scene: str
    fault: str
    number: int
    where: str
    why: str
    left: int
    """Counts temporary files that are still there at the end."""
    seconds: float
