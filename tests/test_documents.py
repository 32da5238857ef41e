"""What the documents link to and name is there, and the README stays short."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
from documents import COMMANDS, DOCUMENTS, LANGUAGES, ROOT, blocks

import abd_hub
from abd_hub.cli import main
from abd_hub.commands.table import COMMANDS as TABLE

LINKING = [*DOCUMENTS, "CONTRIBUTING.md"]
OPTION = re.compile(r"--[a-zA-Z][\w.-]*")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_says_what_it_is(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    found = blocks(document)
    assert text.count("\n```") == 2 * len(found), "a fence is indented or not closed"
    assert {block.language for block in found} <= LANGUAGES


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 170
    assert len(text.split()) <= 1300


@pytest.mark.parametrize("document", LINKING)
def test_local_links_lead_somewhere(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (ROOT / document).parent / name if name else ROOT / document
        assert file.resolve().is_relative_to(ROOT) and file.exists(), target
        assert not anchor or anchor in anchors(file), target


def anchors(file: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name != "app/README.md"])
def test_guides_can_be_reached_from_the_readme(document):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert document == "README.md" or f"({document})" in readme


def inline(document: str) -> list[str]:
    """The code within sentences and tables."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / document).read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.findall(r"`([^`\n]+)`", text)


@pytest.fixture(scope="module")
def helps():
    """The help of every command, and the source of every recipe, in which options are looked up."""
    import io

    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "recipes").rglob("*.py")]
    methods = [entry.name for entry in abd_hub.catalog("synthesizers")]
    every_defense = ",".join(entry.name for entry in abd_hub.catalog("defenses"))
    screens = [[name, "--help-all" if name in ("distill", "poison") else "--help"] for name in TABLE]
    screens += [["distill", "--synthesizer", name, "--help-all"] for name in methods]
    screens += [
        ["distill", "--defenses", every_defense, "--help-all"],
        ["poison", "--recipe", "fast", "--help-all"],
    ]

    with contextlib.redirect_stdout(io.StringIO()) as shown:
        for words in [["--help"], *screens]:
            with contextlib.suppress(SystemExit):
                main(words)
    return "\n".join([shown.getvalue(), *texts])


OTHERS = {"--generate", "--machine_rank", "--help", "--dynamo-backend", "--poison.surrogate.id"}
"""Options that no help names: of other programs, made from a list, or within a mapping."""


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_and_names_exist(document, helps):
    """Also options of commands, as argparse takes a part of a name for the whole."""
    own = [shown for shown in COMMANDS if shown.program.startswith(("abd-hub", "recipes/"))]
    words = [word for shown in own if shown.block.document == document for word in shown.words]
    for code in [*inline(document), *words]:
        for option in OPTION.findall(code):
            spellings = {option, option.replace("-", "_").replace("__", "--", 1)}
            assert option in OTHERS or any(f"{one} " in helps or f'{one}"' in helps for one in spellings), (
                code
            )
        if code.startswith("abd-hub "):
            assert re.search(rf"^  {code.split()[1]} ", helps, re.MULTILINE), code
        if re.fullmatch(r"(recipes|tests|app)/[\w./-]+", code) and "NAME" not in code:
            assert (ROOT / code).exists(), code
        for name in re.findall(r"\babd_hub\.([A-Za-z]\w*)", code):
            assert name in abd_hub.__all__ or (ROOT / "abd_hub" / name).exists(), code


@pytest.mark.parametrize("kind", ["synthesizers", "defenses", "triggers", "students"])
def test_the_readme_names_whatever_can_be_chosen(kind):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [entry.name for entry in abd_hub.catalog(kind) if f"`{entry.name}`" not in readme]
    assert not missing, f"no table of the README has {missing}"
