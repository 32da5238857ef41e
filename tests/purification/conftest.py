import pytest
from accelerate.state import AcceleratorState, PartialState


@pytest.fixture(autouse=True)
def own_accelerator():
    """Each command makes an accelerator of its own, as in a process of its own."""
    yield
    AcceleratorState._reset_state()
    PartialState._reset_state()
