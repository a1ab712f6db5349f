"""The states of an acquisition on their way to storage, when answers are lost."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import structlog

from coordinator_svc.peers import Archive
from coordinator_svc.record import StoredRecord
from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.measurement_pb2 import Measurement
from heimdall.runtime.channel import open_channel
from heimdall.storage.v1 import storage_pb2_grpc
from tests.unit.coordinator.scripted import ScriptedStorage, failure, good, scripted_peers


@pytest.fixture
async def storage_and_archive() -> AsyncIterator[tuple[ScriptedStorage, Archive]]:
    async with (
        scripted_peers({"a": [good]}) as peers,
        open_channel("storage", peers.settings.mesh.storage_target) as channel,
    ):
        yield peers.storage, Archive(storage_pb2_grpc.StorageServiceStub(channel))


def _state(state: Acquisition.State.ValueType, revision: int) -> Acquisition:
    return Acquisition(acquisition_id="job", state=state, revision=revision)


async def test_a_terminal_state_whose_answer_was_lost_is_not_written_twice(
    storage_and_archive: tuple[ScriptedStorage, Archive],
) -> None:
    storage, archive = storage_and_archive
    storage.put_failures = [failure(ErrorReason.ERROR_REASON_INTERNAL)]
    await StoredRecord(archive, 0).save_terminal(_state(Acquisition.STATE_SUCCEEDED, 1))
    assert [(put.state, put.revision) for put in storage.puts] == [(Acquisition.STATE_SUCCEEDED, 1)]


async def test_a_terminal_state_goes_on_top_of_a_state_whose_answer_was_lost(
    storage_and_archive: tuple[ScriptedStorage, Archive],
) -> None:
    storage, archive = storage_and_archive
    record = StoredRecord(archive, 0)
    storage.put_failures = [failure(ErrorReason.ERROR_REASON_INTERNAL)]
    await record.save(_state(Acquisition.STATE_CAPTURING, 5))
    await record.save_terminal(_state(Acquisition.STATE_FAILED, 3))
    assert [(put.state, put.revision) for put in storage.puts] == [
        (Acquisition.STATE_CAPTURING, 5),
        (Acquisition.STATE_FAILED, 6),
    ]


async def test_a_terminal_state_that_is_refused_for_good_is_not_tried_again(
    storage_and_archive: tuple[ScriptedStorage, Archive],
) -> None:
    storage, archive = storage_and_archive
    storage.put_failures = [failure(ErrorReason.ERROR_REASON_INVALID_FIELD)]
    await StoredRecord(archive, 0).save_terminal(_state(Acquisition.STATE_SUCCEEDED, 1))
    assert len(storage.puts) == 1


async def test_what_waits_for_the_database_is_stored_and_told(
    storage_and_archive: tuple[ScriptedStorage, Archive],
) -> None:
    storage, archive = storage_and_archive
    storage.rows_wait = True
    with structlog.testing.capture_logs() as logs:
        await StoredRecord(archive, 0).save_terminal(_state(Acquisition.STATE_SUCCEEDED, 1))
        await archive.write_measurements([Measurement(acquisition_id="job", receiver_id=name) for name in ("a", "a")])
    assert len(storage.puts) == 1
    waits = [line for line in logs if line["event"].endswith(("_waits", "_wait"))]
    told = [(line["event"], line["acquisition_id"], line.get("state"), line.get("count")) for line in waits]
    assert told == [("acquisition_waits", "job", "SUCCEEDED", None), ("measurements_wait", "job", None, 2)]
