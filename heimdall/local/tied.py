"""Runs a module that ends when its parent does: `python -m heimdall.local.tied MODULE [ARGUMENT ...]`.

The parent holds the other end of this process's standard input and never writes to it. However the parent ends, even by
SIGKILL, the kernel closes that end, and the module gets the same SIGTERM that a parent in good health would send.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def _terminate_at_end_of_input() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Starts the watch on standard input, then becomes the module."""
    threading.Thread(target=_terminate_at_end_of_input, name="parent-watch", daemon=True).start()
    module = sys.argv[1]
    sys.argv = sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
