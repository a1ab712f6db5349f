"""The Kiwi WAV reader and the dating of frames, on files built here byte by byte."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from simulator.frame import Stamp
from simulator.gnss import NS_PER_S, WEEK_NS, gps_time_ns
from simulator.kiwi_wav import KiwiWavError, read_kiwi_wav
from simulator.replay import Replay, date_frames

HEADER = b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 2, 12_000, 48_000, 4, 16)
STEP_NS = 42_662_804  # 512 samples at 12001.09 Hz
START_NS = 370_358 * NS_PER_S + 269_435_262
NOW_UNIX_NS = 1_795_415_912 * NS_PER_S + 300_000_000


def group(stamp_ns: int, age_s: int = 1, first: int = 0) -> bytes:
    second, nanosecond = divmod(stamp_ns, NS_PER_S)
    samples = struct.pack("<1024h", *range(first, first + 1024))
    return b"kiwi" + struct.pack("<IBBII", 10, age_s, 0, second, nanosecond) + b"data\0\x08\0\0" + samples


def write(folder: Path, *groups: bytes, header: bytes = HEADER) -> Path:
    path = folder / "recording.wav"
    path.write_bytes(header + b"".join(groups))
    return path


def test_reads_stamps_and_samples(tmp_path: Path) -> None:
    wav = read_kiwi_wav(write(tmp_path, group(0, 0), group(START_NS, 2, first=-500)))
    assert (wav.frame_count, wav.header_rate_hz) == (2, 12_000)
    assert (wav.age_s[1], wav.gps_second[1], wav.gps_nanosecond[1]) == (2, 370_358, 269_435_262)
    np.testing.assert_array_equal(wav.samples[1], np.arange(-500, 524))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"RIFF", "4 bytes, a Kiwi WAV has at least 36"),
        (HEADER.replace(b"WAVE", b"AVI ") + group(1), "not RIFF and WAVE"),
        (HEADER.replace(b"fmt ", b"LIST") + group(1), "first chunk is b'LIST'"),
        (HEADER[:22] + b"\1\0" + HEADER[24:] + group(1), "1 channels"),
        (HEADER, "0 bytes of frames"),
        (HEADER + group(1) + group(2)[:-7], "not a whole number"),
        (HEADER + group(1) + group(2).replace(b"data", b"dada"), "frame 1 is not a kiwi chunk"),
        (HEADER + group(604_800 * NS_PER_S), "outside the GPS week"),
    ],
)
def test_malformed_file_is_refused_with_the_reason(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "recording.wav"
    path.write_bytes(content)
    with pytest.raises(KiwiWavError, match=message):
        read_kiwi_wav(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KiwiWavError, match="cannot read"):
        read_kiwi_wav(tmp_path / "absent.wav")


def test_zero_and_stale_frames_are_dated_from_the_next_good_one(tmp_path: Path) -> None:
    good = [START_NS + n * STEP_NS for n in range(2, 8)]
    stamps = [0, START_NS - 11_616 * NS_PER_S, *good]
    recording = date_frames(read_kiwi_wav(write(tmp_path, *map(group, stamps))))
    expected = START_NS + STEP_NS * np.arange(8)
    np.testing.assert_array_equal(recording.start_week_ns, expected)
    assert recording.sample_rate_hz == pytest.approx(12001.0865, abs=0.0003)


def test_losses_in_a_file_stay_losses(tmp_path: Path) -> None:
    stamps = np.array([START_NS + n * STEP_NS + (28_331_000 if n > 5 else 0) for n in range(12)])
    recording = date_frames(read_kiwi_wav(write(tmp_path, *map(group, map(int, stamps)))))
    np.testing.assert_array_equal(recording.start_week_ns, stamps)


def test_a_week_end_in_a_file_is_counted_on(tmp_path: Path) -> None:
    stamps = [(WEEK_NS - 3 * STEP_NS + n * STEP_NS) % WEEK_NS for n in range(8)]
    recording = date_frames(read_kiwi_wav(write(tmp_path, *map(group, stamps))))
    np.testing.assert_array_equal(np.diff(recording.start_week_ns), STEP_NS)


def test_file_without_stamps_cannot_be_replayed(tmp_path: Path) -> None:
    with pytest.raises(KiwiWavError, match="no frame has a stamp"):
        date_frames(read_kiwi_wav(write(tmp_path, group(0), group(0))))


def test_stamps_that_share_no_line_are_refused(tmp_path: Path) -> None:
    """Of two nothing tells the stale one."""
    path = write(tmp_path, group(START_NS - 11_616 * NS_PER_S), group(START_NS))
    with pytest.raises(KiwiWavError, match="its 2 stamps lie more than 60 s off any common line"):
        date_frames(read_kiwi_wav(path))


def test_one_shift_of_whole_seconds_starts_the_earliest_file_in_about_2_s(tmp_path: Path) -> None:
    early = date_frames(read_kiwi_wav(write(tmp_path, *(group(START_NS + n * STEP_NS) for n in range(4)))))
    late_ns = START_NS + 5 * NS_PER_S
    late = date_frames(read_kiwi_wav(write(tmp_path, *(group(late_ns + n * STEP_NS) for n in range(4)))))
    replay = Replay({"late": late, "early": early})
    replay.start(NOW_UNIX_NS)
    replay.start(NOW_UNIX_NS + 60 * NS_PER_S)
    begin_ns = replay.start_unix_ns("early", 0)
    assert 1.4 * NS_PER_S < begin_ns - NOW_UNIX_NS < 2.6 * NS_PER_S
    assert (begin_ns - START_NS) % NS_PER_S == 0
    assert replay.start_unix_ns("late", 0) - begin_ns == 5 * NS_PER_S
    stamp = replay.stamp("early", 1)
    sent_ns = stamp.gps_second * NS_PER_S + stamp.gps_nanosecond
    assert sent_ns == gps_time_ns(begin_ns + STEP_NS) % WEEK_NS
    assert replay.shift_s is not None
    assert sent_ns == (START_NS + STEP_NS + replay.shift_s * NS_PER_S) % WEEK_NS


def test_zero_stamps_stay_zero_and_stale_ones_stay_stale(tmp_path: Path) -> None:
    stale_ns = START_NS - 11_616 * NS_PER_S
    stamps = [0, stale_ns, *(START_NS + n * STEP_NS for n in range(2, 6))]
    replay = Replay({"a": date_frames(read_kiwi_wav(write(tmp_path, *map(group, stamps))))})
    replay.start(NOW_UNIX_NS)
    assert replay.stamp("a", 0) == Stamp(0, 0, 0)
    stale, good = replay.stamp("a", 1), replay.stamp("a", 2)
    assert (good.gps_second - stale.gps_second) % 604_800 in (11_616, 11_617)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "rate_hz", "stale_count"),
    [("HB9ODP", 12001.0843, 2), ("JO51xl", 12001.0256, 1), ("pa0rdt", 12001.0861, 1)],
)
def test_real_files_are_dated(realdata: Path, name: str, rate_hz: float, stale_count: int) -> None:
    (path,) = (realdata / "kiwi-dcf77-2020").glob(f"*{name}*.wav")
    wav = read_kiwi_wav(path)
    recording = date_frames(wav)
    # The median step is good to the 1 ns that stamps are rounded to: 2.3e-8.
    assert recording.sample_rate_hz == pytest.approx(rate_hz, abs=0.003)
    stamps = wav.gps_second.astype(np.int64) * NS_PER_S + wav.gps_nanosecond
    np.testing.assert_array_equal(recording.start_week_ns[stale_count:], stamps[stale_count:])
    steps = np.diff(recording.start_week_ns)
    assert np.abs(steps - 512e9 / rate_hz).max() < 300
