"""The mesh as processes on one machine, for a desk, the demo and tests."""

from __future__ import annotations

from heimdall.local.mesh import SERVICE_NAMES, LocalMesh, full_name, ports_from, reserved_ports
from heimdall.local.process import ProcessStartError, TiedProcess, run_together

__all__ = [
    "SERVICE_NAMES",
    "LocalMesh",
    "ProcessStartError",
    "TiedProcess",
    "full_name",
    "ports_from",
    "reserved_ports",
    "run_together",
]
