"""Acceptance: once for each request, within the limits, and nothing left behind that nobody runs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid

import pytest

from coordinator_svc.registry import REQUEST_NAMESPACE
from coordinator_svc.service import FULL_NAME
from heimdall.client import acquisition_spec, check_health
from heimdall.common.v1.acquisition_pb2 import Acquisition, AcquisitionSpec, ReceiverOutcome
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError, reason_name
from tests.unit.coordinator.scripted import Peers, endless, failure, good, scripted_peers

STATE = Acquisition.State.Name
UNAVAILABLE = ErrorReason.ERROR_REASON_SERVICE_UNAVAILABLE


def spec(*receiver_ids: str, duration_s: float = 0.2) -> AcquisitionSpec:
    return acquisition_spec(7.1e6, duration_s, receiver_ids, max_wait_s=2)


async def ended(peers: Peers, acquisition_id: str) -> Acquisition:
    async with asyncio.timeout(20):
        return [snapshot async for snapshot in peers.client.watch_acquisition(acquisition_id)][-1]


async def refused(peers: Peers, wanted: AcquisitionSpec, request_id: str = "") -> HeimdallError:
    with pytest.raises(HeimdallError) as caught:
        await peers.client.start_acquisition(wanted, request_id)
    return caught.value


async def test_the_id_follows_from_the_request_id() -> None:
    async with scripted_peers({"a": [good]}) as peers:
        started = await peers.client.start_acquisition(spec("a"), "my request")
        # By the definition of UUIDv5 in the namespace that the contract fixes.
        namespace = uuid.UUID("6f0e2b1c-2f6b-5c39-9d0a-5b8f6a4e7d13")
        assert namespace == REQUEST_NAMESPACE
        assert started.acquisition_id == str(uuid.uuid5(namespace, "my request"))
        assert started.request_id == "my request"
        assert peers.storage.acquisitions[started.acquisition_id].state >= Acquisition.STATE_ACCEPTED
        other = await peers.client.start_acquisition(spec("a"))
        assert uuid.UUID(other.acquisition_id).version == 4


async def test_concurrent_repeats_start_one_acquisition() -> None:
    async with scripted_peers({"a": [good]}) as peers:
        starts = [peers.client.start_acquisition(spec("a"), "twice") for _ in range(20)]
        answers = await asyncio.gather(*starts)
        await ended(peers, answers[0].acquisition_id)
        assert len({answer.acquisition_id for answer in answers}) == 1
        assert len(peers.fetcher.openings) == 1


async def test_concurrent_requests_of_one_id_with_two_specs_start_one() -> None:
    async with scripted_peers({"a": [good]}) as peers:
        answers = await asyncio.gather(
            peers.client.start_acquisition(spec("a"), "r"),
            peers.client.start_acquisition(spec("a", duration_s=0.3), "r"),
            return_exceptions=True,
        )
        errors = [answer for answer in answers if isinstance(answer, HeimdallError)]
        assert [reason_name(error.reason) for error in errors] == ["ACQUISITION_EXISTS"]
        assert len(peers.storage.acquisitions) == 1


async def test_a_repeat_is_answered_though_its_receivers_are_gone() -> None:
    async with scripted_peers({"a": [good]}) as peers:
        started = await peers.client.start_acquisition(spec("a"), "r")
        final = await ended(peers, started.acquisition_id)
        peers.fetcher.scripts["b"] = peers.fetcher.scripts.pop("a")
        await peers.restart_coordinator()
        assert await peers.client.start_acquisition(spec("a"), "r") == final
        assert reason_name((await refused(peers, spec("a"), "s")).reason) == "INVALID_FIELD"


async def test_a_lost_answer_of_storage_is_made_up_for_by_the_repeat() -> None:
    async with scripted_peers({"a": [good]}) as peers:
        peers.storage.put_failures = [failure(ErrorReason.ERROR_REASON_INTERNAL)]
        assert reason_name((await refused(peers, spec("a"), "r")).reason) == "INTERNAL"
        again = await peers.client.start_acquisition(spec("a"), "r")
        final = await ended(peers, again.acquisition_id)
        assert final.state in (Acquisition.STATE_SUCCEEDED, Acquisition.STATE_FAILED)
        assert peers.storage.acquisitions[final.acquisition_id] == final


async def test_what_was_stored_and_never_started_is_settled() -> None:
    async with scripted_peers({"a": [good]}) as peers:
        peers.storage.put_failures = [failure(ErrorReason.ERROR_REASON_INTERNAL)]
        await refused(peers, spec("a"))
        (acquisition_id,) = peers.storage.acquisitions
        async with asyncio.timeout(5):
            while peers.storage.acquisitions[acquisition_id].state != Acquisition.STATE_FAILED:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_every_bad_field_is_named_at_once_and_nothing_is_stored() -> None:
    async with scripted_peers({"a": [good]}) as peers:
        wanted = acquisition_spec(float("nan"), 0.0, ["a", "nowhere", "a"], min_receivers=4)
        error = await refused(peers, wanted)
        assert reason_name(error.reason) == "INVALID_FIELD"
        assert {violation.field for violation in error.violations} == {
            "spec.tuning.center_frequency_hz",
            "spec.duration",
            "spec.receiver_ids[1]",
            "spec.receiver_ids[2]",
            "spec.min_receivers",
        }
        assert peers.storage.acquisitions == {}


async def test_a_receiver_of_a_fetcher_that_is_away_is_unavailable_not_unknown() -> None:
    async with scripted_peers({"a": [good]}) as peers:
        await peers.stop("fetcher")
        error = await refused(peers, spec("a"))
        assert error.reason == UNAVAILABLE
        answer = await peers.client.list_receivers()
        assert list(answer.unreachable_fetchers) == list(peers.settings.mesh.fetcher_targets)


async def test_only_so_many_run_at_once() -> None:
    async with scripted_peers({"a": [endless]}, max_acquisition_count=2) as peers:
        first = await peers.client.start_acquisition(spec("a", duration_s=60), "first")
        await peers.client.start_acquisition(spec("a", duration_s=60))
        error = await refused(peers, spec("a", duration_s=60))
        assert reason_name(error.reason) == "OVERLOADED"
        assert error.retry_delay_s == 1
        assert (await peers.client.start_acquisition(first.spec, "first")).acquisition_id == first.acquisition_id
        await peers.client.cancel_acquisition(first.acquisition_id)
        async with asyncio.timeout(5):
            while True:
                try:
                    await peers.client.start_acquisition(spec("a", duration_s=60))
                    break
                except HeimdallError:
                    await asyncio.sleep(0.01)


@pytest.mark.parametrize("reason", [ErrorReason.ERROR_REASON_UNEXPECTED_MESSAGE, ErrorReason.ERROR_REASON_INTERNAL])
async def test_one_recording_that_can_not_be_closed_does_not_keep_the_coordinator_from_serving(
    reason: ErrorReason.ValueType,
) -> None:
    async with scripted_peers({"a": [endless]}) as peers:
        started = await peers.client.start_acquisition(spec("a", duration_s=60), "r")
        async with asyncio.timeout(10):
            async for snapshot in peers.client.watch_acquisition(started.acquisition_id):
                if snapshot.outcomes[0].stored_sample_count:
                    break
        crashed = Acquisition()
        crashed.CopyFrom(peers.storage.acquisitions[started.acquisition_id])
        await peers.stop("coordinator")
        peers.storage.acquisitions[crashed.acquisition_id] = crashed
        peers.storage.kept["a"].finish = None
        peers.storage.refusal = failure(reason)
        await peers.restart_coordinator()
        async with asyncio.timeout(5):
            settled = await peers.client.start_acquisition(spec("a", duration_s=60), "r")
        assert STATE(settled.state) == "STATE_PARTIALLY_SUCCEEDED"
        named = [reason_name(problem.reason) for problem in settled.outcomes[0].problems]
        assert named[:2] == ["COORDINATOR_RESTARTED", reason_name(reason)]


async def test_unfinished_acquisitions_are_settled_before_the_coordinator_serves() -> None:
    async with scripted_peers({"a": [endless], "b": [good]}) as peers:
        started = await peers.client.start_acquisition(spec("a", "b", duration_s=60), "r")
        async with asyncio.timeout(10):
            async for snapshot in peers.client.watch_acquisition(started.acquisition_id):
                if all(outcome.stored_sample_count for outcome in snapshot.outcomes):
                    break
        crashed = Acquisition()
        crashed.CopyFrom(peers.storage.acquisitions[started.acquisition_id])
        kept = {name: (list(one.blocks), list(one.gaps)) for name, one in peers.storage.kept.items()}
        await peers.stop("coordinator")
        # As a crash would have left it: capturing, and the recordings without an end.
        peers.storage.acquisitions[crashed.acquisition_id] = crashed
        for name, one in peers.storage.kept.items():
            one.finish = None
            one.blocks, one.gaps = kept[name]
        held = len(kept["a"][0])
        assert [opening.resumed for opening in peers.storage.openings] == [False, False]
        await peers.restart_coordinator()
        settled = await peers.client.start_acquisition(spec("a", "b", duration_s=60), "r")
        assert STATE(settled.state) == "STATE_PARTIALLY_SUCCEEDED"
        assert reason_name(settled.error.reason) == "COORDINATOR_RESTARTED"
        assert settled.revision > crashed.revision
        outcome = settled.outcomes[0]
        assert outcome.state == ReceiverOutcome.STATE_PARTIALLY_SUCCEEDED
        assert reason_name(outcome.problems[0].reason) == "COORDINATOR_RESTARTED"
        assert outcome.stored_sample_count == 100 * held
        assert outcome.expected_sample_count == 60_000
        assert outcome.recording.state == Recording.STATE_STORED
        assert not outcome.recording.complete
        assert peers.storage.kept["a"].epochs == sorted(set(peers.storage.kept["a"].epochs))
        assert [opening.resumed for opening in peers.storage.openings[2:]] == [True, True]


async def test_the_coordinator_waits_for_storage_before_it_serves() -> None:
    async with scripted_peers({"a": [good]}) as peers:
        assert await check_health(peers.address, FULL_NAME) == "SERVING"
        await peers.stop("storage")
        await peers.restart_coordinator()
        assert await check_health(peers.address, FULL_NAME) == "NOT_SERVING"
        assert await check_health(peers.address) == "SERVING"


async def test_a_stopping_coordinator_keeps_what_was_received() -> None:
    async with scripted_peers({"a": [endless]}) as peers:
        started = await peers.client.start_acquisition(spec("a", duration_s=60))
        async with asyncio.timeout(10):
            async for snapshot in peers.client.watch_acquisition(started.acquisition_id):
                if snapshot.outcomes[0].stored_sample_count:
                    break
        await peers.stop("coordinator")
        stored = peers.storage.acquisitions[started.acquisition_id]
        assert STATE(stored.state) == "STATE_CANCELLED"
        assert reason_name(stored.error.reason) == "DRAINING"
        assert stored.outcomes[0].recording.state == Recording.STATE_STORED


async def test_a_running_acquisition_is_seen_as_it_is_now() -> None:
    async with scripted_peers({"a": [endless]}) as peers:
        started = await peers.client.start_acquisition(spec("a", duration_s=60))
        async with asyncio.timeout(10):
            async for snapshot in peers.client.watch_acquisition(started.acquisition_id):
                if snapshot.outcomes[0].stored_sample_count:
                    break
        now = await peers.client.get_acquisition(started.acquisition_id)
        assert now.outcomes[0].stored_sample_count == 100
        listed = [one async for one in peers.client.list_acquisitions([Acquisition.STATE_CAPTURING])]
        assert [one.outcomes[0].stored_sample_count for one in listed] == [100]
        assert [one async for one in peers.client.list_acquisitions([Acquisition.STATE_PREPARING])] == []


async def test_what_does_not_exist_is_not_found() -> None:
    async with scripted_peers({"a": [good]}) as peers:
        client = peers.client
        for call in (client.get_acquisition("nope"), client.cancel_acquisition("nope"), ended(peers, "nope")):
            with pytest.raises(HeimdallError) as caught:
                await call
            assert reason_name(caught.value.reason) == "ACQUISITION_NOT_FOUND"


async def test_limits_are_those_of_the_settings() -> None:
    async with scripted_peers({"a": [good]}, max_duration_s=30, max_receiver_count=3) as peers:
        limits = await peers.client.get_limits()
        assert limits.max_duration.seconds == 30
        assert limits.max_wait.seconds == 60
        assert limits.max_receiver_count == 3
        assert limits.max_acquisition_count == 64
        assert (limits.min_frequency_hz, limits.max_frequency_hz) == (1e3, 6e9)
        assert limits.version


@pytest.mark.parametrize("module", ["heimdall.client", "coordinator_svc.service"])
def test_nothing_heavy_is_imported(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'numpy', 'scipy', 'aiohttp'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"
