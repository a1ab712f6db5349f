"""The acquisition as storage has it, of which this coordinator is the only writer."""

from __future__ import annotations

import asyncio

import structlog

from coordinator_svc.backoff import Backoff, is_transport_failure
from coordinator_svc.peers import Archive
from heimdall.client import TERMINAL_STATES
from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError

_log = structlog.get_logger(__name__)


class StoredRecord:
    """Stores the states of one acquisition, each on top of the one before it."""

    def __init__(self, archive: Archive, revision: int) -> None:
        """Starts from what is stored.

        Args:
            archive: Storage.
            revision: Revision that is stored; 0 if nothing is.
        """
        self._archive = archive
        self._revision = revision

    async def save(self, acquisition: Acquisition) -> None:
        """Stores a state on the way once; if that fails, a later state makes up for it."""
        try:
            await self._put(acquisition)
        except HeimdallError as error:
            _log.warning(
                "acquisition_not_stored",
                acquisition_id=acquisition.acquisition_id,
                reason=error.reason_name,
                message=error.message,
            )

    async def save_terminal(self, acquisition: Acquisition) -> None:
        """Stores the terminal state; tries until it is stored, or refused for good, which is logged."""
        backoff = Backoff()
        while True:
            try:
                await self._put(acquisition)
            except HeimdallError as error:
                conflict = error.reason == ErrorReason.ERROR_REASON_REVISION_CONFLICT
                retried = conflict or is_transport_failure(error) or error.retry_delay_s is not None
                (_log.warning if retried else _log.error)(
                    "acquisition_not_stored",
                    acquisition_id=acquisition.acquisition_id,
                    reason=error.reason_name,
                    message=error.message,
                    retried=retried,
                )
                if not retried or (conflict and await self._is_settled(acquisition)):
                    return
                await asyncio.sleep(max(backoff.next_delay_s(), error.retry_delay_s or 0.0))
            else:
                return

    async def _put(self, acquisition: Acquisition) -> None:
        await self._archive.put(acquisition, self._revision)
        self._revision = acquisition.revision

    async def _is_settled(self, acquisition: Acquisition) -> bool:
        """Learns what is stored after a write whose answer was lost; returns whether that is terminal already."""
        try:
            stored = await self._archive.get(acquisition.acquisition_id)
        except HeimdallError as error:
            _log.warning(
                "acquisition_not_read",
                acquisition_id=acquisition.acquisition_id,
                reason=error.reason_name,
                message=error.message,
            )
            return False
        self._revision = stored.revision
        acquisition.revision = max(acquisition.revision, stored.revision + 1)
        return stored.state in TERMINAL_STATES
