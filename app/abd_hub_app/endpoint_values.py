"""Refuses in words the values of the wrong kind that programs send to the named endpoints."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.exceptions import InvalidPathError

from abd_hub_app.text import refusal

OPTIONAL = ("corner", "drawing")
"""Names the inputs that are newer than their endpoints; older programs do not send them."""
_NOT_UPLOADED = "request: a file in it was not uploaded here; upload it first"
_WRONG = (
    "request: a value is missing or not of the kind that this endpoint takes; "
    "send the values that the page's link to its API lists"
)


class Page(gr.Blocks):  # type: ignore[misc]
    """Extends Gradio's blocks by a reason, in place of an empty error, for values that no component reads."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *values: Any, **options: Any) -> Any:
        """Returns the values for the functions behind the endpoints; optional ones may be left out.

        Raises:
            gr.Error: a value is missing, of the wrong kind, or no file that this visitor uploaded.
        """
        left_out = block_fn.inputs[len(inputs) :]
        if all(getattr(block, "elem_id", None) in OPTIONAL for block in left_out):
            inputs = [*inputs, *[None] * len(left_out)]
        try:
            return await super().preprocess_data(block_fn, inputs, *values, **options)
        except gr.Error as error:
            error.print_exception = False  # a visitor's mistake is not the owner's
            raise
        except InvalidPathError as error:
            raise refusal(_NOT_UPLOADED) from error
        # Components raise any kind of error for wrong values.
        except Exception as error:
            raise refusal(_WRONG) from error
