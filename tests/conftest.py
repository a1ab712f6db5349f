"""What every test folder shares."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

pytest_plugins = ["tests.servers.fixtures"]

REPO_ROOT = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """Lets the commands that tests start hear SIGINT, also if a shell started pytest in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The checkout under test."""
    return REPO_ROOT


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real recordings; the test skips where it is absent."""
    folder = Path(os.environ.get("HEIMDALL_REALDATA", REPO_ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real recordings at {folder}; set HEIMDALL_REALDATA to their folder")
    return folder
