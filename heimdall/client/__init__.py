"""The typed asynchronous client of the mesh: start and watch acquisitions, read back what they recorded."""

from __future__ import annotations

from heimdall.client.calls import check_health
from heimdall.client.mesh_client import HeimdallClient
from heimdall.client.messages import TERMINAL_STATES, acquisition_spec, record_filter

__all__ = ["TERMINAL_STATES", "HeimdallClient", "acquisition_spec", "check_health", "record_filter"]
