"""Accelerate keeps its settings for the whole process; a second command would get the first one's."""

import sys


def forget():
    """The next accelerator is the first; where accelerate was never imported, nothing is imported."""
    state = sys.modules.get("accelerate.state")
    if state is not None:
        state.AcceleratorState._reset_state(reset_partial_state=True)
