"""Every way in which a station says no, at the connect and in mid-stream, one station a way in one acquisition."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import pytest

from heimdall.client import acquisition_spec
from heimdall.common.v1.acquisition_pb2 import ReceiverOutcome
from simulator import Fault
from tests.e2e.faults.bench import DIAL_HZ, SAMPLE_RATE_HZ, describe, fault_bench, problems, station
from tests.e2e.faults.table import Group, fault_case
from tests.e2e.faults.truth import check_recording

TestT = TypeVar("TestT", bound=Callable[..., Awaitable[None]])

WINDOW_S = 6.0
REFUSED_AFTER_S = 3.0


@dataclass(frozen=True)
class Refusal:
    """One way of saying no."""

    name: str
    """Also the receiver_id."""
    fault: Fault
    text: str
    """What the station does, for the table."""
    reason: str
    """What the outcome says (protocol notes, section 6)."""


AT_CONNECT = (
    Refusal("unreachable", Fault(kind="port_closed"), "refuses the connection", "UPSTREAM_UNREACHABLE"),
    Refusal("cut", Fault(kind="refuse"), "ends the connection instead of an answer", "UPSTREAM_UNREACHABLE"),
    Refusal("unknown", Fault(kind="http_404"), "answers HTTP 404", "UPSTREAM_NOT_FOUND"),
    Refusal("full", Fault(kind="too_busy"), "has no channel left", "UPSTREAM_BUSY"),
    Refusal("password", Fault(kind="badp", code=1), "refuses the password", "UPSTREAM_PASSWORD_REFUSED"),
    Refusal("starting", Fault(kind="badp", code=2), "is still starting", "UPSTREAM_NOT_READY"),
    Refusal("no-admin", Fault(kind="badp", code=3), "refuses the login", "UPSTREAM_LOGIN_REFUSED"),
    Refusal("one-each", Fault(kind="badp", code=5), "allows one connection an address", "UPSTREAM_ONE_PER_ADDRESS"),
    Refusal("database", Fault(kind="badp", code=6), "updates its database", "UPSTREAM_NOT_READY"),
    Refusal("disabled", Fault(kind="down", code=0), "is out of service", "UPSTREAM_DISABLED"),
    Refusal("updating", Fault(kind="down", code=1), "updates its software", "UPSTREAM_UPDATING"),
    Refusal("exclusive", Fault(kind="exclusive_use"), "is used exclusively", "UPSTREAM_EXCLUSIVE_USE"),
    Refusal("wideband", Fault(kind="wb_only"), "serves wideband only", "UPSTREAM_WIDEBAND_ONLY"),
    Refusal("quota", Fault(kind="ip_limit"), "says that the day's quota is used up", "UPSTREAM_ADDRESS_LIMIT"),
)

IN_STREAM = (
    Refusal("limited", Fault(kind="too_busy", after_s=REFUSED_AFTER_S), "limits apps", "UPSTREAM_APP_LIMIT"),
    Refusal("kicking", Fault(kind="kiwi_kick", after_s=REFUSED_AFTER_S), "kicks us", "UPSTREAM_KICKED"),
    Refusal(
        "inactive",
        Fault(kind="inactivity_timeout", after_s=REFUSED_AFTER_S),
        "says that nothing was tuned for too long",
        "UPSTREAM_INACTIVITY_TIMEOUT",
    ),
    Refusal("quota", Fault(kind="ip_limit", after_s=REFUSED_AFTER_S), "ends the quota", "UPSTREAM_ADDRESS_LIMIT"),
    Refusal("disabled", Fault(kind="down", code=0, after_s=REFUSED_AFTER_S), "goes down", "UPSTREAM_DISABLED"),
)


def refusal_cases(refusals: tuple[Refusal, ...], *, when: str, sees: str, stored: str) -> Callable[[TestT], TestT]:
    """Enters one row for each refusal."""

    def enter(test: TestT) -> TestT:
        for refusal in refusals:
            fault = f"a receiver {refusal.text}{when}"
            fault_case(Group.RECEIVERS, fault=fault, sees=f"{refusal.reason}; {sees}", stored=stored)(test)
        return test

    return enter


@refusal_cases(
    AT_CONNECT,
    when="",
    sees="that outcome is FAILED, the others are not touched",
    stored="nothing of it",
)
async def test_refusals_at_the_connect(tmp_path: Path) -> None:
    stations = [station("good"), *(station(refusal.name, fault=[refusal.fault]) for refusal in AT_CONNECT)]
    names = [spec.id for spec in stations]
    async with fault_bench(tmp_path, stations) as bench:
        acquisition_id = await bench.start_acquisition(acquisition_spec(DIAL_HZ, WINDOW_S, names))
        final = await bench.ended(acquisition_id)
        good, *refused = final.outcomes
        recording = await check_recording(bench.client, bench.simulator.stations["good"].sent, acquisition_id, "good")
        tries = {name: len(bench.simulator.stations[name].connection_times) for name in names}
    assert good.state == ReceiverOutcome.STATE_SUCCEEDED, describe(final)
    assert recording.sample_count == pytest.approx(WINDOW_S * SAMPLE_RATE_HZ, abs=1)
    found = {outcome.receiver_id: problems(outcome) for outcome in refused}
    assert found == {refusal.name: [refusal.reason] for refusal in AT_CONNECT}
    assert {outcome.state for outcome in refused} == {ReceiverOutcome.STATE_FAILED}
    assert {outcome.stored_sample_count for outcome in refused} == {0}
    # One connection each and no second one: none of these stations wants to be asked again within the window.
    assert tries == {name: 0 if name == "unreachable" else 1 for name in names}


@refusal_cases(
    IN_STREAM,
    when=" in mid-stream",
    sees="PARTIALLY_SUCCEEDED with SAMPLES_LOST; it is not connected again",
    stored="everything up to then; the rest of the window is an EARLY_END gap",
)
async def test_refusals_in_mid_stream(tmp_path: Path) -> None:
    stations = [station("good"), *(station(refusal.name, fault=[refusal.fault]) for refusal in IN_STREAM)]
    names = [spec.id for spec in stations]
    async with fault_bench(tmp_path, stations) as bench:
        acquisition_id = await bench.start_acquisition(acquisition_spec(DIAL_HZ, WINDOW_S, names))
        final = await bench.ended(acquisition_id)
        good, *refused = final.outcomes
        assert good.state == ReceiverOutcome.STATE_SUCCEEDED, describe(final)
        for refusal, outcome in zip(IN_STREAM, refused, strict=True):
            assert outcome.state == ReceiverOutcome.STATE_PARTIALLY_SUCCEEDED, describe(final)
            assert problems(outcome) == [refusal.reason, "SAMPLES_LOST"]
            one = bench.simulator.stations[refusal.name]
            recording = await check_recording(bench.client, one.sent, acquisition_id, refusal.name)
            assert recording.reasons == ["EARLY_END"]
            assert recording.sample_count == outcome.stored_sample_count > 0
            assert recording.missed_count == 0
            assert abs(recording.end_index - WINDOW_S * SAMPLE_RATE_HZ) <= 1
            assert len(one.connection_times) == 1


@fault_case(
    Group.RECEIVERS,
    fault="a receiver redirects to another one, up to three times",
    sees="SUCCEEDED",
    stored="the samples of the station that it leads to",
)
@fault_case(
    Group.RECEIVERS,
    fault="a receiver redirects to itself, or more than three times",
    sees="UPSTREAM_REDIRECT_LOOP; that outcome is FAILED, the others are not touched",
    stored="nothing of it",
)
async def test_redirects(tmp_path: Path) -> None:
    chain = [f"hop-{number}" for number in range(4, -1, -1)]
    names = ["hop-1", "hop-3", "hop-4", "loop"]
    async with fault_bench(tmp_path, [station(name) for name in [*chain, "loop"]]) as bench:
        stations = bench.simulator.stations
        for here, there in pairwise(chain):
            await stations[here].inject(Fault(kind="redirect", url=stations[there].url))
        await stations["loop"].inject(Fault(kind="redirect", url=stations["loop"].url))
        acquisition_id = await bench.start_acquisition(acquisition_spec(DIAL_HZ, WINDOW_S, names))
        final = await bench.ended(acquisition_id)
        for outcome in final.outcomes[:2]:
            assert outcome.state == ReceiverOutcome.STATE_SUCCEEDED, describe(final)
            recording = await check_recording(bench.client, stations["hop-0"].sent, acquisition_id, outcome.receiver_id)
            assert recording.sample_count == pytest.approx(WINDOW_S * SAMPLE_RATE_HZ, abs=1)
        for outcome in final.outcomes[2:]:
            assert outcome.state == ReceiverOutcome.STATE_FAILED, describe(final)
            assert problems(outcome) == ["UPSTREAM_REDIRECT_LOOP"]
        assert len(stations["loop"].connection_times) == 1
