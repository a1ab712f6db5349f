"""Every refusal of the protocol notes, section 6, has its own reason."""

from __future__ import annotations

import pytest

from fetcher_svc.backoff import RECOVERIES
from fetcher_svc.receivers.kiwisdr_refusals import find_refusal
from fetcher_svc.receivers.kiwisdr_wire import parse_message
from heimdall.errors import POLICIES, reason_name


@pytest.mark.parametrize(
    ("message", "streaming", "reason"),
    [
        ("too_busy=4", False, "UPSTREAM_BUSY"),
        ("too_busy=4", True, "UPSTREAM_APP_LIMIT"),
        ("badp=1", False, "UPSTREAM_PASSWORD_REFUSED"),
        ("badp=2", False, "UPSTREAM_NOT_READY"),
        ("badp=3", False, "UPSTREAM_LOGIN_REFUSED"),
        ("badp=4", False, "UPSTREAM_LOGIN_REFUSED"),
        ("badp=5", False, "UPSTREAM_ONE_PER_ADDRESS"),
        ("badp=6", False, "UPSTREAM_NOT_READY"),
        ("badp=7", False, "UPSTREAM_LOGIN_REFUSED"),
        ("badp=99", False, "UPSTREAM_LOGIN_REFUSED"),
        ("reason_disabled=closed%20today down=0", False, "UPSTREAM_DISABLED"),
        ("reason_disabled=x down=1", False, "UPSTREAM_UPDATING"),
        ("down=2", False, "UPSTREAM_UPDATING"),
        ("exclusive_use", False, "UPSTREAM_EXCLUSIVE_USE"),
        ("wb_only", False, "UPSTREAM_WIDEBAND_ONLY"),
        ("ip_limit=60%2C10.0.0.1", True, "UPSTREAM_ADDRESS_LIMIT"),
        ("inactivity_timeout=60", True, "UPSTREAM_INACTIVITY_TIMEOUT"),
        ("kiwi_kick=0%2Cbye", True, "UPSTREAM_KICKED"),
        ("password_timeout", False, "UPSTREAM_PASSWORD_TIMEOUT"),
    ],
)
def test_refusal_has_its_reason(message: str, streaming: bool, reason: str) -> None:
    refusal = find_refusal(parse_message(f"MSG {message}".encode()), streaming=streaming)
    assert refusal is not None
    assert refusal.reason_name == reason
    assert refusal.reason in POLICIES
    assert refusal.reason in RECOVERIES


@pytest.mark.parametrize("message", ["badp=0", "sample_rate=12000.5", "rf_attn=3.0", "redirect=http%3A%2F%2Fx"])
def test_ordinary_messages_refuse_nothing(message: str) -> None:
    assert find_refusal(parse_message(f"MSG {message}".encode()), streaming=True) is None


def test_what_the_station_said_is_told() -> None:
    refusal = find_refusal(parse_message(b"MSG reason_disabled=closed%20today down=0"), streaming=False)
    assert refusal is not None
    assert "closed today" in refusal.message
    assert refusal.metadata == {"message": "down=0", "reason_disabled": "closed today"}


@pytest.mark.parametrize(("code", "delay_s"), [(2, 10), (6, 60)])
def test_stations_that_start_say_how_long_to_wait(code: int, delay_s: float) -> None:
    refusal = find_refusal({"badp": str(code)}, streaming=False)
    assert refusal is not None
    assert refusal.retry_delay_s == delay_s


def test_actions_follow_the_notes() -> None:
    """A kick, quota or password ends the stream; a dropped connection is tried after 0.5 s, a refused one after 15."""
    by_name = {reason_name(reason): recovery for reason, recovery in RECOVERIES.items()}
    for name in ("KICKED", "ADDRESS_LIMIT", "PASSWORD_REFUSED", "LOGIN_REFUSED", "APP_LIMIT", "DISABLED"):
        assert by_name[f"UPSTREAM_{name}"].reconnect_delay_s is None, name
    assert by_name["UPSTREAM_CONNECTION_LOST"].reconnect_delay_s == 0.5
    assert by_name["UPSTREAM_UNREACHABLE"].reconnect_delay_s == 15
    assert by_name["UPSTREAM_KICKED"].rest_s >= 30 * 60
    assert by_name["UPSTREAM_ADDRESS_LIMIT"].rest_s >= 86_400
    assert by_name["UPSTREAM_APP_LIMIT"].rest_s >= 600


def test_a_long_reason_is_told_in_short() -> None:
    """A failure is kept in outcomes and notices; a station may give a reason of 2 MB."""
    refusal = find_refusal({"reason_disabled": "%41" * 500_000, "down": "0" * 500_000}, streaming=False)
    assert refusal is not None
    assert refusal.metadata["reason_disabled"] == "A" * 253 + "…"
    assert refusal.metadata["message"].startswith("down=000")
    assert refusal.to_detail().ByteSize() < 2000
