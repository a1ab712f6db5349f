"""Logging of every service: one line an event, key=value or JSON, on stderr."""

from __future__ import annotations

import asyncio
import logging
import sys

import structlog
from google.protobuf.message import DecodeError

from heimdall.runtime.settings import LogSettings


def configure_logs(settings: LogSettings, service: str) -> None:
    """Sends structlog and the standard library's logs to stderr, one line an event.

    Args:
        settings: Level and format.
        service: Name of the service, put into every line.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_service(service),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.format == "json"
        else structlog.processors.LogfmtRenderer(
            key_order=["timestamp", "level", "service", "event"], bool_as_flag=False
        )
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=shared,
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.level.upper())
    # The poller of grpc.aio reports every interrupted wait as an error of asyncio.
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_worth_a_line)


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Drops what gRPC reports of callers who left, and makes one warning of a request that does not decode.

    A handler is cancelled when its caller left, or a probe watched to the end; if that happens just when the answer is
    handed out, the batch that it is part of fails. Bytes that are no message are the caller's mistake; where in the
    library that was noticed says nothing.
    """
    error = None if record.exc_info is None else record.exc_info[1]
    if isinstance(error, DecodeError):
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.exc_info = None
        record.msg, record.args = f"{record.getMessage()}: {error}", ()
    return not isinstance(error, asyncio.CancelledError) and not _is_undelivered(error)


def _is_undelivered(error: BaseException | None) -> bool:
    """Returns whether a batch was begun rightly and failed, as it does when its call has ended meanwhile."""
    # The class is none of the library's public ones.
    return type(error).__name__ == "ExecuteBatchError" and str(error).startswith('Failed "execute_batch"')


def _add_service(service: str) -> structlog.typing.Processor:
    def add(
        logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        event["service"] = service
        return event

    return add
