"""Scripted faults: what a station does wrong, on which connection, and when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

FaultKind = Literal[
    "port_closed",
    "refuse",
    "http_404",
    "redirect_http",
    "too_busy",
    "redirect",
    "down",
    "exclusive_use",
    "wb_only",
    "badp",
    "ip_limit",
    "inactivity_timeout",
    "kiwi_kick",
    "password_timeout",
    "stall",
    "drop",
    "close",
    "lost_frames",
    "silent_loss",
    "stamp_jump",
    "stale_stamp",
    "garbage",
    "cut_frame",
    "slow",
    "wrong_rate",
    "adc_overflow",
    "little_endian",
    "flags",
    "gain_change",
    "week_wrap",
]

HTTP_KINDS = frozenset({"refuse", "http_404", "redirect_http"})
"""Answered before or instead of the WebSocket upgrade."""

FIRST_MESSAGE_KINDS = frozenset({"too_busy", "redirect", "down", "exclusive_use", "wb_only"})
"""A MSG and a close in answer to the first message, if not asked for later by after_frame or after_s."""

AUTH_KINDS = frozenset({"badp", "ip_limit"})
"""Part of the answer to SET auth, if not asked for later by after_frame or after_s."""

CONNECT_KINDS = HTTP_KINDS | FIRST_MESSAGE_KINDS | AUTH_KINDS | {"port_closed", "wrong_rate"}

_PARAMETERS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "redirect_http": (frozenset({"url"}), frozenset()),
    "redirect": (frozenset({"url"}), frozenset()),
    "down": (frozenset({"code"}), frozenset()),
    "badp": (frozenset({"code"}), frozenset()),
    "stall": (frozenset(), frozenset({"duration_s"})),
    "lost_frames": (frozenset({"frame_count"}), frozenset()),
    "silent_loss": (frozenset({"sample_count"}), frozenset()),
    "stamp_jump": (frozenset({"offset_ns"}), frozenset({"frame_count"})),
    "stale_stamp": (frozenset(), frozenset({"offset_ns", "frame_count"})),
    "garbage": (frozenset({"what"}), frozenset()),
    "cut_frame": (frozenset(), frozenset({"frame_count"})),
    "slow": (frozenset({"bytes_per_s"}), frozenset()),
    "wrong_rate": (frozenset({"sample_rate_hz"}), frozenset()),
    "adc_overflow": (frozenset(), frozenset({"frame_count"})),
    "flags": (frozenset({"flags"}), frozenset({"frame_count"})),
    "gain_change": (frozenset({"gain_db"}), frozenset()),
    "week_wrap": (frozenset(), frozenset({"duration_s"})),
}
_ALL_PARAMETERS = frozenset().union(*(need | may for need, may in _PARAMETERS.values()))


class Fault(BaseModel):
    """One scripted fault of one station.

    Without a trigger it happens at the first opportunity: a refusal at connect, anything else before the
    first frame (for an injected fault: before the next frame of every open connection).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: FaultKind
    at_connect: bool = False
    """Says that the fault happens at connect; the same as no trigger at all, for the reader's sake."""
    after_frame: int | None = Field(default=None, ge=0)
    """Happens once this many frames of the connection were numbered."""
    after_s: float | None = Field(default=None, ge=0)
    """Happens this many seconds after the connection was opened."""
    connection: int | None = Field(default=None, ge=1)
    """Only on this connection of the station, counted from 1; none means on any."""
    count: int | None = Field(default=None, ge=1)
    """How often it happens in all, at most once a connection; none means without limit."""
    url: str | None = None
    """Where a redirect points to, such as http://127.0.0.1:8074."""
    code: int | None = None
    """The number in badp= (1 to 7) or down= (0 to 2)."""
    duration_s: float | None = Field(default=None, gt=0)
    """Length of a stall (none: for ever), or time after which the week wraps within a second (default 0.5 s)."""
    frame_count: int | None = Field(default=None, ge=1)
    """Frames lost or changed; for stamp_jump and flags none means all that follow, elsewhere one."""
    sample_count: int | None = Field(default=None, ge=1)
    """Samples lost without a gap in the numbering, a multiple of the station's chunk."""
    offset_ns: int | None = None
    """Added to the stamps, in ns (stale_stamp: default 3.2 hours back)."""
    bytes_per_s: float | None = Field(default=None, gt=0)
    """Speed of a slow link, in bytes per second."""
    sample_rate_hz: float | None = Field(default=None, gt=0)
    """Rate announced instead of the station's own, in Hz."""
    flags: int | None = Field(default=None, ge=1, le=255)
    """Bits set in the flag byte of the frames."""
    gain_db: float | None = None
    """Change of the gain that the client does not know of, in dB."""
    what: Literal["unknown_tag", "short_body", "invalid_msg", "text_frame"] | None = None
    """Which garbage is sent between two frames."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        triggers = [self.at_connect, self.after_frame is not None, self.after_s is not None]
        if sum(triggers) > 1:
            raise ValueError(f"fault {self.kind!r}: give one of at_connect, after_frame, after_s, not several")
        needed, optional = _PARAMETERS.get(self.kind, (frozenset(), frozenset()))
        given = {name for name in _ALL_PARAMETERS if getattr(self, name) is not None}
        if missing := sorted(needed - given):
            raise ValueError(f"fault {self.kind!r} needs {', '.join(missing)}")
        if surplus := sorted(given - needed - optional):
            right = ", ".join(sorted(needed | optional)) or "none"
            raise ValueError(f"fault {self.kind!r} has no parameter {', '.join(surplus)}; its parameters: {right}")
        limits = {"down": (0, 2), "badp": (1, 7)}.get(self.kind)
        if limits and self.code is not None and not limits[0] <= self.code <= limits[1]:
            raise ValueError(f"fault {self.kind!r}: code is {self.code}, must be {limits[0]} to {limits[1]}")
        if self.kind in HTTP_KINDS | {"port_closed", "wrong_rate"} and (triggers[1] or triggers[2]):
            raise ValueError(f"fault {self.kind!r} can only happen at connect, not after_frame or after_s")
        return self

    @property
    def is_late(self) -> bool:
        """Whether the fault belongs into the running stream rather than to the start of a connection."""
        return self.kind not in CONNECT_KINDS or self.after_frame is not None or self.after_s is not None


@dataclass
class FaultScript:
    """The faults of one station and what became of them."""

    faults: list[Fault]
    _fired_on: dict[int, set[int]] = field(default_factory=dict)
    _only_on: dict[int, frozenset[int]] = field(default_factory=dict)

    def add(self, fault: Fault, only_on: frozenset[int] | None = None) -> None:
        """Appends a fault; with `only_on` it is meant for these connection numbers alone."""
        self.faults.append(fault)
        if only_on is not None:
            self._only_on[len(self.faults) - 1] = only_on

    def clear(self) -> None:
        """Forgets every fault."""
        self.faults.clear()
        self._fired_on.clear()
        self._only_on.clear()

    def take_at_connect(self, kinds: frozenset[str], connection: int) -> Fault | None:
        """The first fault of these kinds that is due at the start of this connection, marked as happened."""
        index = self._find_at_connect(kinds, connection)
        if index is None:
            return None
        self._fire(index, connection)
        return self.faults[index]

    def peek_at_connect(self, kinds: frozenset[str], connection: int) -> Fault | None:
        """Like `take_at_connect`, but leaves the fault as it is."""
        index = self._find_at_connect(kinds, connection)
        return None if index is None else self.faults[index]

    def take_due(self, connection: int, frame_count: int, open_s: float) -> list[Fault]:
        """Every fault due now in a running stream, marked as happened.

        Args:
            connection: number of the connection, from 1.
            frame_count: frames numbered so far on it.
            open_s: seconds since it was opened.
        """
        due = []
        for index, fault in enumerate(self.faults):
            if not fault.is_late or not self._is_open(index, connection):
                continue
            if frame_count >= (fault.after_frame or 0) and open_s >= (fault.after_s or 0.0):
                self._fire(index, connection)
                due.append(fault)
        return due

    def _find_at_connect(self, kinds: frozenset[str], connection: int) -> int | None:
        for index, fault in enumerate(self.faults):
            if fault.kind in kinds and not fault.is_late and self._is_open(index, connection):
                return index
        return None

    def _is_open(self, index: int, connection: int) -> bool:
        fault = self.faults[index]
        fired = self._fired_on.get(index, set())
        return (
            (fault.connection is None or fault.connection == connection)
            and connection not in fired
            and connection in self._only_on.get(index, frozenset({connection}))
            and (fault.count is None or len(fired) < fault.count)
        )

    def _fire(self, index: int, connection: int) -> None:
        self._fired_on.setdefault(index, set()).add(connection)
