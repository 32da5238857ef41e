"""The documents, and the commands, programs and settings that they show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").is_file())
DOCUMENTS = [
    "README.md",
    "app/README.md",
    "recipes/results/README.md",
    "recipes/benchmarks/README.md",
    *sorted(str(file.relative_to(ROOT)) for file in (ROOT / "recipes" / "guides").glob("*.md")),
]
LANGUAGES = {"bash", "console", "python", "yaml", "bibtex"}


@dataclass(frozen=True)
class Block:
    """One fenced block of a document."""

    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks(document: str, *languages: str) -> list[Block]:
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    every = [Block(document, text[: match.start()].count("\n") + 1, match[1], match[2]) for match in found]
    return [block for block in every if not languages or block.language in languages]


@dataclass(frozen=True)
class Command:
    """One command of a block, and what the document shows as its output."""

    block: Block
    words: tuple[str, ...]
    output: str = ""

    def __str__(self) -> str:
        return f"{self.block} {' '.join(self.words)[:60]}"

    @property
    def program(self) -> str:
        """``abd-hub`` with its command, a script of the recipes, or the program's name."""
        first, *rest = self.words
        name = first.removeprefix(".venv/bin/")
        if name == "abd-hub":
            return f"abd-hub {rest[0]}"
        if name in ("python", "python3"):
            return f"python -m {rest[1]}" if rest[0] == "-m" else rest[0]
        return name


def commands(block: Block) -> Iterator[Command]:
    """Those of a block; in ``console`` blocks they follow a ``$``, and the rest is output."""
    output, text = "", block.text
    if block.language == "console":
        text = re.match(r"\$ ((?:.*\\\n)*.*\n)", text)[1]
        output = block.text.removeprefix(f"$ {text}")
    text = re.sub(r"(?:^|\s+)#[^\n]*", "", text)
    lexer = shlex.shlex(text.replace("\\\n", " "), posix=True, punctuation_chars=";&|<>\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    words: list[str] = []
    for word in [*lexer, "\n"]:
        if not set(word) <= set(";&|<>\n"):
            words.append(word)
            continue
        # A newline in a quoted word is no separator; anything but these two would be a shell's own doing.
        assert set(word) <= set("&\n"), f"{block}: {word} needs a shell"
        if words:
            yield Command(block, tuple(words), output)
        words = []


COMMANDS = [
    command
    for document in DOCUMENTS
    for block in blocks(document, "bash", "console")
    for command in commands(block)
]
PROGRAMS = [block for document in DOCUMENTS for block in blocks(document, "python")]
SETTINGS = [block for document in DOCUMENTS for block in blocks(document, "yaml")]
