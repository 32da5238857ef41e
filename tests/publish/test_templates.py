"""Templates let no value into a card as markup, and all of them are installed."""

import re
import tomllib
from pathlib import Path

import pytest
from jinja2 import UndefinedError

import abd_hub
from abd_hub.publish.card_text import Markdown, as_code
from abd_hub.publish.templates import _environment, render

PACKAGE = Path(abd_hub.__file__).parent
TEXT = "<b>*x*</b> | [a](http://b)"
SHOWN = r"&lt;b&gt;\*x\*&lt;/b&gt; \| \[a\](http&#58;&#47;&#47;b)"


def shown(template, **values):
    return _environment().from_string(template).render(**values)


@pytest.mark.parametrize(
    "template",
    [
        "{{ x }}",
        "{{ x | text }}",
        "{{ x | code }}",
        "{{ x | value }}",
        "{{ x | safe }}",
        "{{ x | string }}",
        "{{ [x] | join }}",
        "{{ x ~ '' }}",
        "{{ d.items() | first | first }}",
        "{% set y %}{{ 'a' }}{% endset %}{{ x }}",
        "{{ plain(x) }}",
    ],
)
def test_no_value_becomes_markup(template):
    assert shown(template, x=TEXT, d={TEXT: 1}, plain=lambda text: text) == SHOWN


def test_what_is_made_of_markdown_is_escaped_again():
    code = as_code("name")
    assert shown("{{ code }}", code=code) == "`name`"
    for template in ("{{ code ~ x }}", "{{ code + x }}", "{{ code | upper }}", "{{ [code, x] | join }}"):
        assert "`" not in re.sub(r"\\`", "", shown(template, code=code, x=TEXT)), template


def test_fill_escapes():
    assert Markdown("**{}**: {}").fill(TEXT, as_code("a")) == f"**{SHOWN}**: `a`"
    assert Markdown("{}").fill("{0} {x}") == "{0} {x}"


def test_table_cells_are_escaped():
    assert shown("{{ rows | table }}", rows=[["a"], [TEXT]]) == f"| a |\n|---|\n| {SHOWN} |"


def test_a_missing_value_is_an_error():
    with pytest.raises(UndefinedError):
        render("student")


def test_every_template_is_installed():
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["abd_hub"]
    packed = {file for pattern in patterns for file in PACKAGE.glob(pattern) if file.suffix != ".yaml"}
    templates = {file for file in (PACKAGE / "publish" / "templates").iterdir() if file.is_file()}
    assert templates and packed == templates | {PACKAGE / "__init__.pyi"}
