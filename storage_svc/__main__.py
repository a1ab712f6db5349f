"""Runs the storage service as a process."""

from __future__ import annotations

from heimdall.runtime.boot import main
from storage_svc.definition import define

if __name__ == "__main__":
    main("storage", define)
