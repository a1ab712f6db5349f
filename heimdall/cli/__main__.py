"""Runs the command line as `python -m heimdall.cli`."""

from __future__ import annotations

from heimdall.cli.main import main

if __name__ == "__main__":
    main()
