"""Logs: one line an event, ours and those of libraries, as key=value or JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime

import pytest

_PROGRAM = """
import asyncio, logging, structlog
from google.protobuf.message import DecodeError
from grpc._cython.cygrpc import ExecuteBatchError
from heimdall.runtime.logs import configure_logs
from heimdall.runtime.settings import LogSettings
configure_logs(LogSettings(format={format!r}), "dsp")
log = structlog.get_logger("ours")
log.debug("too_quiet")
log.info("segment_opened", receiver_id="torino", name="two words", gapless=True, rate_hz=12000.5)
logging.getLogger("theirs").warning("from %s", "a library")
try:
    raise ValueError("first line\\nsecond line")
except ValueError:
    log.exception("call_crashed")
try:
    raise asyncio.CancelledError
except asyncio.CancelledError:
    logging.getLogger("grpc._cython.cygrpc").exception("a handler was cancelled")
try:
    raise DecodeError("no message")
except DecodeError:
    logging.getLogger("grpc._cython.cygrpc").exception("Unexpected [%s]", "DecodeError")
for text in ('Failed "execute_batch": (an operation,)', "Failed grpc_call_start_batch: 8"):
    try:
        raise ExecuteBatchError(text)
    except ExecuteBatchError:
        logging.getLogger("grpc._cython.cygrpc").exception("raised in core")
"""


def _lines(log_format: str) -> list[str]:
    program = _PROGRAM.format(format=log_format)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert run.stdout == ""
    return run.stderr.splitlines()


def test_key_and_value_one_line_an_event() -> None:
    opened, library, crashed, undecodable, misused = _lines("logfmt")
    assert re.match(r"timestamp=\d{4}-\d\d-\d\dT[\d:.]+Z level=info service=dsp event=segment_opened ", opened)
    assert {"receiver_id=torino", "gapless=true", "rate_hz=12000.5"} <= set(opened.split())
    assert 'name="two words"' in opened
    assert 'level=warning service=dsp event="from a library"' in library
    assert "event=call_crashed" in crashed
    assert "ValueError: first line\\nsecond line" in crashed
    # A caller's mistake: no error of ours, and nothing of where it was noticed.
    assert 'level=warning service=dsp event="Unexpected [DecodeError]: no message" logger=grpc._cython' in undecodable
    assert "Traceback" not in undecodable
    # Of the two batches, the one that was no fault of ours is left out.
    assert 'level=error service=dsp event="raised in core"' in misused
    assert "Failed grpc_call_start_batch: 8" in misused


def test_json_one_object_an_event() -> None:
    opened, library, crashed, undecodable, misused = (json.loads(line) for line in _lines("json"))
    assert (opened["event"], opened["gapless"], opened["rate_hz"]) == ("segment_opened", True, 12000.5)
    assert abs(datetime.fromisoformat(opened["timestamp"]) - datetime.now(UTC)).total_seconds() < 60
    assert (library["event"], library["level"], library["logger"]) == ("from a library", "warning", "theirs")
    assert "Traceback" in crashed["exception"]
    assert (undecodable["level"], "exception" in undecodable) == ("warning", False)
    assert "Failed grpc_call_start_batch: 8" in misused["exception"]


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_every_level_of_the_settings_is_one_of_logging(level: str) -> None:
    program = (
        "import logging; from heimdall.runtime.logs import configure_logs;"
        "from heimdall.runtime.settings import LogSettings;"
        f"configure_logs(LogSettings(level={level!r}), 'dsp'); print(logging.getLevelName(logging.getLogger().level))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert run.stdout.strip() == level.upper()
