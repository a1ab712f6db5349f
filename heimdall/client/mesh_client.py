"""The client of a whole mesh."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from heimdall.client.calls import IDLE_TIMEOUT_S, answer_of, check_health, next_of
from heimdall.client.reads import StorageReads
from heimdall.common.v1.acquisition_pb2 import Acquisition, AcquisitionSpec
from heimdall.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc
from heimdall.runtime.channel import open_channel
from heimdall.storage.v1 import storage_pb2_grpc

if TYPE_CHECKING:
    from heimdall.coordinator.v1.coordinator_pb2_grpc import CoordinatorServiceAsyncStub
    from heimdall.storage.v1.storage_pb2_grpc import StorageServiceAsyncStub

_DEADLINE_MARGIN_S: Final = 15.0
"""How much longer than until its own deadline an acquisition is watched."""


class HeimdallClient(StorageReads):
    """Talks to one mesh. Used as an async context manager; safe to share between tasks of one event loop.

    Every method raises HeimdallError with the reason that the service gave, or SERVICE_UNAVAILABLE if it is away.
    Iterators that are left early should be closed with contextlib.aclosing, which ends the call at once.

    Example:
        async with HeimdallClient("127.0.0.1:50051", "127.0.0.1:50054") as client:
            spec = acquisition_spec(145.5e6, 5.0, ["torino", "genova"])
            async for snapshot in client.acquire(spec):
                print(snapshot.state)
    """

    def __init__(self, coordinator_target: str, storage_target: str) -> None:
        """Names the services; connects to nothing yet.

        Args:
            coordinator_target: gRPC target of the coordinator, such as 127.0.0.1:50051.
            storage_target: gRPC target of the storage service, such as 127.0.0.1:50054.
        """
        self._coordinator_target = coordinator_target
        self._storage_target = storage_target
        self._stack = AsyncExitStack()
        self._coordinator: CoordinatorServiceAsyncStub
        self._storage: StorageServiceAsyncStub

    async def __aenter__(self) -> Self:
        coordinator = await self._stack.enter_async_context(open_channel("coordinator", self._coordinator_target))
        storage = await self._stack.enter_async_context(open_channel("storage", self._storage_target))
        self._coordinator = coordinator_pb2_grpc.CoordinatorServiceStub(coordinator)
        self._storage = storage_pb2_grpc.StorageServiceStub(storage)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def start_acquisition(self, spec: AcquisitionSpec, request_id: str = "") -> Acquisition:
        """Starts an acquisition, which then runs by itself.

        Args:
            spec: What to acquire.
            request_id: The caller's own id of this request, best a UUID: a repeat returns the first acquisition.

        Returns:
            The acquisition, ACCEPTED or further.

        Raises:
            HeimdallError: INVALID_FIELD with every bad field, FREQUENCY_OUT_OF_RANGE, ACQUISITION_EXISTS if request_id
                was used with another spec, OVERLOADED, DRAINING.
        """
        request = coordinator_pb2.StartAcquisitionRequest(spec=spec, request_id=request_id)
        return (await answer_of(self._coordinator.StartAcquisition(request), "coordinator")).acquisition

    async def acquire(self, spec: AcquisitionSpec, request_id: str = "") -> AsyncGenerator[Acquisition, None]:
        """Starts an acquisition and watches it to its end. Leaving the iterator early does not cancel it.

        Args:
            spec: What to acquire.
            request_id: As for start_acquisition.

        Yields:
            Snapshots with growing revision, the terminal one last.

        Raises:
            HeimdallError: As start_acquisition and watch_acquisition.
        """
        started = await self.start_acquisition(spec, request_id)
        async with aclosing(self.watch_acquisition(started.acquisition_id)) as snapshots:
            async for snapshot in snapshots:
                yield snapshot

    async def watch_acquisition(self, acquisition_id: str) -> AsyncGenerator[Acquisition, None]:
        """Watches an acquisition to its end.

        Args:
            acquisition_id: The acquisition.

        Yields:
            The current snapshot, then changes of state at once and progress at most five times a second, each with a
            greater revision; the terminal one last. A slow caller gets the newest only.

        Raises:
            HeimdallError: ACQUISITION_NOT_FOUND; DEADLINE_EXCEEDED if the acquisition does not end in its time.
        """
        request = coordinator_pb2.WatchAcquisitionRequest(acquisition_id=acquisition_id)
        call = self._coordinator.WatchAcquisition(request)
        timeout_s = IDLE_TIMEOUT_S
        try:
            while (answer := await next_of(call, "coordinator", timeout_s)) is not None:
                yield answer.acquisition
                acquisition = answer.acquisition
                # By the coordinator's times alone: the clock of this host may differ.
                left_ns = acquisition.deadline_time.ToNanoseconds() - acquisition.update_time.ToNanoseconds()
                timeout_s = max(0.0, left_ns / 1e9) + _DEADLINE_MARGIN_S
        finally:
            call.cancel()

    async def get_acquisition(self, acquisition_id: str) -> Acquisition:
        """Returns one acquisition as it is now.

        Raises:
            HeimdallError: ACQUISITION_NOT_FOUND.
        """
        request = coordinator_pb2.GetAcquisitionRequest(acquisition_id=acquisition_id)
        return (await answer_of(self._coordinator.GetAcquisition(request), "coordinator")).acquisition

    async def list_acquisitions(
        self, states: Sequence[Acquisition.State.ValueType] = (), *, page_size: int = 100
    ) -> AsyncGenerator[Acquisition, None]:
        """Lists acquisitions, page by page.

        Args:
            states: Only these states; empty for all.
            page_size: Acquisitions that are fetched at a time, 1 to 1000.

        Yields:
            Acquisitions, newest first.
        """
        request = coordinator_pb2.ListAcquisitionsRequest(page_size=page_size, states=states)
        while True:
            page = await answer_of(self._coordinator.ListAcquisitions(request), "coordinator")
            for acquisition in page.acquisitions:
                yield acquisition
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def cancel_acquisition(self, acquisition_id: str, *, discard: bool = False) -> Acquisition:
        """Cancels an acquisition; one that has ended is returned unchanged.

        Args:
            acquisition_id: The acquisition.
            discard: Whether to delete what was received. Default: it is kept.

        Returns:
            The acquisition, terminal.

        Raises:
            HeimdallError: ACQUISITION_NOT_FOUND.
        """
        request = coordinator_pb2.CancelAcquisitionRequest(acquisition_id=acquisition_id, discard=discard)
        return (await answer_of(self._coordinator.CancelAcquisition(request), "coordinator")).acquisition

    async def list_receivers(self) -> coordinator_pb2.ListReceiversResponse:
        """Returns the receivers of every fetcher that answered, and the addresses of those that did not."""
        request = coordinator_pb2.ListReceiversRequest()
        return await answer_of(self._coordinator.ListReceivers(request), "coordinator")

    async def get_limits(self) -> coordinator_pb2.GetLimitsResponse:
        """Returns the limits that requests are held to."""
        return await answer_of(self._coordinator.GetLimits(coordinator_pb2.GetLimitsRequest()), "coordinator")

    async def health(self, service: str) -> str:
        """Asks one of this client's two services whether it can do its work.

        Args:
            service: coordinator or storage.

        Returns:
            SERVING, NOT_SERVING or UNKNOWN.

        Raises:
            ValueError: If service is another name; check_health asks any target.
            HeimdallError: SERVICE_UNAVAILABLE if nobody answers.
        """
        if service == "coordinator":
            return await check_health(self._coordinator_target, "heimdall.coordinator.v1.CoordinatorService")
        if service == "storage":
            return await check_health(self._storage_target, "heimdall.storage.v1.StorageService")
        raise ValueError(f"service is {service!r}; this client knows coordinator and storage")
