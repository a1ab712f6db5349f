"""Runs the fetcher as a process."""

from __future__ import annotations

from fetcher_svc.service import define
from heimdall.runtime import boot

if __name__ == "__main__":
    boot.main("fetcher", define)
