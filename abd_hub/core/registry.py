"""The registry finds plug-ins by kind and name; a list of them reads the source and imports nothing heavy.

A plug-in is a class or function under ``@register(kind, name)``. The first line of its docstring is its
summary. Importing torch takes two seconds, so ``catalog`` parses the files of this package's plug-ins, and
``get`` imports only one file.

Another package brings plug-ins through entry points of the group ``abd_hub.plugins``. The name of an entry
point is ``kind.name`` (``defenses.calm``), and its value is ``module:Class``. The class needs no decorator.
``catalog`` finds the module's file on the path without importing the package, and reads the summary from the
docstring there. A class that the file only imports has no summary. ``get`` imports the class.
A faulty entry point is left out with one warning. A class that cannot be imported raises one ``InputError``
when it is chosen. Neither affects other plug-ins.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from abd_hub.core.errors import InputError, near_names

GROUP = "abd_hub.plugins"
"""Group of the entry points with which other packages bring plug-ins."""
PACKAGES = {
    "triggers": "triggers",
    "synthesizers": "synthesis",
    "defenses": "defenses",
    "students": "students",
    "inspections": "inspection",
    "purifications": "purification",
}
_registered: dict[str, dict[str, Any]] = {kind: {} for kind in PACKAGES}
T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """Describes one plug-in by its name, its one-line summary and the module that defines it."""

    name: str
    summary: str
    module: str
    package: str = ""
    """Distribution that brings it by an entry point; empty for plug-ins of this package or of the program."""


def register(kind: str, name: str) -> Callable[[T], T]:
    """Returns a decorator that registers a class or function; ``kind`` and ``name`` must be string literals.

    Raises:
        ValueError: the kind is unknown, or another plug-in has the name.
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
    """Returns all plug-ins of a kind by name: from this package, other packages and the running program.

    Raises:
        InputError: the kind is unknown.
    """
    if kind not in PACKAGES:
        raise InputError(f"kind {kind!r} is unknown; use one of {', '.join(PACKAGES)}")

    entries = {entry.name: entry for entry in (*_shipped(kind), *_installed(kind))}
    for name, plugin in _registered[kind].items():
        summary = (plugin.__doc__ or "").strip().partition("\n")[0]
        known = entries.setdefault(name, Entry(name, summary, plugin.__module__))
        # An entry point may name a module that only imports the class.
        entries[name] = dataclasses.replace(known, module=plugin.__module__)
    return [entries[name] for name in sorted(entries)]


def get(kind: str, name: str) -> Any:
    """Returns the class or function registered under ``name``; imports it if need be.

    Raises:
        InputError: there is no such plug-in (the message names the nearest), or its package is broken.
    """
    if name not in _registered[kind]:
        for entry in _shipped(kind):
            if entry.name == name:
                importlib.import_module(entry.module)

    if name not in _registered[kind] and name in _entry_points(kind):
        plugin = _load(kind, name, _entry_points(kind)[name])
        # This changes nothing where the class has the decorator itself.
        register(kind, name)(plugin)

    if name not in _registered[kind]:
        names = [entry.name for entry in catalog(kind)]
        near = near_names(name, names, f"abd-hub list {kind}")
        raise InputError(f"{kind.removesuffix('s')}: {name!r} is unknown; {near}")
    return _registered[kind][name]


def loaded(kind: str, name: str) -> Any | None:
    """Returns the plug-in if it has been imported already, or else None."""
    return _registered[kind].get(name)


def home(kind: str, name: str) -> tuple[str, str] | None:
    """Returns the module of a plug-in and the name of its class there; imports nothing."""
    point = _entry_points(kind).get(name)
    if point is not None:
        return point.module, point.attr
    folder = Path(__file__).parents[1] / PACKAGES[kind]
    for entry in _shipped(kind):
        if entry.name == name:
            file = folder / f"{entry.module.rpartition('.')[2]}.py"
            declared = {found: node.name for node, found, _ in _declarations(file, kind)}
            return entry.module, declared[name]
    return None


def find_plugin(kind: str, name: str) -> Any | None:
    """Returns the plug-in, or None where it is not installed or cannot be imported.

    It serves names in a record, which somebody else's installation may have written.
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
        for _, name, summary in _declarations(file, kind)
    )


def _declarations(file: Path, kind: str) -> Iterator[tuple[ast.ClassDef | ast.FunctionDef, str, str]]:
    """Yields each plug-in of a file with its name and its summary."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef):
            continue
        for decorator in node.decorator_list:
            match decorator:
                case ast.Call(
                    func=ast.Name(id="register"),
                    args=[ast.Constant(value=found), ast.Constant(value=str(name))],
                ) if found == kind:
                    yield node, name, (ast.get_docstring(node) or "").partition("\n")[0]


@cache
def _entry_points(kind: str) -> dict[str, EntryPoint]:
    """Returns the entry points of other packages for one kind, by the name of the plug-in."""
    shipped = {entry.name for entry in _shipped(kind)}
    points: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (_package(point), point.name)):
        of_kind, dot, name = point.name.partition(".")
        if of_kind not in PACKAGES or not dot or not name or not point.attr:
            if kind == next(iter(PACKAGES)):
                # One kind warns for all.
                _leave_out(point, f"it must be KIND.NAME = module:Class, with KIND of {', '.join(PACKAGES)}")
        elif of_kind == kind and (name in shipped or name in points):
            _leave_out(point, "its name is taken")
        elif of_kind == kind:
            points[name] = point
    return points


@cache
def _installed(kind: str) -> tuple[Entry, ...]:
    """Returns the plug-ins of other packages whose files exist; imports none of them."""
    entries: list[Entry] = []
    for name, point in _entry_points(kind).items():
        try:
            summary = _summary(point)
        except (ImportError, OSError, ValueError, SyntaxError) as error:
            _leave_out(point, f"{type(error).__name__}: {error}")
        else:
            entries.append(Entry(name, summary, point.module, _package(point)))
    return tuple(entries)


def _summary(point: EntryPoint) -> str:
    """Returns the first line of the docstring of the class, from its file."""
    spec = find_module(point.module)
    if spec is None:
        raise ImportError(f"there is no module {point.module}")
    if spec.origin is None or not spec.origin.endswith(".py"):
        return ""

    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == point.attr:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


def find_module(module: str) -> ModuleSpec | None:
    """Returns where a module lies; it imports no package above the module, as ``find_spec`` would."""
    first, *parts = module.split(".")
    spec = importlib.util.find_spec(first)
    for part in parts:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(f"{spec.name}.{part}", list(spec.submodule_search_locations))
    return spec


def _load(kind: str, name: str, point: EntryPoint) -> Any:
    place = f"{kind}: {name!r} of the package {_package(point)}"
    try:
        plugin = point.load()
    except Exception as error:  # A stranger's module may raise any exception at import.
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{place} cannot be imported ({reason}); repair or remove the package") from error
    if kind != "students" and not (isinstance(plugin, type) and dataclasses.is_dataclass(plugin)):
        raise InputError(f"{place} is no dataclass and so has no settings; make {point.value} one")
    return plugin


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown package"


def _leave_out(point: EntryPoint, reason: str) -> None:
    line = " ".join(reason.split())
    logging.getLogger(__name__).warning(
        "the plug-in %s of the package %s is left out: %s", point.name, _package(point), line
    )
