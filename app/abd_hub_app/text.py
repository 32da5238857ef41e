"""Shows words of strangers as text, as labels, folders and records may hold HTML, scripts or Markdown."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from abd_hub import visible_line

if TYPE_CHECKING:
    import gradio as gr

_LONGEST = 60
# Gradio reads these signs in HTML as its own templates, so they become entities too.
_TEMPLATE_SIGNS = {ord(sign): f"&#{ord(sign)};" for sign in "${}`"}


def one_line(text: str, longest: int = _LONGEST) -> str:
    """Returns one line of visible characters, cut at ``longest`` and not escaped."""
    return visible_line(text, longest)


def as_html(text: str, longest: int = _LONGEST) -> str:
    """Escapes text for an element, or for an attribute between quotes."""
    return html.escape(one_line(text, longest)).translate(_TEMPLATE_SIGNS)


def refusal(error: Exception | str, visible: bool = True) -> gr.Error:
    """Returns an error with one line for the visitor, escaped because the page shows messages as HTML."""
    import gradio as gr

    words = as_html(str(error), longest=400)
    return gr.Error(words, print_exception=False, title="Not possible", visible=visible)


def percent(share: float) -> str:
    """Returns a share in [0, 1] as a percentage, with one decimal below 100."""
    return "100 %" if share >= 0.9995 else f"{100 * share:.1f} %"
