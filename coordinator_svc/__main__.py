"""Runs the coordinator as a process."""

from __future__ import annotations

from coordinator_svc.service import define
from heimdall.runtime import boot

if __name__ == "__main__":
    boot.main("coordinator", define)
