"""Reads the names of a plug-in's settings from its source, because an import of torch takes seconds."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from abd_hub.core import registry


def setting_names(kind: str, name: str) -> frozenset[str] | None:
    """Returns the names of a plug-in's fields; None where only an import tells them.

    Args:
        kind: of the plug-in, as in ``registry.PACKAGES``.
        name: a name of ``registry.catalog``.
    """
    loaded = registry.loaded(kind, name)
    if loaded is not None:
        fields = dataclasses.fields(loaded) if dataclasses.is_dataclass(loaded) else ()
        return frozenset(field.name for field in fields)
    home = registry.home(kind, name)
    try:
        return None if home is None else frozenset(_fields(*home))
    except (LookupError, ImportError, OSError, ValueError, SyntaxError):
        return None


def _fields(module: str, name: str) -> Iterator[str]:
    """Yields the fields of a dataclass and of its bases.

    Raises:
        LookupError: the class or one of its bases has no source.
    """
    tree = _tree(module)
    found = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
    if found is None:
        home = _imported_from(tree, name)
        if home is None:
            raise LookupError(name)
        yield from _fields(home, name)
        return
    for base in found.bases:
        if not isinstance(base, ast.Name):
            raise LookupError(ast.unparse(base))
        if base.id not in ("ABC", "object"):
            yield from _fields(module, base.id)
    for node in found.body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        if not ast.unparse(node.annotation).startswith("ClassVar"):
            yield node.target.id


def _imported_from(tree: ast.Module, name: str) -> str | None:
    for node in tree.body:
        if not isinstance(node, ast.ImportFrom) or node.level:
            continue
        if any(alias.name == name and alias.asname in (None, name) for alias in node.names):
            return node.module
    return None


@cache
def _tree(module: str) -> ast.Module:
    spec = registry.find_module(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise LookupError(module)
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
