"""Why a test is skipped: the parts that a machine may lack, each named once."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

PUBLISHED = Path(os.environ.get("ABD_HUB_TEST_DATA", "none"))
CHROMIUM = shutil.which("chromium")

NO_BROWSER = "browser tests (no Chromium)" if find_spec("playwright") else "browser tests (no Playwright)"
NO_PUBLISHED = "tests of published files (no ABD_HUB_TEST_DATA)"
NO_ACCELERATOR = "accelerator tests (no accelerator)"
NO_RAY = "sweep tests (no Ray)"
NO_ONNX = "tests of ONNX (no onnx, onnxscript and onnxruntime)"
NO_SPACE = "tests of the installed Space (no ABD_HUB_TEST_SPACE)"
NO_SMALL_DISK = "tests of a full disk (no right to mount one)"
NO_PROC = "tests of running processes (no /proc)"

needs_browser = pytest.mark.skipif(not (CHROMIUM and find_spec("playwright")), reason=NO_BROWSER)
needs_accelerator = pytest.mark.skipif(not torch.accelerator.is_available(), reason=NO_ACCELERATOR)
needs_ray = pytest.mark.skipif(not find_spec("ray"), reason=NO_RAY)
needs_onnx = pytest.mark.skipif(
    not all(find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")), reason=NO_ONNX
)
needs_space = pytest.mark.skipif("ABD_HUB_TEST_SPACE" not in os.environ, reason=NO_SPACE)
needs_proc = pytest.mark.skipif(not Path("/proc").exists(), reason=NO_PROC)


def published(place: str) -> Path:
    """A published file or folder; the test is skipped where it is not here."""
    file = PUBLISHED / place
    if not file.exists():
        pytest.skip(NO_PUBLISHED)
    return file
