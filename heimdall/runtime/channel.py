"""Opens channels between services: options, service config, and a deadline on every unary call."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

import grpc

from heimdall.runtime import deadline
from heimdall.runtime.options import CHANNEL_OPTIONS


def service_config(service: str) -> str:
    """Returns the service config JSON that is shipped beside the stubs of a service.

    Args:
        service: Package of the service: fetcher, dsp, storage or coordinator.
    """
    folder = resources.files(f"heimdall.{service}.v1")
    return folder.joinpath(f"{service}_service_config.json").read_text()


def open_channel(service: str, target: str) -> grpc.aio.Channel:
    """Opens a channel to a service.

    Args:
        service: Package of the service: fetcher, dsp, storage or coordinator.
        target: gRPC target, such as 127.0.0.1:50052 or dns:///fetcher:50052.

    Returns:
        A channel with the options, deadlines, retry policy and health-checked balancing of this mesh. The caller
        closes it.
    """
    config = json.loads(service_config(service))
    timeouts_s = dict[str, float]()
    for entry in config["methodConfig"]:
        # The C core ends such calls up to 1 s early and does not tell the server (grpc/grpc#34547): set here instead.
        if timeout := entry.pop("timeout", None):
            timeouts_s |= {
                f"/{name['service']}/{name['method']}": float(timeout.removesuffix("s")) for name in entry["name"]
            }
    return grpc.aio.insecure_channel(
        target,
        options=[*CHANNEL_OPTIONS, ("grpc.service_config", json.dumps(config, separators=(",", ":")))],
        interceptors=[_Deadline(timeouts_s)],
    )


class _Deadline(grpc.aio.UnaryUnaryClientInterceptor):
    """Gives every unary call a deadline, and none more time than the call on whose behalf it is made still has."""

    def __init__(self, timeouts_s: Mapping[str, float]) -> None:
        self._timeouts_s = timeouts_s

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Any],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        details = client_call_details
        method = details.method.decode() if isinstance(details.method, bytes) else details.method
        own_s = self._timeouts_s.get(method) if details.timeout is None else details.timeout
        limits_s = [limit_s for limit_s in (own_s, deadline.remaining_s()) if limit_s is not None]
        bounded = grpc.aio.ClientCallDetails(
            details.method, min(limits_s, default=None), details.metadata, details.credentials, details.wait_for_ready
        )
        return await continuation(bounded, request)
