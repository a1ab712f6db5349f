"""Finds the configuration files that come with Heimdall."""

from __future__ import annotations

import sys
from pathlib import Path

import heimdall


def shipped_file(name: str) -> Path:
    """Returns where a file of the folder config is.

    Args:
        name: Name of the file, such as demo.toml.

    Returns:
        The file in the checkout that this code runs from, else in the installation's share/heimdall/config.

    Raises:
        FileNotFoundError: If it is in neither; names both.
    """
    folders = (Path(heimdall.__file__).parents[1] / "config", Path(sys.prefix) / "share" / "heimdall" / "config")
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{name} is neither in {folders[0]} nor in {folders[1]}")
