"""The table of failures covers the contract."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import code_pb2

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import POLICIES, reason_name


def test_every_reason_of_the_contract_has_a_policy() -> None:
    assert set(POLICIES) == set(ErrorReason.values()) - {ErrorReason.ERROR_REASON_UNSPECIFIED}


@pytest.mark.parametrize("reason", sorted(POLICIES), ids=reason_name)
def test_the_code_is_canonical_and_an_error(reason: ErrorReason.ValueType) -> None:
    code = POLICIES[reason].code
    assert code_pb2.Code.Value(code.name) == code.value[0]
    assert code not in (grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN)


@pytest.mark.parametrize("reason", sorted(POLICIES), ids=reason_name)
def test_a_retry_delay_goes_with_codes_that_a_repeat_can_change(reason: ErrorReason.ValueType) -> None:
    policy = POLICIES[reason]
    if policy.retry_delay_s is not None:
        assert 0 < policy.retry_delay_s <= 86_400
        assert policy.code in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            grpc.StatusCode.ABORTED,
        )


def test_reason_names_suit_error_info() -> None:
    # google.rpc.ErrorInfo.reason: at most 63 characters of [A-Z][A-Z0-9_]+[A-Z0-9].
    for reason in POLICIES:
        name = reason_name(reason)
        assert 2 < len(name) <= 63
        assert name.replace("_", "A").isalnum()
        assert name == name.upper()
