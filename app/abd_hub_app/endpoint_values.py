"""What programs send to the named endpoints: values of the wrong kind are refused in words."""

from __future__ import annotations

from typing import Any

import gradio as gr

from abd_hub_app.text import refusal

OPTIONAL = ("corner", "drawing")
"""Inputs that came later than the endpoints: programs that do not know them need not send them."""
_WRONG = (
    "request: a value is missing or not of the kind that this endpoint takes; "
    "the page's link to its API lists them all"
)


class Page(gr.Blocks):  # type: ignore[misc]
    """Gradio's blocks, but what no component can read is refused with a reason instead of an empty error."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *given: Any, **options: Any) -> Any:
        """The values as the functions behind the endpoints take them; optional ones may be left out.

        Raises:
            gr.Error: a value is missing, of the wrong kind, or no file that this visitor has uploaded.
        """
        left_out = block_fn.inputs[len(inputs) :]
        if all(getattr(block, "elem_id", None) in OPTIONAL for block in left_out):
            inputs = [*inputs, *[None] * len(left_out)]
        try:
            return await super().preprocess_data(block_fn, inputs, *given, **options)
        except gr.Error:
            raise
        # Components meet wrong kinds with whatever their code runs into.
        except Exception as error:
            raise refusal(_WRONG) from error
