"""The command line."""

from __future__ import annotations

from heimdall.cli.main import main

__all__ = ["main"]
