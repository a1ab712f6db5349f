"""The client policy beside each proto: accepted by gRPC, complete, and never a retry where it would lose messages."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest

from heimdall.runtime import channel
from tests.contract.contracts import SERVICES, methods, service_config

# gRPC ignores a key that it does not know, so a misspelt one would be a policy that silently does not hold.
_TOP_KEYS = {"loadBalancingConfig", "methodConfig", "retryThrottling", "healthCheckConfig"}
_METHOD_KEYS = {"name", "timeout", "retryPolicy"}
_RETRY_KEYS = {"maxAttempts", "initialBackoff", "maxBackoff", "backoffMultiplier", "retryableStatusCodes"}

# A repeat of these is not always harmless: an acquisition without a request_id would be started twice, and the second
# write of a revision is a conflict.
_NEVER_RETRIED = {"StartAcquisition", "PutAcquisition"}


async def _refusal(config: str) -> grpc.aio.AioRpcError:
    """Calls through a channel with this config to a port on which nobody listens."""
    async with grpc.aio.insecure_channel("127.0.0.1:1", options=[("grpc.service_config", config)]) as opened:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = opened.unary_unary("/heimdall.test.v1.None/None")
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await method(b"", timeout=20)
    return failure.value


@pytest.mark.parametrize("service", SERVICES)
async def test_grpc_accepts_the_config(service: str) -> None:
    refusal = await _refusal(channel.service_config(service))
    assert refusal.code() == grpc.StatusCode.UNAVAILABLE, refusal.details()


@pytest.mark.parametrize(
    ("path", "value"),
    [(("methodConfig", 0, "timeout"), "5"), (("methodConfig", 0, "retryPolicy", "maxAttempts"), 1)],
    ids=["timeout without unit", "a single attempt"],
)
async def test_grpc_refuses_a_malformed_config(path: tuple[str | int, ...], value: object) -> None:
    config: Any = service_config("fetcher")
    place = config
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    refusal = await _refusal(json.dumps(config))
    assert refusal.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert str(path[-1]) in str(refusal.details())


@pytest.mark.parametrize("service", SERVICES)
def test_the_shipped_copy_is_the_one_beside_the_proto(service: str) -> None:
    assert json.loads(channel.service_config(service)) == service_config(service)


@pytest.mark.parametrize("service", SERVICES)
def test_every_key_is_one_that_grpc_reads(service: str) -> None:
    config = service_config(service)
    assert set(config) == _TOP_KEYS
    for entry in config["methodConfig"]:
        assert set(entry) <= _METHOD_KEYS
        assert set(entry.get("retryPolicy", _RETRY_KEYS)) == _RETRY_KEYS


@pytest.mark.parametrize("service", SERVICES)
def test_every_method_has_one_policy_that_suits_it(service: str) -> None:
    config = service_config(service)
    policies: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in config["methodConfig"]:
        for name in entry["name"]:
            key = (name["service"], name["method"])
            assert key not in policies, f"{key} has two policies"
            policies[key] = entry
    known = {(full, method.name): method for full, method in methods() if full.startswith(f"heimdall.{service}.")}
    assert set(policies) == set(known)
    for key, method in known.items():
        streams = method.client_streaming or method.server_streaming
        # A stream lives as long as its acquisition; its idle timeout ends it. Everything else has a deadline.
        assert ("timeout" in policies[key]) == (not streams), key
        retried = "retryPolicy" in policies[key]
        # A retried stream of requests loses messages and reports success.
        assert retried == (not streams and method.name not in _NEVER_RETRIED), key
        if retried:
            assert policies[key]["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]


@pytest.mark.parametrize("service", SERVICES)
def test_backends_are_balanced_by_the_health_of_the_service(service: str) -> None:
    config = service_config(service)
    (full_name,) = {full for full, _ in methods() if full.startswith(f"heimdall.{service}.")}
    assert config["healthCheckConfig"] == {"serviceName": full_name}
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    assert config["retryThrottling"] == {"maxTokens": 10, "tokenRatio": 0.1}
