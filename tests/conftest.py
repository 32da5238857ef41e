"""What holds for all tests: their order, the marker ``quick``, and a line for each part that is missing.

One thread a test process: the tests' networks are tiny, and results do not depend on the machine.
"""

import signal
from collections import Counter
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

# A shell starts what it puts in the background with SIGINT ignored, and a process is born with what its
# parent ignores: the servers and runs that the tests start would never be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST = [
    "publish/test_push_faults.py",
    "sweep/test_sweep.py",
    "training/test_processes.py",
    "app/test_app_distil.py",
    "publish/test_push.py",
    "runs/test_bad_inputs.py",
    "runs/test_demo.py",
    "app/test_app_distil_browser.py",
    "hub/test_pull.py",
    "app/test_app_browser.py",
    "app/test_app_strangers.py",
    "app/test_app.py",
    "runs/test_poison_run.py",
    "synthesis/test_ood.py",
    "training/test_trainer.py",
    "publish/test_formats.py",
    "runs/test_cli.py",
    "recipes/test_recipes.py",
    "publish/test_card_file.py",
    "recipes/test_benchmark.py",
]
"""Files that begin first, so that both processes end together. An order that is old costs time only."""
QUICK = [
    "app/test_app_parts.py",
    "core/test_imports.py",
    "core/test_yaml_text.py",
    "data/test_pgd.py",
    "data/test_poisoning.py",
    "defenses/test_shuffling_vaccine.py",
    "evaluation/test_paired.py",
    "hub/test_hub_server.py",
    "learning/test_augment.py",
    "learning/test_losses.py",
    "models/test_attention_maps.py",
    "publish/test_card.py",
    "recipes/test_recipe_settings.py",
    "report/test_evidence.py",
    "runs/test_contact_sheet.py",
    "students/test_students.py",
    "sweep/test_sweep_file.py",
    "synthesis/test_dafl.py",
    "training/test_student_loss.py",
    "triggers/test_triggers.py",
]
"""At least one file of each room, in 90 seconds on two cores."""


def pytest_collection_modifyitems(items):
    """Marks the quick tests, puts the longest files first and leaves the order within each."""
    place = {name: index for index, name in enumerate(LONGEST)}
    for item in items:
        if _name(item) in QUICK:
            item.add_marker(pytest.mark.quick)
    items.sort(key=lambda item: place.get(_name(item), len(place)))


def _name(item):
    """The file within the folder of this one."""
    return item.path.relative_to(Path(__file__).parent).as_posix()


def pytest_terminal_summary(terminalreporter):
    """One line for each part that this machine lacks, with the number of tests that are skipped for it."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)
    for reason, count in sorted(reasons.items()):
        words = reason if "tests" in reason else f"tests ({reason})"
        if count == 1:
            words = words.replace("tests", "test", 1)
        terminalreporter.write_line(f"skipped: {count} {words}")
