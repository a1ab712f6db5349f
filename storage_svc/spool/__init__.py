"""Durable, resumable storage of recordings while they are being written."""

from __future__ import annotations

from storage_svc.spool.aside import SpoolUnreadableError
from storage_svc.spool.progress import MAX_BLOCK_BYTES, SAMPLE_BYTES, Progress
from storage_svc.spool.recording import SpooledRecording, Verdict
from storage_svc.spool.spool import Spool

__all__ = [
    "MAX_BLOCK_BYTES",
    "SAMPLE_BYTES",
    "Progress",
    "Spool",
    "SpoolUnreadableError",
    "SpooledRecording",
    "Verdict",
]
