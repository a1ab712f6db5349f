"""Storage as a process that the cases of this folder write to, as the coordinator does, and hold to its word."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import grpc

from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError, from_rpc_error
from heimdall.storage.v1 import storage_pb2 as pb
from tests.integration.storage.process import StorageProcess
from tests.integration.storage.support import (
    BLOCK,
    Writer,
    block,
    end_at,
    opening,
    read,
    sample_bytes,
    samples_of,
    segment,
)


async def put_acquisition(storage: StorageProcess, acquisition_id: str) -> HeimdallError | None:
    """Writes a row; returns why it could not be written."""
    acquisition = Acquisition(acquisition_id=acquisition_id, state=Acquisition.STATE_ACCEPTED, revision=1)
    acquisition.create_time.GetCurrentTime()
    try:
        await storage.stub.PutAcquisition(pb.PutAcquisitionRequest(acquisition=acquisition), timeout=10)
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error, "storage")
    return None


async def refusal(storage: StorageProcess, message: pb.WriteRecordingRequest.Open) -> HeimdallError:
    """Returns why a recording can not be written, from its opening or its next block on."""
    async with Writer(storage.stub) as writer:
        try:
            first = await writer.open(message)
        except HeimdallError as error:
            return error
        # As long as there is a place left for it in what is on disk already.
        await writer.send(block(first))
        return await writer.failure()


async def write_until_refused(writer: Writer, first: int) -> HeimdallError:
    """Writes block by block, each acknowledged before the next; returns why one is refused."""
    for index in itertools.count(first, BLOCK):
        try:
            await writer.send(block(index))
            await writer.acknowledged_up_to(index + BLOCK)
        except HeimdallError as error:
            return error
    raise AssertionError("counting has ended")


async def finish_from(storage: StorageProcess, resumed_from: int, block_count: int, epoch: int = 9) -> None:
    """Resumes the recording where storage wants it, which must not be before what it acknowledged; checks it whole."""
    async with Writer(storage.stub) as writer:
        first = await writer.open(opening(epoch=epoch))
        assert resumed_from <= first <= block_count * BLOCK
        await writer.send(segment(), *(block(index) for index in range(first, block_count * BLOCK, BLOCK)))
        recording = await writer.finish(end_at(block_count * BLOCK))
    expected = sample_bytes(0, block_count * BLOCK)
    assert (recording.state, recording.complete) == (Recording.STATE_STORED, True)
    assert recording.data_sha512 == hashlib.sha512(expected).hexdigest()
    assert Path(recording.location).with_suffix(".sigmf-data").read_bytes() == expected
    assert samples_of(await read(storage.stub)) == expected


def no_crash(storage: StorageProcess) -> None:
    assert "Traceback" not in storage.log
    assert "call_crashed" not in storage.log


async def list_acquisitions(storage: StorageProcess) -> HeimdallError | None:
    """Reads rows; returns why they can not be read."""
    try:
        await storage.stub.ListAcquisitions(pb.ListAcquisitionsRequest(page_size=1000), timeout=10)
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error, "storage")
    return None
