"""Who may import whom: the table of the README's "Shape of the code", held by reading the sources."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "abd_hub"
BASE = {"types", "registry", "seeding"}
TABLE = {
    "types": set(),
    "seeding": set(),
    "schedules": set(),
    "distributed": set(),
    "global_batch": {"distributed"},
    "twice_differentiable": {"distributed"},
    "losses": set(),
    "augment": {"types"},
    "modes": set(),
    "image_bank": {"types"},
    "registry": {"types"},
    "checkpoint": {"types"},
    "folder": {"types", "yaml_text"},
    "citations": set(),
    "card_text": set(),
    "card_snippets": {"registry", "card_text"},
    "card": {"types", "citations", "card_text", "card_snippets"},
    "pictures": {"types"},
    "evidence": {"types", "folder", "pictures", "distributed"},
    "data": {"types", "seeding"},
    "evaluation": {"types"},
    "config": {"types", "registry"},
    "parsing": {"types", "yaml_text", "registry", "config", "poison_config", "teacher_recipe"},
    "weights": {"types"},
    "preprocessing": {"types"},
    "students": {"registry"},
    "hub_requests": {"types"},
    "yaml_text": set(),
    "hub_files": {"types"},
    "hub_download": {"hub_files"},
    "pull": {"types", "folder", "preprocessing", "hub_requests", "hub_files", "hub_download"},
    "uploads": {"types", "yaml_text", "folder", "hub_files", "card_text", "card_file", "evidence"},
    "push": {
        "types",
        "config",
        "running",
        "card",
        "hub_requests",
        "hub_files",
        "card_file",
        "card_text",
        "folder",
        "uploads",
    },
    "loading": {"types", "weights", "preprocessing", "students", "pull"},
    "classifier": {"types", "seeding", "weights", "preprocessing", "loading"},
    "attention_maps": {"types", "classifier"},
    "triggers": BASE | {"hub_requests"},
    "contact_sheet": BASE | {"triggers", "data", "folder", "pictures"},
    # Neither may import triggers, data or evaluation: a defence must not be able to peek.
    "synthesis": BASE
    | {"checkpoint", "losses", "distributed", "schedules", "augment", "modes", "image_bank", "hub_requests"},
    "defenses": BASE | {"losses", "distributed", "modes", "twice_differentiable"},
    "running": {"types", "distributed", "config", "folder"},
    "trainer": {
        "global_batch",
        "running",
        "defenses",
        "types",
        "seeding",
        "losses",
        "distributed",
        "schedules",
        "checkpoint",
        "config",
        "classifier",
    },
    "bank_export": {"types", "yaml_text", "checkpoint", "folder", "config", "card_text"},
    "pgd": {"seeding"},
    "poisoning": {"types", "seeding", "data", "triggers"},
    "teacher_recipe": {"types"},
    "teacher_card": {"types", "card", "card_text", "card_snippets"},
    "card_file": {"types", "folder", "classifier", "card", "card_text", "teacher_card"},
    "poison_config": {"types", "config", "teacher_recipe"},
    "teacher_trainer": {
        "types",
        "seeding",
        "augment",
        "checkpoint",
        "classifier",
        "config",
        "distributed",
        "global_batch",
        "running",
        "schedules",
        "teacher_recipe",
    },
    "paired": {"types"},
    "sweep_config": {"types", "config", "poison_config", "parsing"},
    # What runs on a worker: nothing heavy before the run's own process.
    "sweep_task": {"folder"},
    "sweep_child": {"cli"},
    "sweep_table": {"types", "evaluation", "folder", "pictures", "sweep_config"},
    "sweep": {"types", "folder", "running", "sweep_config", "sweep_table", "sweep_task"},
    "sweep_display": {"evaluation", "poison_config", "sweep", "sweep_task"},
    "comparison": {"types", "config", "classifier", "evaluation", "paired", "pictures", "pipeline"},
}
FREE = {"__init__", "__main__", "cli", "pipeline", "poison_run", "demo"}


def unit(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "abd_hub":
            found |= {alias.name for alias in node.names} - {"__version__"}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("abd_hub."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("abd_hub.")}
    return found


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_follow_the_table(file):
    home = unit(file)
    if home not in FREE:
        assert imported(file) <= TABLE[home] | {home}


def test_every_rule_has_a_module():
    assert set(TABLE) | FREE == {unit(file) for file in PACKAGE.rglob("*.py")}


def test_no_plug_in_reaches_another_kind_through_the_registry():
    for folder in ("defenses", "synthesis"):
        for file in (PACKAGE / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module == "abd_hub.registry":
                    assert {alias.name for alias in node.names} == {"register"}, file
                if isinstance(node, ast.ImportFrom) and node.module == "abd_hub":
                    assert "registry" not in {alias.name for alias in node.names}, file


def test_devices_come_from_accelerate():
    for file in PACKAGE.rglob("*.py"):
        assert "cuda" not in file.read_text(encoding="utf-8").lower(), file


@pytest.mark.parametrize("folder", ["recipes", "app"])
def test_recipes_and_app_use_the_public_names_only(folder):
    for file in (PACKAGE.parent / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "abd_hub":
                assert node.module in ("abd_hub", "abd_hub.students"), (file, node.module)
