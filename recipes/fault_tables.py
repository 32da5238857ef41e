"""The tables of the faults: commands, pushes and pulls, a sweep on two machines, and visitors of the page."""

import json
from collections.abc import Iterable

from table_text import RESULTS, table
from visitor_table import visitors_table

FOLDER = RESULTS / "faults"


def faults_table() -> str:
    """Returns trials and survivors by command and fault."""
    facts = json.loads((FOLDER / "commands.json").read_text())
    trials = facts["trials"]
    faults = list(dict.fromkeys(row["fault"] for row in trials))
    rows = []
    for scene in dict.fromkeys(row["scene"] for row in trials):
        own = [row for row in trials if row["scene"] == scene]
        rows.append([f"`{scene}`", *(_share(own, fault) for fault in faults)])
    rows.append(["all", *(_share(trials, fault) for fault in faults)])
    return table(["command", *faults], rows)


def _share(rows: Iterable[dict], fault: str) -> str:
    own = [row for row in rows if row["fault"] == fault]
    return f"{sum(not row['why'] for row in own)} of {len(own)}" if own else ""


def hub_faults_table() -> str:
    """Returns how pushes and pulls through faults ended, by version of the client."""
    rows = []
    for file in sorted(FOLDER.glob("hub_*.json")):
        facts = json.loads(file.read_text())
        for row in facts["results"]:
            numbers = [f"{row[name]:,}" for name in ("times", "faults", "well", "refused", "wrong")]
            rows.append([facts["huggingface_hub"], row["kind"], *numbers])
    return table(["client", "kind", "times", "faults", "ended well", "refused", "wrong"], rows)


STRUCK = {
    "worker": "a Ray worker is killed at work",
    "node": "the second node loses its power",
    "raylet": "the second node's raylet is killed",
    "cable": "the nodes are cut off from each other",
    "head": "the head is stopped and started",
    "driver": "the command is killed and repeated",
}


def two_nodes_table() -> str:
    """Returns what a sweep on two Ray nodes met, and what was left of it."""
    facts = json.loads((FOLDER / "two_nodes.json").read_text())
    rows = [[words, str(facts["faults"].get(kind, 0))] for kind, words in STRUCK.items()]
    rows += [
        ["attempts at the runs", str(facts["attempts"])],
        ["runs that are there once and whole", f"{facts['complete']} of {facts['runs']}"],
        ["runs done again alone, with the same files", f"{facts['same']} of {facts['compared']}"],
    ]
    return table(["event", "number"], rows)


def page_table() -> str:
    """Returns what visitors did on the page, and how it went."""
    return visitors_table(json.loads((FOLDER / "visitors.json").read_text()))
