"""This module makes cards from the templates in ``templates/``, which have the layout of the cards.

Every ``{{ value }}`` goes through ``escaped``, which leaves only ``Markdown`` unchanged. So no template can
forget to escape a value.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from abd_hub.core.findings import percent
from abd_hub.core.records import DataRef
from abd_hub.publish.card_text import (
    Markdown,
    as_code,
    as_fact,
    as_text,
    as_value,
    code_or_dash,
    escaped,
    fence,
    in_address,
    markdown_table,
    yaml_block,
)
from abd_hub.publish.own_parts import FREE_BEGINS, FREE_ENDS


def render(name: str, **values: Any) -> str:
    """Returns the text of a card below its front matter.

    Args:
        name: the template's file name without ``.md.jinja``.
        values: the variables of the template, which may come from strangers.

    Raises:
        jinja2.UndefinedError: a variable of the template is missing.
    """
    own_text = Markdown(f"{FREE_BEGINS}\n{FREE_ENDS}")
    return _environment().get_template(f"{name}.md.jinja").render(own_text=own_text, **values)


def _data(data: DataRef) -> Markdown:
    """Names the exact data in a few words."""
    revision = Markdown(", revision {}").fill(as_code(data.revision)) if data.revision else ""
    size = f", squashed to {data.image_size}x{data.image_size}" if data.image_size else ""
    return Markdown("{}, split {}{} ({} images{}, fingerprint {})").fill(
        as_code(data.id), as_code(data.split), revision, data.n, Markdown(size), as_code(data.fingerprint)
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        # Jinja escapes HTML only, not Markdown.
        autoescape=False,
        finalize=escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "code": as_code,
        "code_or_dash": code_or_dash,
        "text": as_text,
        "value": as_value,
        "fact": as_fact,
        "json": lambda value: json.dumps(dict(value), sort_keys=True),
        "table": markdown_table,
        "fenced": fence,
        "yaml": yaml_block,
        "in_address": in_address,
        "data": _data,
        "percent": percent,
    }
    return environment
