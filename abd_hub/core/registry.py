"""Plug-ins by kind and name. Listing them reads the source and imports nothing heavy.

A plug-in is a class or function under ``@register(kind, name)``; the first line of its docstring is
its summary. Importing torch takes two seconds, so ``catalog`` finds the plug-ins of this package by
parsing their files, and ``get`` imports only the one file that is asked for.
"""

from __future__ import annotations

import ast
import difflib
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from abd_hub.core.errors import InputError

PACKAGES = {
    "triggers": "triggers",
    "synthesizers": "synthesis",
    "defenses": "defenses",
    "students": "students",
}
_registered: dict[str, dict[str, Any]] = {kind: {} for kind in PACKAGES}
T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One plug-in: its name, its one-line summary and the module that defines it."""

    name: str
    summary: str
    module: str


def register(kind: str, name: str) -> Callable[[T], T]:
    """Decorator: make a class or function known as ``name``; both must be string literals.

    Raises:
        ValueError: the kind is unknown, or the name is taken by something else.
    """
    if kind not in PACKAGES:
        raise ValueError(f"kind {kind!r} is unknown; use one of {', '.join(PACKAGES)}")

    def remember(plugin: T) -> T:
        known = _registered[kind].get(name)
        if known is not None and _place(known) != _place(plugin):
            raise ValueError(f"{kind}: {name!r} is already taken by {_place(known)}")
        _registered[kind][name] = plugin
        return plugin

    return remember


def catalog(kind: str) -> list[Entry]:
    """All plug-ins of a kind, sorted by name: this package's own and those registered at run time.

    Raises:
        InputError: the kind is unknown.
    """
    if kind not in PACKAGES:
        raise InputError(f"kind {kind!r} is unknown; use one of {', '.join(PACKAGES)}")
    entries = {entry.name: entry for entry in _shipped(kind)}
    for name, plugin in _registered[kind].items():
        summary = (plugin.__doc__ or "").strip().partition("\n")[0]
        entries.setdefault(name, Entry(name, summary, plugin.__module__))
    return [entries[name] for name in sorted(entries)]


def get(kind: str, name: str) -> Any:
    """The class or function registered under ``name``, imported now if need be.

    Raises:
        InputError: no such plug-in; the message names the nearest ones.
    """
    if name not in _registered[kind]:
        for entry in _shipped(kind):
            if entry.name == name:
                importlib.import_module(entry.module)
    if name not in _registered[kind]:
        names = [entry.name for entry in catalog(kind)]
        near = difflib.get_close_matches(name, names, n=3) or names
        raise InputError(f"{kind}: {name!r} is unknown; did you mean {', '.join(near)}?")
    return _registered[kind][name]


def find_plugin(kind: str, name: str) -> Any | None:
    """What ``get`` returns, or None where that plug-in is not installed or cannot be imported.

    For names out of a record, which somebody else's installation may have written.
    """
    try:
        return get(kind, name)
    except (InputError, ImportError):
        return None


def _place(plugin: Any) -> str:
    return f"{plugin.__module__}.{plugin.__qualname__}"


@cache
def _shipped(kind: str) -> tuple[Entry, ...]:
    package = PACKAGES[kind]
    folder = Path(__file__).parents[1] / package
    return tuple(
        Entry(name, summary, f"abd_hub.{package}.{file.stem}")
        for file in sorted(folder.glob("*.py"))
        for name, summary in _declared(file, kind)
    )


def _declared(file: Path, kind: str) -> Iterator[tuple[str, str]]:
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef):
            continue
        for decorator in node.decorator_list:
            match decorator:
                case ast.Call(
                    func=ast.Name(id="register"),
                    args=[ast.Constant(value=found), ast.Constant(value=str(name))],
                ) if found == kind:
                    yield name, (ast.get_docstring(node) or "").partition("\n")[0]
