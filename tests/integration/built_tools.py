"""The programs of other projects that some tests run; `make tools` builds them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tools.go_tools import tool_path


def built_tool(name: str) -> Path:
    """Returns a built program; without it the test skips, and under CI it fails."""
    path = tool_path(name)
    if not path.exists():
        message = f"{path} is not built; run 'make tools'"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path
