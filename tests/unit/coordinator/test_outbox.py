"""Events wait until they are acknowledged, and are sent again from where storage goes on."""

from __future__ import annotations

import asyncio

import pytest

from coordinator_svc.outbox import Outbox
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import Block, Gap, IqEvent, Segment, Status
from heimdall.errors import HeimdallError


def block(first: int, count: int = 100) -> IqEvent:
    return IqEvent(block=Block(first_sample_index=first, sample_count=count, samples=bytes(4 * count)))


def gap(first: int, count: int = 50) -> IqEvent:
    return IqEvent(gap=Gap(first_lost_index=first, lost_sample_count=count))


SEGMENT = IqEvent(segment=Segment(receiver_id="torino", sample_rate_hz=12000))
STATUS = IqEvent(status=Status(receiver_level_dbm=-70))


async def drained(outbox: Outbox) -> list[IqEvent]:
    outbox.close()
    return [event async for event in outbox.unsent()]


async def filled() -> Outbox:
    outbox = Outbox(1 << 20)
    for event in (SEGMENT, block(0), gap(100), STATUS, block(150)):
        outbox.put(event)
    return outbox


async def test_events_leave_in_order_and_once() -> None:
    outbox = await filled()
    assert await drained(outbox) == [SEGMENT, block(0), gap(100), STATUS, block(150)]
    assert [event async for event in outbox.unsent()] == []
    assert outbox.end_index == 250


async def test_what_is_acknowledged_is_not_sent_again() -> None:
    outbox = await filled()
    await drained(outbox)
    outbox.acknowledge(150)
    assert outbox.acknowledged_sample_count == 100
    outbox.rewind(150)
    # The status may not have been made durable: nothing after it was acknowledged.
    assert await drained(outbox) == [STATUS, block(150)]
    outbox.acknowledge(250)
    assert outbox.acknowledged_sample_count == 200
    outbox.rewind(250)
    assert await drained(outbox) == []


async def test_a_resume_goes_on_where_storage_got_to() -> None:
    outbox = await filled()
    await drained(outbox)
    outbox.rewind(0)
    assert (await drained(outbox))[:2] == [SEGMENT, block(0)]
    outbox.rewind(100)
    assert await drained(outbox) == [gap(100), STATUS, block(150)]


@pytest.mark.parametrize("wanted", [0, 120, 300])
async def test_storage_can_not_go_on_where_nothing_is_held(wanted: int) -> None:
    outbox = await filled()
    await drained(outbox)
    outbox.acknowledge(150)
    with pytest.raises(HeimdallError) as caught:
        outbox.rewind(wanted)
    assert caught.value.reason == ErrorReason.ERROR_REASON_INDEX_MISMATCH


async def test_there_is_no_room_while_too_much_is_unacknowledged() -> None:
    outbox = Outbox(1000)
    for first in (0, 100, 200):
        await asyncio.wait_for(outbox.wait_for_room(), 1)
        outbox.put(block(first))
    waiting = asyncio.create_task(outbox.wait_for_room())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    outbox.acknowledge(100)
    await asyncio.wait_for(waiting, 1)


async def test_an_abandoned_outbox_holds_nobody_up_and_keeps_nothing() -> None:
    outbox = Outbox(100)
    outbox.put(block(0))
    waiting = asyncio.create_task(outbox.wait_for_room())
    outbox.abandon()
    await asyncio.wait_for(waiting, 1)
    for first in (100, 200):
        await asyncio.wait_for(outbox.wait_for_room(), 1)
        outbox.put(block(first))
    assert outbox.end_index == 300
    assert await drained(outbox) == []
