"""One table of failures: reason, gRPC code, whether a repeat can help; and their exception."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from heimdall.common.v1 import error_pb2
from heimdall.common.v1.error_pb2 import ErrorReason

DOMAIN: Final = "heimdall"
"""Value of ErrorInfo.domain in every failure of this mesh."""

_PREFIX: Final = "ERROR_REASON_"

# A status travels in the trailers, of which gRPC accepts 8 KiB: beyond that callers get RESOURCE_EXHAUSTED instead of
# the failure. The message is in there twice, once with up to three bytes for one; the rest is encoded as base64.
_MESSAGE_BYTES: Final = 768
_DETAIL_BYTES: Final = 2560
_VALUE_BYTES: Final = 256


@dataclass(frozen=True)
class ErrorPolicy:
    """What a reason means to a caller."""

    code: grpc.StatusCode
    """Code that a call failing for this reason ends with."""
    retry_delay_s: float | None = None
    """Default wait before a repeat makes sense; None where a repeat does not help."""


def _policies() -> Mapping[ErrorReason.ValueType, ErrorPolicy]:
    code = grpc.StatusCode
    rows: list[tuple[ErrorReason.ValueType, grpc.StatusCode, float | None]] = [
        (ErrorReason.ERROR_REASON_INVALID_FIELD, code.INVALID_ARGUMENT, None),
        (ErrorReason.ERROR_REASON_UNEXPECTED_MESSAGE, code.FAILED_PRECONDITION, None),
        (ErrorReason.ERROR_REASON_INDEX_MISMATCH, code.INVALID_ARGUMENT, None),
        (ErrorReason.ERROR_REASON_BLOCK_TOO_LARGE, code.INVALID_ARGUMENT, None),
        (ErrorReason.ERROR_REASON_BLOCK_LENGTH_MISMATCH, code.INVALID_ARGUMENT, None),
        (ErrorReason.ERROR_REASON_UNKNOWN_SAMPLE_FORMAT, code.INVALID_ARGUMENT, None),
        (ErrorReason.ERROR_REASON_STREAM_IDLE, code.ABORTED, 1),
        (ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED, code.DEADLINE_EXCEEDED, None),
        (ErrorReason.ERROR_REASON_CANCELLED, code.CANCELLED, None),
        (ErrorReason.ERROR_REASON_DRAINING, code.UNAVAILABLE, 1),
        (ErrorReason.ERROR_REASON_OVERLOADED, code.RESOURCE_EXHAUSTED, 1),
        (ErrorReason.ERROR_REASON_INTERNAL, code.INTERNAL, None),
        (ErrorReason.ERROR_REASON_SERVICE_UNAVAILABLE, code.UNAVAILABLE, 1),
        (ErrorReason.ERROR_REASON_RECEIVER_NOT_FOUND, code.NOT_FOUND, None),
        (ErrorReason.ERROR_REASON_FREQUENCY_OUT_OF_RANGE, code.INVALID_ARGUMENT, None),
        (ErrorReason.ERROR_REASON_RECEIVER_BUSY, code.RESOURCE_EXHAUSTED, 5),
        (ErrorReason.ERROR_REASON_RECEIVER_NOT_READY, code.UNAVAILABLE, 15),
        (ErrorReason.ERROR_REASON_CONVERTER_OFFSET_MISMATCH, code.FAILED_PRECONDITION, None),
        (ErrorReason.ERROR_REASON_RECEIVER_BACKING_OFF, code.UNAVAILABLE, 30),
        (ErrorReason.ERROR_REASON_UPSTREAM_UNREACHABLE, code.UNAVAILABLE, 15),
        (ErrorReason.ERROR_REASON_UPSTREAM_NOT_FOUND, code.UNAVAILABLE, 15),
        (ErrorReason.ERROR_REASON_UPSTREAM_BUSY, code.RESOURCE_EXHAUSTED, 15),
        (ErrorReason.ERROR_REASON_UPSTREAM_APP_LIMIT, code.RESOURCE_EXHAUSTED, 600),
        (ErrorReason.ERROR_REASON_UPSTREAM_REDIRECT_LOOP, code.FAILED_PRECONDITION, None),
        (ErrorReason.ERROR_REASON_UPSTREAM_PASSWORD_REFUSED, code.FAILED_PRECONDITION, None),
        (ErrorReason.ERROR_REASON_UPSTREAM_NOT_READY, code.UNAVAILABLE, 10),
        (ErrorReason.ERROR_REASON_UPSTREAM_LOGIN_REFUSED, code.FAILED_PRECONDITION, None),
        (ErrorReason.ERROR_REASON_UPSTREAM_ONE_PER_ADDRESS, code.RESOURCE_EXHAUSTED, None),
        (ErrorReason.ERROR_REASON_UPSTREAM_DISABLED, code.UNAVAILABLE, 3600),
        (ErrorReason.ERROR_REASON_UPSTREAM_UPDATING, code.UNAVAILABLE, 300),
        (ErrorReason.ERROR_REASON_UPSTREAM_EXCLUSIVE_USE, code.RESOURCE_EXHAUSTED, 300),
        (ErrorReason.ERROR_REASON_UPSTREAM_WIDEBAND_ONLY, code.FAILED_PRECONDITION, None),
        (ErrorReason.ERROR_REASON_UPSTREAM_ADDRESS_LIMIT, code.RESOURCE_EXHAUSTED, None),
        (ErrorReason.ERROR_REASON_UPSTREAM_INACTIVITY_TIMEOUT, code.UNAVAILABLE, 60),
        (ErrorReason.ERROR_REASON_UPSTREAM_KICKED, code.UNAVAILABLE, 1800),
        (ErrorReason.ERROR_REASON_UPSTREAM_PASSWORD_TIMEOUT, code.INTERNAL, None),
        (ErrorReason.ERROR_REASON_UPSTREAM_CLOSED, code.UNAVAILABLE, 15),
        (ErrorReason.ERROR_REASON_UPSTREAM_CONNECTION_LOST, code.UNAVAILABLE, 0.5),
        (ErrorReason.ERROR_REASON_UPSTREAM_STALLED, code.UNAVAILABLE, 3),
        (ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR, code.UNAVAILABLE, 15),
        (ErrorReason.ERROR_REASON_UPSTREAM_SETUP_TIMEOUT, code.UNAVAILABLE, 15),
        (ErrorReason.ERROR_REASON_UPSTREAM_FORMAT_CHANGED, code.ABORTED, None),
        (ErrorReason.ERROR_REASON_ACQUISITION_NOT_FOUND, code.NOT_FOUND, None),
        (ErrorReason.ERROR_REASON_ACQUISITION_EXISTS, code.ALREADY_EXISTS, None),
        (ErrorReason.ERROR_REASON_REVISION_CONFLICT, code.ABORTED, None),
        (ErrorReason.ERROR_REASON_TOO_FEW_RECEIVERS, code.UNAVAILABLE, None),
        (ErrorReason.ERROR_REASON_COORDINATOR_RESTARTED, code.ABORTED, None),
        (ErrorReason.ERROR_REASON_ACQUISITION_DEADLINE, code.DEADLINE_EXCEEDED, None),
        (ErrorReason.ERROR_REASON_SAMPLES_LOST, code.DATA_LOSS, None),
        (ErrorReason.ERROR_REASON_MEASUREMENT_MISSING, code.UNAVAILABLE, None),
        (ErrorReason.ERROR_REASON_RECORDING_NOT_FOUND, code.NOT_FOUND, None),
        (ErrorReason.ERROR_REASON_WRITER_SUPERSEDED, code.ABORTED, None),
        (ErrorReason.ERROR_REASON_RECORDING_FINISHED, code.FAILED_PRECONDITION, None),
        (ErrorReason.ERROR_REASON_WRITER_LOST, code.ABORTED, None),
        (ErrorReason.ERROR_REASON_SPOOL_FULL, code.UNAVAILABLE, 10),
        (ErrorReason.ERROR_REASON_BACKEND_UNAVAILABLE, code.UNAVAILABLE, 2),
        (ErrorReason.ERROR_REASON_URL_UNSUPPORTED, code.FAILED_PRECONDITION, None),
        (ErrorReason.ERROR_REASON_CHECKSUM_MISMATCH, code.DATA_LOSS, None),
    ]
    return MappingProxyType({reason: ErrorPolicy(status, delay) for reason, status, delay in rows})


POLICIES: Final = _policies()
"""Every reason with its gRPC code and default retry delay."""

_CODES: Final = MappingProxyType({code.value[0]: code for code in grpc.StatusCode if code is not grpc.StatusCode.OK})


@dataclass(frozen=True)
class FieldViolation:
    """One bad field of a request."""

    field: str
    """Path of the field as in the proto, such as spec.tuning.center_frequency_hz."""
    description: str
    """What was wrong, which value, what would be right."""


class HeimdallError(Exception):
    """A failure with its reason, as it crosses the mesh."""

    def __init__(
        self,
        reason: ErrorReason.ValueType,
        message: str,
        *,
        metadata: Mapping[str, object] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_delay_s: float | None = None,
        code: grpc.StatusCode | None = None,
    ) -> None:
        """Builds a failure.

        Args:
            reason: The cause.
            message: A sentence for a person: what was wrong, which value, what would be right.
            metadata: Every changing part of the message as key and value.
            violations: The bad fields, if the request is at fault.
            retry_delay_s: Wait before a repeat; default: the reason's own.
            code: Only for a reason that this version does not know; every other has its own, in POLICIES.
        """
        self.message = _encodable(message)
        super().__init__(self.message)
        self.reason = reason
        self.metadata = {key: _encodable(str(value)) for key, value in (metadata or {}).items()}
        self.violations = tuple(violations)
        policy = ErrorPolicy(code, None) if code is not None and reason not in POLICIES else POLICIES[reason]
        self.code = policy.code
        """The gRPC code that a call failing with this ends with."""
        self.retry_delay_s = policy.retry_delay_s if retry_delay_s is None else retry_delay_s

    @property
    def reason_name(self) -> str:
        """The reason without its enum prefix, such as RECEIVER_BUSY."""
        return reason_name(self.reason)

    def to_detail(self) -> error_pb2.ErrorDetail:
        """Returns the failure as a message that travels inside other messages."""
        detail = error_pb2.ErrorDetail(
            code=self.code.value[0], reason=self.reason, message=self.message, metadata=self.metadata
        )
        if self.retry_delay_s is not None:
            detail.retry_delay.FromTimedelta(timedelta(seconds=self.retry_delay_s))
        return detail

    def to_status(self) -> grpc.Status:
        """Returns the failure as the rich status of a call: ErrorInfo, BadRequest, RetryInfo.

        Texts are shortened, and bad fields beyond the first few dozen left out, so that the status fits the trailers.
        """
        info = error_details_pb2.ErrorInfo(reason=self.reason_name, domain=DOMAIN)
        for key, value in self.metadata.items():
            info.metadata[key] = clip(value, _VALUE_BYTES)
            if info.ByteSize() > _DETAIL_BYTES // 2:
                del info.metadata[key]
                break
        details = [_pack(info)]
        if self.violations:
            bad = error_details_pb2.BadRequest()
            for violation in self.violations:
                bad.field_violations.add(
                    field=clip(violation.field, _VALUE_BYTES), description=clip(violation.description, _VALUE_BYTES)
                )
                if info.ByteSize() + bad.ByteSize() > _DETAIL_BYTES:
                    del bad.field_violations[-1]
                    break
            details.append(_pack(bad))
        if self.retry_delay_s is not None:
            delay = duration_pb2.Duration()
            delay.FromTimedelta(timedelta(seconds=self.retry_delay_s))
            details.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
        message = clip(self.message, _MESSAGE_BYTES)
        return rpc_status.to_status(status_pb2.Status(code=self.code.value[0], message=message, details=details))


class InvalidFieldsError(HeimdallError):
    """A request with one or more bad fields, all of them named at once."""

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        """Builds the failure from every bad field of the request."""
        text = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        fields = ",".join(violation.field for violation in violations)
        super().__init__(
            ErrorReason.ERROR_REASON_INVALID_FIELD,
            text,
            metadata={"field_count": len(violations), "fields": fields},
            violations=violations,
        )


class BadFieldError(HeimdallError):
    """A message whose one bad field has a reason of its own."""

    def __init__(self, reason: ErrorReason.ValueType, field: str, description: str, **facts: object) -> None:
        """Builds the failure.

        Args:
            reason: The cause.
            field: Path of the field in the request, or the name of a message that can not come here.
            description: Which value it has and what would be right.
            facts: Every changing part of the description as key and value.
        """
        super().__init__(
            reason,
            f"{field}: {description}",
            metadata={"field": field, **facts},
            violations=[FieldViolation(field, description)],
        )


def clip(text: str, limit_bytes: int) -> str:
    """Returns a text that takes at most so many bytes in UTF-8, with an ellipsis where it was cut.

    Args:
        text: Any text, also one that a caller sent.
        limit_bytes: Most bytes, 3 or more.
    """
    encoded = text.encode(errors="replace")
    if len(encoded) <= limit_bytes:
        return encoded.decode()
    return encoded[: limit_bytes - len("…".encode())].decode(errors="ignore") + "…"


def _encodable(text: str) -> str:
    """Returns a text that a message can hold: bytes of a peer that are no UTF-8 came as surrogates and become "?"."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def reason_name(reason: ErrorReason.ValueType) -> str:
    """Returns the reason without its enum prefix; a number this version does not know as REASON_<number>."""
    try:
        return ErrorReason.Name(reason).removeprefix(_PREFIX)
    except ValueError:
        return f"REASON_{reason}"


def from_detail(detail: error_pb2.ErrorDetail) -> HeimdallError:
    """Returns the exception for a failure that came inside a message.

    A reason that this version does not know is kept as it is, with its code.
    """
    delay = detail.retry_delay.ToTimedelta().total_seconds() if detail.HasField("retry_delay") else None
    return HeimdallError(
        detail.reason or ErrorReason.ERROR_REASON_INTERNAL,
        detail.message,
        metadata=detail.metadata,
        retry_delay_s=delay,
        code=_CODES.get(detail.code, grpc.StatusCode.UNKNOWN),
    )


def from_rpc_error(error: grpc.aio.AioRpcError, peer: str) -> HeimdallError:
    """Returns what a failed call means.

    Args:
        error: The failure as gRPC raised it.
        peer: Name of the service that was called, for failures that carry none of our reasons.

    Returns:
        The failure that the peer sent, else one by the call's code.
    """
    status = _rich_status(error)
    violations: list[FieldViolation] = []
    info = error_details_pb2.ErrorInfo()
    delay_s: float | None = None
    if status is not None:
        for detail in status.details:
            bad, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
            if detail.Unpack(bad):
                violations += [FieldViolation(v.field, v.description) for v in bad.field_violations]
            elif detail.Unpack(retry):
                delay_s = retry.retry_delay.ToTimedelta().total_seconds()
            else:
                detail.Unpack(info)
    text = error.details() or "no details"
    if info.domain == DOMAIN and f"{_PREFIX}{info.reason}" in ErrorReason.keys():  # noqa: SIM118 (not a dict)
        return HeimdallError(
            ErrorReason.Value(f"{_PREFIX}{info.reason}"),
            text,
            metadata=info.metadata,
            violations=violations,
            retry_delay_s=delay_s,
        )
    reason = {
        grpc.StatusCode.UNAVAILABLE: ErrorReason.ERROR_REASON_SERVICE_UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED: ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED: ErrorReason.ERROR_REASON_CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED: ErrorReason.ERROR_REASON_OVERLOADED,
    }.get(error.code(), ErrorReason.ERROR_REASON_INTERNAL)
    if info.domain == DOMAIN:
        # Of a newer version: its name, its facts and whether to repeat are known, its number is not.
        return HeimdallError(
            reason,
            f"{info.reason}: {text}",
            metadata={**info.metadata, "reason": info.reason},
            violations=violations,
            retry_delay_s=delay_s,
        )
    return HeimdallError(
        reason, f"{peer}: {error.code().name}: {text}", metadata={"peer": peer, "code": error.code().name}
    )


def _rich_status(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    try:
        return rpc_status.from_call(error)  # type: ignore[arg-type]  # the aio error has all that from_call reads
    except ValueError:
        # The details contradict the code, as when something between the peers replaced it: the code is what holds.
        return None


def _pack(
    message: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo,
) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
