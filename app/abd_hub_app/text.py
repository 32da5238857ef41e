"""Names of strangers shown as text: labels, folders and records may hold HTML, scripts or Markdown."""

from __future__ import annotations

import html

import gradio as gr

from abd_hub import visible_line

_LONGEST = 60
# Gradio fills templates of its own with these signs in HTML, so they become entities too.
_TEMPLATE_SIGNS = {ord(sign): f"&#{ord(sign)};" for sign in "${}`"}


def one_line(text: str, longest: int = _LONGEST) -> str:
    """One line of visible characters, cut at ``longest``; not escaped."""
    return visible_line(text, longest)


def as_html(text: str, longest: int = _LONGEST) -> str:
    """Text that a page shows as it is, in an element or in an attribute between quotes."""
    return html.escape(one_line(text, longest)).translate(_TEMPLATE_SIGNS)


def refusal(error: Exception | str, visible: bool = True) -> gr.Error:
    """One clear line for the visitor. The page shows messages as HTML, so it is escaped."""
    words = as_html(str(error), longest=400)
    return gr.Error(words, print_exception=False, title="Not possible", visible=visible)


def percent(share: float) -> str:
    """A share in [0, 1] as a percentage, below 100 with one decimal."""
    return "100 %" if share >= 0.9995 else f"{100 * share:.1f} %"
