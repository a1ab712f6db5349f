"""The description of a simulated network: stations and emitters, read from one TOML file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from simulator.faults import Fault

DEFAULT_SAMPLE_RATE_HZ = 66_665_900 / 5556
"""A four-channel KiwiSDR with a typical ADC clock: 11998.902 Hz."""
SAMPLES_PER_FRAME = 512

Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Latitude = Annotated[float, Field(ge=-90, le=90)]
Longitude = Annotated[float, Field(ge=-180, le=180)]


class ScenarioError(ValueError):
    """The scenario file cannot be used."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ToneSpec(_Frozen):
    """A carrier at a fixed distance from whatever the client tunes to, for tests of levels and signs."""

    offset_hz: float
    """Distance from the dial frequency in Hz; positive is above."""
    dbm: float
    """Level at the antenna input in dBm."""


class EmitterSpec(_Frozen):
    """A transmitter; delay, level and Doppler at each station follow from geometry."""

    id: Id
    latitude_deg: Latitude
    longitude_deg: Longitude
    altitude_m: float
    """Height in m, taken as height above the WGS-84 ellipsoid."""
    frequency_hz: float = Field(gt=0)
    power_dbm: float
    """EIRP in dBm; for AM of the carrier alone, else of the whole signal."""
    modulation: Literal["cw", "am", "fm", "noise"] = "cw"
    tone_hz: float = Field(default=1000.0, gt=0)
    """Modulating tone of AM and FM in Hz."""
    depth: float = Field(default=0.5, gt=0, le=1)
    """AM modulation depth, 0 to 1."""
    deviation_hz: float = Field(default=2500.0, gt=0)
    """Peak FM deviation in Hz."""
    bandwidth_hz: float = Field(default=3000.0, gt=0)
    """Width of the flat spectrum of `noise` in Hz."""
    velocity_east_m_s: float = 0.0
    velocity_north_m_s: float = 0.0


class LimitSpec(_Frozen):
    """How long a station waits for its client; the defaults are those of the real server."""

    auth_s: float = Field(default=20.0, gt=0)
    setup_s: float = Field(default=20.0, gt=0)
    keepalive_s: float = Field(default=60.0, gt=0)
    ping_idle_s: float = Field(default=5.0, gt=0)


class StationSpec(_Frozen):
    """One simulated KiwiSDR."""

    id: Id
    port: int = Field(default=0, ge=0, le=65535)
    """TCP port; 0 takes a free one."""
    latitude_deg: Latitude
    longitude_deg: Longitude
    altitude_m: float
    """Height in m, taken as height above the WGS-84 ellipsoid."""
    noise_dbm_per_hz: float = -150.0
    """Noise density at the antenna input in dBm/Hz."""
    sample_rate_hz: float = Field(default=DEFAULT_SAMPLE_RATE_HZ, ge=1000, le=100_000)
    """True sample rate in Hz."""
    announced_sample_rate_hz: float | None = Field(default=None, gt=0)
    """Rate that the station announces, in Hz; none means the true one, for a replay the file's own."""
    chunk_sample_count: int = Field(default=170, ge=1, le=512)
    """Samples of one ADC transfer; frames leave on its borders."""
    rx_chans: int = Field(default=4, ge=1, le=14)
    """Receiver channels, so the largest number of clients."""
    converter_offset_hz: float = 0.0
    """A converter in front that the Kiwi does not know of, in Hz: RF = dial + offset."""
    freq_offset_khz: float = 0.0
    """The offset that the Kiwi itself announces, in kHz; RF = dial + this as well."""
    gnss: Literal["fix", "no_fix", "off"] = "fix"
    clock_offset_s: float = 0.0
    """Error of the station's idea of time, in s; positive stamps are late."""
    stamp_jitter_ns: float = Field(default=200.0, ge=0)
    """Largest step of the stamps at a new GNSS solution, in ns; the smallest is a quarter of it."""
    uptime_s: float = Field(default=3600.0, ge=0)
    """Seconds since the station's boot when the simulation starts."""
    message_order: Literal["v1.711", "2018"] = "v1.711"
    password: str = Field(default="", repr=False)
    """Password that clients need; empty lets everybody in."""
    replay: Path | None = None
    """A Kiwi WAV to send instead of synthetic signals, relative to the scenario file."""
    limits: LimitSpec = LimitSpec()
    tone: tuple[ToneSpec, ...] = ()
    fault: tuple[Fault, ...] = ()

    @model_validator(mode="after")
    def _check_losses(self) -> Self:
        for fault in self.fault:
            self.check_fault(fault)
        return self

    def check_fault(self, fault: Fault) -> None:
        """Raises ValueError if the station cannot lose samples in the amount the fault wants."""
        unit = SAMPLES_PER_FRAME if self.replay else self.chunk_sample_count
        if fault.sample_count is not None and fault.sample_count % unit:
            source = "frame of a replay" if self.replay else "chunk"
            raise ValueError(
                f"fault 'silent_loss': sample_count is {fault.sample_count}, "
                f"must be a multiple of {unit}, the samples of a {source}"
            )


class Scenario(_Frozen):
    """A whole simulated network; the field names are the table names of the TOML file."""

    seed: int = Field(default=1, ge=0, lt=2**63)
    """Seed of every noise process; the same scenario and seed give the same samples."""
    station: tuple[StationSpec, ...] = Field(min_length=1)
    emitter: tuple[EmitterSpec, ...] = ()

    @model_validator(mode="after")
    def _check_ids(self) -> Self:
        for name, ids in (("station", [s.id for s in self.station]), ("emitter", [e.id for e in self.emitter])):
            if twice := sorted({i for i in ids if ids.count(i) > 1}):
                raise ValueError(f"{name} id {twice[0]!r} is used more than once; ids must differ")
        ports = [s.port for s in self.station if s.port]
        if shared := sorted({p for p in ports if ports.count(p) > 1}):
            raise ValueError(f"port {shared[0]} is used by more than one station; give each its own, or 0")
        return self


def load_scenario(path: Path | str) -> Scenario:
    """Reads a scenario from a TOML file; blocks for the file read.

    Args:
        path: the TOML file; a relative `replay` in it is relative to the file's folder.

    Raises:
        ScenarioError: the file is missing, is no TOML, or a key or value is wrong; the text says which,
            what was found and what would be right.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScenarioError(f"cannot read scenario {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScenarioError(f"scenario {path} is no valid TOML: {error}") from error
    stations = content.get("station", [])
    for station in stations if isinstance(stations, list) else []:
        if isinstance(station, dict) and isinstance(station.get("replay"), str):
            station["replay"] = str(path.parent / station["replay"])
    try:
        return Scenario.model_validate(content)
    except ValidationError as error:
        lines = [_describe(dict(detail), content) for detail in error.errors(include_url=False)]
        raise ScenarioError(f"scenario {path} is refused:\n" + "\n".join(f"  {line}" for line in lines)) from error


def _describe(detail: dict[str, Any], content: dict[str, Any]) -> str:
    """One line an error: the key as it is found in the file, the value, and what would be right."""
    where = ""
    node: Any = content
    models: dict[str, type[BaseModel]] = {
        "station": StationSpec,
        "emitter": EmitterSpec,
        "fault": Fault,
        "tone": ToneSpec,
        "limits": LimitSpec,
    }
    owner: type[BaseModel] = Scenario
    for key in detail["loc"]:
        if isinstance(key, int):
            node = node[key] if isinstance(node, list) and key < len(node) else None
            name = node.get("id") if isinstance(node, dict) else None
            where += f"[{name or key}]"
            continue
        where += f".{key}" if where else str(key)
        if detail["type"] != "extra_forbidden" or key != detail["loc"][-1]:
            owner = models.get(str(key), owner)
        node = node.get(key) if isinstance(node, dict) else None
    if detail["type"] == "extra_forbidden":
        return f"{where}: unknown key (value {detail['input']!r}); known keys: {', '.join(owner.model_fields)}"
    if detail["type"] == "missing":
        return f"{where}: is missing and has no default"
    message = str(detail["msg"]).removeprefix("Value error, ")
    shown = "" if isinstance(detail["input"], dict) else f" (value {detail['input']!r})"
    return f"{where or 'file'}: {message}{shown}"
