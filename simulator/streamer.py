"""The sound of one connection: numbers frames, keeps their pace, and does to them what the script says."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from simulator.dialogue import Dialogue, End, refusal_text
from simulator.faults import Fault
from simulator.frame import (
    FLAG_ADC_OVERFLOW,
    FLAG_LITTLE_ENDIAN,
    FLAG_STEREO,
    NO_STAMP,
    Stamp,
    encode_snd,
)
from simulator.gnss import NS_PER_S, stamp_of_week_ns
from simulator.records import SentFrame
from simulator.source import Slot

if TYPE_CHECKING:
    from simulator.connection import Connection
    from simulator.station import Station

_QUEUE_FULL_FRAMES = 64
_QUEUE_FREE_FRAMES = 32
_STALE_OFFSET_NS = -11_520 * NS_PER_S
_FOR_EVER = 1 << 62

_REFUSALS = frozenset(
    {
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
    }
)
_GARBAGE: dict[str, bytes | str] = {
    "unknown_tag": b"XYZ" + bytes(range(64)),
    "short_body": b"SND\x08\x01\x00",
    "invalid_msg": b"MSG \xff\xfe=\x00 sample_rate=nan rx_chans= =7 load_cfg=%7B%22 %ZZ",
    "text_frame": "MSG rx_chans=4",
}


class Streamer:
    """Sends frames from a source at its pace until the connection ends."""

    def __init__(self, station: Station, connection: Connection, dialogue: Dialogue) -> None:
        self._station = station
        self._connection = connection
        self._dialogue = dialogue
        self._source = station.open_source()
        self._sequence = 0
        self._queue_was_full = False
        self._extra_gain_db = 0.0
        self._extra_flags = 0
        self._extra_flags_end = 0
        self._overflow_end = 0
        self._stamp_offset_ns = 0
        self._stamp_offset_end = 0

    async def run(self) -> None:
        """Returns once the end of the connection is queued."""
        while True:
            due_unix_ns = self._source.next_due_unix_ns()
            if due_unix_ns is None:
                await self._connection.end(End.CLOSE_FRAME)
                return
            await self._station.clock.sleep_until(due_unix_ns)
            if await self._apply_faults():
                return
            next_due_unix_ns = self._source.next_due_unix_ns()
            if next_due_unix_ns is None or next_due_unix_ns > due_unix_ns:
                continue
            self._send(self._source.take())
            if self._sequence == 1:
                await self._connection.say("rf_attn=0.0")

    def _send(self, slot: Slot, *, share: float = 1.0) -> None:
        """Numbers a frame and sends that share of its bytes."""
        self._sequence += 1
        rendered = self._source.render(slot, self._dialogue.tuning(self._extra_gain_db))
        flags = FLAG_STEREO | self._dialogue.take_flags()
        if rendered.overflow or self._sequence <= self._overflow_end:
            flags |= FLAG_ADC_OVERFLOW
        if self._sequence <= self._extra_flags_end:
            flags |= self._extra_flags
        stamp = self._stamp(slot)
        byte_order = "<i2" if flags & FLAG_LITTLE_ENDIAN else ">i2"
        payload = rendered.samples.astype(byte_order).tobytes()
        if sent := share > 0 and self._queue_has_room():
            frame = encode_snd(flags, self._sequence, rendered.s_meter, stamp, payload)
            sent = self._connection.offer_frame(frame[: round(share * len(frame))]) and share == 1
        self._station.note_frame(
            SentFrame(
                self._connection.number,
                self._sequence,
                flags,
                stamp.age_s,
                stamp.gps_second,
                stamp.gps_nanosecond,
                payload,
                slot.first_sample,
                slot.true_unix_ns,
                dropped=not sent,
            )
        )

    def _stamp(self, slot: Slot) -> Stamp:
        if self._sequence == 1 or slot.stamp == NO_STAMP:
            return NO_STAMP
        if self._sequence > self._stamp_offset_end:
            return slot.stamp
        week_ns = slot.stamp.gps_second * NS_PER_S + slot.stamp.gps_nanosecond
        return stamp_of_week_ns(week_ns + self._stamp_offset_ns, slot.stamp.age_s)

    def _queue_has_room(self) -> bool:
        if self._connection.queued_frame_count > _QUEUE_FULL_FRAMES:
            self._queue_was_full = True
        elif self._connection.queued_frame_count < _QUEUE_FREE_FRAMES:
            self._queue_was_full = False
        return not self._queue_was_full

    async def _apply_faults(self) -> bool:
        """Does what the script has for this moment; true if that ends the connection."""
        connection = self._connection
        open_s = time.monotonic() - connection.opened_s
        for fault in self._station.script.take_due(connection.number, self._sequence, open_s):
            if fault.kind in _REFUSALS:
                await connection.say(refusal_text(fault, self._station.spec, "127.0.0.1"))
                await connection.end(End.CLOSE_FRAME)
                return True
            if fault.kind in ("drop", "close"):
                await connection.end(End.ABORT if fault.kind == "drop" else End.CLOSE_FRAME)
                return True
            if fault.kind == "garbage":
                await connection.say_raw(_GARBAGE[fault.what or "unknown_tag"])
            else:
                self._disturb(fault)
        return False

    def _disturb(self, fault: Fault) -> None:
        effects: dict[str, Callable[[Fault], None]] = {
            "stall": lambda f: self._connection.stall(f.duration_s),
            "slow": lambda f: self._connection.limit_speed(f.bytes_per_s or 1.0),
            "silent_loss": lambda f: self._source.skip(f.sample_count or 0),
            "lost_frames": self._lose_frames,
            "cut_frame": lambda f: self._lose_frames(f, share=0.5),
            "stamp_jump": self._shift_stamps,
            "stale_stamp": self._shift_stamps,
            "adc_overflow": self._overflow,
            "flags": self._set_flags,
            "gain_change": self._change_gain,
            "little_endian": self._swap_bytes,
            "week_wrap": lambda f: self._station.wrap_week_in(f.duration_s or 0.5),
        }
        effects[fault.kind](fault)

    def _lose_frames(self, fault: Fault, share: float = 0.0) -> None:
        for _ in range(fault.frame_count or 1):
            if self._source.next_due_unix_ns() is not None:
                self._send(self._source.take(), share=share)

    def _shift_stamps(self, fault: Fault) -> None:
        stale = fault.kind == "stale_stamp"
        self._stamp_offset_ns = fault.offset_ns if fault.offset_ns is not None else _STALE_OFFSET_NS
        # Frame 1 never has a stamp, so a stale one starts with frame 2, as on real stations.
        first = max(self._sequence, 1) if stale else self._sequence
        self._stamp_offset_end = first + (fault.frame_count or (1 if stale else _FOR_EVER))

    def _overflow(self, fault: Fault) -> None:
        self._overflow_end = self._sequence + (fault.frame_count or 1)

    def _set_flags(self, fault: Fault) -> None:
        self._extra_flags = fault.flags or 0
        self._extra_flags_end = self._sequence + (fault.frame_count or _FOR_EVER)

    def _change_gain(self, fault: Fault) -> None:
        self._extra_gain_db += fault.gain_db or 0.0

    def _swap_bytes(self, _: Fault) -> None:
        self._dialogue.little_endian = True
