"""Opens channels between services: options, service config, and the caller's deadline on every unary call."""

from __future__ import annotations

import json
from collections.abc import Callable
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
        A channel with the options, retry policy and health-checked balancing of this mesh. The caller closes it.
    """
    config = json.dumps(json.loads(service_config(service)), separators=(",", ":"))
    return grpc.aio.insecure_channel(
        target,
        options=[*CHANNEL_OPTIONS, ("grpc.service_config", config)],
        interceptors=[_PassDeadline()],
    )


class _PassDeadline(grpc.aio.UnaryUnaryClientInterceptor):
    """Gives a unary call no more time than the call on whose behalf it is made still has."""

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Any],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        left_s = deadline.remaining_s()
        own_s = client_call_details.timeout
        if left_s is not None and (own_s is None or left_s < own_s):
            details = client_call_details
            client_call_details = grpc.aio.ClientCallDetails(
                details.method, left_s, details.metadata, details.credentials, details.wait_for_ready
            )
        return await continuation(client_call_details, request)
