"""Runs the DSP service as a process."""

from __future__ import annotations

from dsp_svc.service import define
from heimdall.runtime.boot import main

if __name__ == "__main__":
    main("dsp", define)
