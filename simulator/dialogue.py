"""What a KiwiSDR answers to its client's commands: the state of one connection, without any I/O."""

from __future__ import annotations

import enum
import json
import math
import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from simulator.faults import AUTH_KINDS, FIRST_MESSAGE_KINDS, Fault, FaultScript
from simulator.frame import (
    FLAG_LITTLE_ENDIAN,
    FLAG_PASSBAND_CHANGED,
    FLAG_RESTARTED,
    FLAG_TUNING_CHANGED,
)
from simulator.scenario import StationSpec
from simulator.source import Tuning

MAX_KEEPALIVES_BEFORE_SETUP = 4
IQ_MODES = frozenset({"iq", "drm", "sas", "qam"})
_PATH = re.compile(r"^(?:/ws)?(?:/(?P<ui>kiwi|no_wf|wb))?/(?P<time_stamp>\d+)/(?P<stream>SND|W/F|EXT)$")


class End(enum.Enum):
    """How the station ends a connection."""

    CLOSE_FRAME = "close frame without a status code, then TCP end"
    TCP_CLOSE = "TCP end"
    ABORT = "TCP reset"


@dataclass(frozen=True)
class StreamPath:
    """A parsed request path."""

    time_stamp: str
    stream: str
    wideband: bool


def parse_path(path: str) -> StreamPath | None:
    """The parts of `/TS/SND` and its variants; None for anything else."""
    found = _PATH.match(path)
    if found is None:
        return None
    return StreamPath(found["time_stamp"], found["stream"], found["ui"] == "wb")


@dataclass
class Dialogue:
    """Commands in, MSG texts out; knows which of the five mandatory settings are still missing."""

    spec: StationSpec
    script: FaultScript
    connection: int
    channel: int
    client_ip: str
    announced_rate_hz: float
    wideband: bool = False
    authenticated: bool = False
    keepalive_count: int = 0
    pending_flags: int = 0
    little_endian: bool = False
    mode: str = ""
    missing: set[str] = field(default_factory=lambda: {"frequency", "mode", "passband", "agc", "ar_ok"})
    _dial_hz: float = 0.0
    _cuts_hz: tuple[float, float] = (0.0, 0.0)
    _agc: tuple[bool, float, float, float] = (True, -100.0, 1.0, 50.0)

    @property
    def ready(self) -> bool:
        """Whether all five mandatory settings are there, so that sound may flow."""
        return self.authenticated and not self.missing

    def tuning(self, extra_gain_db: float) -> Tuning:
        """What to receive now."""
        agc, threshold_db, decay_s, man_gain_db = self._agc
        return Tuning(self._dial_hz, *self._cuts_hz, agc, threshold_db, decay_s, man_gain_db + extra_gain_db)

    def take_flags(self) -> int:
        """The change flags for the next frame, and the byte order."""
        flags, self.pending_flags = self.pending_flags, 0
        return flags | (FLAG_LITTLE_ENDIAN if self.little_endian else 0)

    def greet(self) -> list[str | End]:
        """The answer to the first message, before that is looked at: a refusal, or the stream's first words."""
        kinds = FIRST_MESSAGE_KINDS - {"wb_only"} if self.wideband else FIRST_MESSAGE_KINDS
        fault = self.script.take_at_connect(kinds, self.connection)
        if fault is not None:
            return [refusal_text(fault, self.spec, self.client_ip), End.TCP_CLOSE]
        if self.spec.message_order == "2018":
            return []
        return ["is_multi_core", self._rate_text()]

    def receive(self, command: str) -> list[str | End]:
        """The answers to one command; unknown ones are ignored, as the real server does."""
        if command == "SET keepalive":
            self.keepalive_count += 1
            kick = self.missing and self.keepalive_count > MAX_KEEPALIVES_BEFORE_SETUP
            return [End.CLOSE_FRAME] if kick else []
        if command.startswith("SET options="):
            return []
        if command.startswith("SET auth "):
            return self._authenticate(command)
        if not self.authenticated:
            return [End.CLOSE_FRAME]
        if command.startswith("SET AR OK "):
            self._set_audio_rate(command)
        elif command.startswith("SET mod="):
            self._set_mode(command)
        elif command.startswith("SET agc="):
            self._set_agc(command)
        elif command.startswith("SET little-endian"):
            self.little_endian = True
        elif command.startswith("SET reinit"):
            self.pending_flags |= FLAG_RESTARTED
        return []

    def _authenticate(self, command: str) -> list[str | End]:
        fields = _fields(command)
        password = unquote(fields.get("p", ""))
        fault = self.script.take_at_connect(AUTH_KINDS, self.connection)
        if fault is not None and fault.kind == "ip_limit":
            return [refusal_text(fault, self.spec, self.client_ip), End.TCP_CLOSE]
        badp = fault.code or 0 if fault is not None else 0
        if not badp and self.spec.password and password != self.spec.password:
            badp = 1
        spec = self.spec
        free_channels = 0 if spec.password else spec.rx_chans
        answers: list[str | End] = [
            f"client_public_ip={self.client_ip}",
            f"rx_chans={spec.rx_chans}",
            f"chan_no_pwd={free_channels}",
            f"chan_no_pwd_true={free_channels}",
        ]
        if not badp:
            answers.append(f"is_local={self.channel},0,0")
        answers += ["max_camp=4", f"badp={badp}"]
        if badp:
            return [*answers, End.CLOSE_FRAME] if badp == 5 else answers
        self.authenticated = True
        nominal_rate_hz = 12_000 if self.spec.sample_rate_hz < 16_000 else 20_250
        answers += [
            "version_maj=1 version_min=711 debian_ver=11 model=1 platform=0 ext_clk=0 abyy=B23 "
            f"freq_offset={spec.freq_offset_khz:.3f}",
            f"load_cfg={quote(json.dumps(self._config()), safe='')}",
            f"load_dxcfg={quote('{}', safe='')}",
            f"load_dxcomm_cfg={quote('{}', safe='')}",
            "cfg_loaded",
            "center_freq=15000000 bandwidth=30000000 adc_clk_nom=66666600",
            f"audio_init=0 audio_rate={nominal_rate_hz}",
        ]
        if spec.message_order == "2018":
            answers.append(self._rate_text())
        return answers

    def _rate_text(self) -> str:
        return f"sample_rate={self.announced_rate_hz:.6f}"

    def _config(self) -> dict[str, object]:
        spec = self.spec
        return {
            "rx_name": f"Simulated KiwiSDR {spec.id}",
            "rx_gps": f"({spec.latitude_deg:.6f}, {spec.longitude_deg:.6f})",
            "rx_asl": round(spec.altitude_m),
            "S_meter_cal": -13,
        }

    def _set_audio_rate(self, command: str) -> None:
        values = _numbers(_fields(command), ("in", "out"))
        if values is not None and values[1] != 0:
            self.missing.discard("ar_ok")

    def _set_mode(self, command: str) -> None:
        fields = _fields(command)
        values = _numbers(fields, ("low_cut", "high_cut", "freq"))
        if values is None:
            return
        low_cut_hz, high_cut_hz, frequency_khz = values
        if fields["mod"] != self.mode or frequency_khz * 1e3 != self._dial_hz:
            self.pending_flags |= FLAG_TUNING_CHANGED
        self.mode, self._dial_hz = fields["mod"], frequency_khz * 1e3
        self.missing -= {"mode", "frequency"}
        if low_cut_hz == 0 and high_cut_hz == 0:
            return
        limit_hz = int(self.spec.sample_rate_hz / 2) - 1
        cuts_hz = (
            float(min(max(low_cut_hz, -limit_hz), limit_hz)),
            float(min(max(high_cut_hz, -limit_hz), limit_hz)),
        )
        if cuts_hz != self._cuts_hz:
            self.pending_flags |= FLAG_PASSBAND_CHANGED
        self._cuts_hz = cuts_hz
        self.missing.discard("passband")

    def _set_agc(self, command: str) -> None:
        values = _numbers(_fields(command), ("agc", "hang", "thresh", "slope", "decay", "manGain"))
        if values is None:
            return
        agc, _, threshold_db, _, decay_ms, man_gain_db = (int(value) for value in values)
        self._agc = (bool(agc), float(threshold_db), max(decay_ms, 1) / 1000, float(man_gain_db))
        self.missing.discard("agc")


def refusal_text(fault: Fault, spec: StationSpec, client_ip: str) -> str:
    """The MSG that goes with a refusal, at the start or in mid-stream.

    Raises:
        ValueError: the fault is no refusal.
    """
    if fault.kind == "down":
        reason = ("closed by its owner", "software update in progress", "backup in progress")[fault.code or 0]
        return f"reason_disabled={quote(reason, safe='')} down={fault.code}"
    texts = {
        "too_busy": f"too_busy={spec.rx_chans}",
        "redirect": f"redirect={quote(fault.url or '', safe='')}",
        "exclusive_use": "exclusive_use",
        "wb_only": "wb_only",
        "badp": f"badp={fault.code}",
        "ip_limit": f"ip_limit={quote(f'60,{client_ip}', safe='')}",
        "inactivity_timeout": "inactivity_timeout=60",
        "kiwi_kick": f"kiwi_kick={quote('0,kicked by the owner', safe='')}",
        "password_timeout": "password_timeout",
    }
    if fault.kind not in texts:
        raise ValueError(f"fault {fault.kind!r} is no refusal; refusals: down, {', '.join(texts)}")
    return texts[fault.kind]


def _fields(command: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in command.split() if "=" in word)


def _numbers(fields: dict[str, str], names: tuple[str, ...]) -> list[float] | None:
    """The values as finite floats, or None if one is missing or no number: then the command is ignored."""
    try:
        values = [float(fields[name]) for name in names]
    except (KeyError, ValueError):
        return None
    return values if all(map(math.isfinite, values)) else None
