"""Failures as messages, statuses and exceptions; their way over a real call is tested with the runtime."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

from heimdall import errors
from heimdall.common.v1.error_pb2 import ErrorDetail, ErrorReason
from heimdall.errors import FieldViolation, HeimdallError, InvalidFieldsError


def test_a_failure_inside_a_message_carries_all_facts() -> None:
    failure = HeimdallError(
        ErrorReason.ERROR_REASON_RECEIVER_BUSY, "torino has no free slot", metadata={"slots": 1}, retry_delay_s=2.5
    )
    detail = failure.to_detail()
    assert detail.code == code_pb2.RESOURCE_EXHAUSTED
    assert detail.reason == ErrorReason.ERROR_REASON_RECEIVER_BUSY
    assert detail.message == "torino has no free slot"
    assert dict(detail.metadata) == {"slots": "1"}
    assert (detail.retry_delay.seconds, detail.retry_delay.nanos) == (2, 500_000_000)


def test_the_retry_delay_is_the_reasons_own_unless_given() -> None:
    assert HeimdallError(ErrorReason.ERROR_REASON_DRAINING, "").retry_delay_s == 1
    assert HeimdallError(ErrorReason.ERROR_REASON_DRAINING, "", retry_delay_s=9).retry_delay_s == 9
    assert not HeimdallError(ErrorReason.ERROR_REASON_INVALID_FIELD, "").to_detail().HasField("retry_delay")


def test_a_failure_comes_back_from_a_message_as_it_went_in() -> None:
    sent = HeimdallError(ErrorReason.ERROR_REASON_SPOOL_FULL, "no room", metadata={"free": 0}, retry_delay_s=3)
    back = errors.from_detail(sent.to_detail())
    assert (back.reason, back.message, back.metadata, back.retry_delay_s) == (
        ErrorReason.ERROR_REASON_SPOOL_FULL,
        "no room",
        {"free": "0"},
        3,
    )


def test_an_unknown_reason_in_a_message_is_passed_on_as_it_came() -> None:
    detail = ErrorDetail(code=14, message="from the future", metadata={"year": "2040"})
    detail.reason = ErrorReason.ValueType(4711)
    detail.retry_delay.seconds = 7
    back = errors.from_detail(detail)
    assert (back.code, back.reason_name) == (grpc.StatusCode.UNAVAILABLE, "REASON_4711")
    assert back.to_detail() == detail


def test_a_detail_without_a_reason_is_internal() -> None:
    back = errors.from_detail(ErrorDetail(code=14, message="broken"))
    assert (back.code, back.reason) == (grpc.StatusCode.INTERNAL, ErrorReason.ERROR_REASON_INTERNAL)


def test_an_unknown_reason_of_a_call_is_named_with_its_facts() -> None:
    info = error_details_pb2.ErrorInfo(reason="FROM_THE_FUTURE", domain="heimdall", metadata={"year": "2040"})
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.seconds = 7
    status = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="later")
    for detail in (info, retry):
        status.details.add().Pack(detail)
    trailers = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    failure = errors.from_rpc_error(_rpc_error(grpc.StatusCode.UNAVAILABLE, "later", trailers), "fetcher")
    assert failure.reason == ErrorReason.ERROR_REASON_SERVICE_UNAVAILABLE
    assert failure.message == "FROM_THE_FUTURE: later"
    assert failure.metadata == {"reason": "FROM_THE_FUTURE", "year": "2040"}
    assert failure.retry_delay_s == 7


def test_all_bad_fields_are_named_at_once() -> None:
    failure = InvalidFieldsError(
        [FieldViolation("spec.duration", "must be above 0; got -1 s"), FieldViolation("spec.receiver_ids", "is empty")]
    )
    assert failure.code == grpc.StatusCode.INVALID_ARGUMENT
    assert failure.message == "spec.duration: must be above 0; got -1 s; spec.receiver_ids: is empty"
    assert failure.metadata == {"field_count": "2", "fields": "spec.duration,spec.receiver_ids"}


@pytest.mark.parametrize(
    ("text", "limit_bytes", "expected"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "abc…"),
        ("ééé", 6, "ééé"),
        ("éééé", 6, "é…"),  # the cut falls inside a character, which goes as a whole
        ("\ud800", 6, "?"),
    ],
)
def test_texts_are_cut_between_characters(text: str, limit_bytes: int, expected: str) -> None:
    assert errors.clip(text, limit_bytes) == expected
    assert len(errors.clip(text, limit_bytes).encode()) <= limit_bytes


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_SERVICE_UNAVAILABLE),
        (grpc.StatusCode.DEADLINE_EXCEEDED, ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED),
        (grpc.StatusCode.CANCELLED, ErrorReason.ERROR_REASON_CANCELLED),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ErrorReason.ERROR_REASON_OVERLOADED),
        (grpc.StatusCode.UNKNOWN, ErrorReason.ERROR_REASON_INTERNAL),
    ],
)
def test_a_call_that_failed_without_our_details_is_judged_by_its_code(
    code: grpc.StatusCode, reason: ErrorReason.ValueType
) -> None:
    failure = errors.from_rpc_error(_rpc_error(code, "nobody there"), "storage")
    assert failure.reason == reason
    assert failure.message == f"storage: {code.name}: nobody there"
    assert failure.metadata == {"peer": "storage", "code": code.name}


def test_details_that_contradict_the_code_are_not_believed() -> None:
    status = HeimdallError(ErrorReason.ERROR_REASON_RECEIVER_NOT_FOUND, "no such receiver").to_status()
    trailers = grpc.aio.Metadata(*((key, value) for key, value in status.trailing_metadata or ()))
    failure = errors.from_rpc_error(_rpc_error(grpc.StatusCode.UNAVAILABLE, "reset by a proxy", trailers), "fetcher")
    assert failure.reason == ErrorReason.ERROR_REASON_SERVICE_UNAVAILABLE


def _rpc_error(code: grpc.StatusCode, details: str, trailers: grpc.aio.Metadata | None = None) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers or grpc.aio.Metadata(), details)


def test_text_that_no_message_can_hold_is_told_all_the_same() -> None:
    """A header of a peer that is no UTF-8 comes as a text with surrogates, which protobuf refuses."""
    error = HeimdallError(
        ErrorReason.ERROR_REASON_UPSTREAM_UNREACHABLE, "Süd\udcff is away", metadata={"url": "http://\udcff"}
    )
    detail = error.to_detail()
    assert (detail.message, dict(detail.metadata)) == ("Süd? is away", {"url": "http://?"})
