"""Measures what the estimators cost on one core, beside scipy and beside the bare transforms that they need.

Printed in one run:
- the spectrum and the moments from CI16 bytes, against scipy.signal.welch on the same bytes;
- the spectrum alone, against the bare FFTs that it needs, for several segment lengths;
- everything that a stream measures by default, from blocks to measurements, against both;
- what each metric adds, in ns a sample for what looks at samples and in µs a window for what looks at sums.

All of it runs in this thread on one core, and its CPU time is taken: what else runs on the machine counts as little as
it can. What is compared takes turns, and a ratio is the median of those of many rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.signal
from rich.console import Console
from rich.table import Table

from benchmarks.dsp_metrics import sample_metrics, window_metrics
from dsp_svc.estimate.levels import moments
from dsp_svc.estimate.psd import Welch, default_segment_length, periodograms
from dsp_svc.requests import read_config
from dsp_svc.session import Session
from heimdall.common.v1 import iq_pb2
from heimdall.dsp.v1 import dsp_pb2
from heimdall.samples import SampleCoding, SampleFormat

Work = Callable[[], object]

SAMPLE_COUNT = 1 << 18
SEGMENT_LENGTH = 1024
BARE_LENGTHS = (512, 1024, 2048, 4096, 8192, 16_384)
BLOCK_BYTES = 1 << 18
KIWI_RATE_HZ = 12_000.0
RTL_RATE_HZ = 2_400_000.0
CI16 = SampleCoding(SampleFormat.CI16_LE, 32_768.0, 0.0)
CU8 = SampleCoding(SampleFormat.CU8, 127.5, 127.5)
_WIRE_FORMATS = {
    SampleFormat.CI16_LE: iq_pb2.SAMPLE_FORMAT_CI16_LE,
    SampleFormat.CU8: iq_pb2.SAMPLE_FORMAT_CU8,
}
# As many samples a batch as suit the transforms best by themselves.
_BARE_BATCH_SAMPLES = 1 << 17


def recording(coding: SampleCoding) -> bytes:
    """Returns noise at -40 dBFS under a carrier at -20 dBFS, in a coding."""
    rng = np.random.default_rng(20_200_813)
    noise = rng.standard_normal(SAMPLE_COUNT) + 1j * rng.standard_normal(SAMPLE_COUNT)
    carrier = 0.1 * np.exp(2j * np.pi * ((0.1234 * np.arange(SAMPLE_COUNT)) % 1.0))
    samples = np.asarray(noise * np.sqrt(1e-4 / 2) + carrier, dtype=np.complex128)
    codes = np.rint(samples.view(np.float64) * coding.full_scale + coding.zero_offset)
    return codes.astype(coding.sample_format.value).tobytes()


def by_scipy(data: bytes, coding: SampleCoding, length: int) -> npt.NDArray[np.floating]:
    """Returns the density as scipy.signal computes it from the same bytes, in single precision."""
    codes = np.frombuffer(data, dtype=coding.sample_format.value).astype(np.float32)
    samples = ((codes - np.float32(coding.zero_offset)) / np.float32(coding.full_scale)).view(np.complex64)
    _, density = scipy.signal.welch(samples, 1.0, "hann", length, return_onesided=False, detrend=False)
    return np.asarray(density)


def by_us(data: bytes, coding: SampleCoding, length: int) -> npt.NDArray[np.float64]:
    """Returns the density as the service computes it, once it has summed the moments too."""
    samples = coding.decode(data)
    moments(samples)
    return periodograms(samples, Welch(length)).spectrum(1.0).density


def bare_transforms(length: int) -> Work:
    """Returns the transforms that half-overlapping segments of the recording need, in place and nothing else."""
    count = Welch(length).segment_count(SAMPLE_COUNT)
    rows = min(_BARE_BATCH_SAMPLES // length, count)
    table = np.zeros((rows, length), dtype=np.complex64)

    def work() -> None:
        for start in range(0, count, rows):
            scipy.fft.fft(table[: min(rows, count - start)], axis=-1, overwrite_x=True)

    return work


def stream_events(data: bytes, coding: SampleCoding, rate_hz: float) -> list[iq_pb2.IqEvent]:
    """Returns the recording as the events of a receiver's stream, from segment to end."""
    segment = iq_pb2.Segment(
        receiver_id="rx-1",
        sample_rate_hz=rate_hz,
        sample_format=_WIRE_FORMATS[coding.sample_format],
        full_scale=coding.full_scale,
        zero_offset=coding.zero_offset,
    )
    events = [iq_pb2.IqEvent(segment=segment)]
    block_samples = BLOCK_BYTES // coding.sample_size_bytes
    for first in range(0, SAMPLE_COUNT, block_samples):
        part = data[first * coding.sample_size_bytes : (first + block_samples) * coding.sample_size_bytes]
        block = iq_pb2.Block(first_sample_index=first, sample_count=block_samples, samples=part)
        events.append(iq_pb2.IqEvent(block=block))
    return [*events, iq_pb2.IqEvent(end=iq_pb2.End(end_sample_index=SAMPLE_COUNT))]


def measure_stream(events: Sequence[iq_pb2.IqEvent]) -> object:
    """Measures a stream's default set as the service does, without the network; returns the summary."""
    config = dsp_pb2.ProcessRequest.Config(acquisition_id="acq-1", receiver_id="rx-1")
    session = Session(read_config(config))
    for event in events:
        for run in session.accept(event):
            session.measure(run)
    return session.summarise(events[-1].end)


def take_turns(works: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    """Runs each work once a round; returns their CPU times in s."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(rounds):
        for name, work in works.items():
            start_s = time.thread_time()
            work()
            times[name].append(time.thread_time() - start_s)
    return times


def speed(times: Mapping[str, Sequence[float]], reference: str, name: str) -> float:
    """Returns how many times as fast as the reference a work is: the median over the rounds."""
    return statistics.median(other / own for other, own in zip(times[reference], times[name], strict=True))


def result(name: str, ratio: float, budget: float) -> bool:
    """Prints one line for scripts; returns whether the budget is kept."""
    kept = ratio >= budget
    print(f"RESULT {name} ratio={ratio:.3f} budget={budget:g} {'ok' if kept else 'short'}")
    return kept


def compare_with_scipy(rounds: int) -> float:
    """Prints spectrum and moments beside scipy's spectrum; returns how many times as fast they are."""
    data = recording(CI16)
    ours, theirs = by_us(data, CI16, SEGMENT_LENGTH), by_scipy(data, CI16, SEGMENT_LENGTH)
    np.testing.assert_allclose(np.fft.ifftshift(ours), theirs, rtol=1e-3)
    works: dict[str, Work] = {
        "scipy": lambda: by_scipy(data, CI16, SEGMENT_LENGTH),
        "ours": lambda: by_us(data, CI16, SEGMENT_LENGTH),
    }
    times = take_turns(works, rounds)
    for name, text in (("scipy", "scipy.signal.welch"), ("ours", "spectrum and moments")):
        print(f"{text}, {SEGMENT_LENGTH} points, CI16: {ns_a_sample(times[name]):.2f} ns a sample")
    return speed(times, "scipy", "ours")


def compare_with_transforms(rounds: int) -> dict[int, float]:
    """Prints the spectrum beside the bare transforms; returns the speed relative to them by segment length."""
    samples = CI16.decode(recording(CI16))
    table = Table("segment", "bare FFTs, ns a sample", "spectrum, ns a sample", "ratio", title="Spectrum alone")
    ratios = {}
    for length in BARE_LENGTHS:
        welch = Welch(length)
        works: dict[str, Work] = {
            "bare": bare_transforms(length),
            "ours": lambda welch=welch: periodograms(samples, welch),  # type: ignore[misc]
        }
        times = take_turns(works, rounds)
        ratios[length] = speed(times, "bare", "ours")
        costs = (f"{ns_a_sample(times[name]):.2f}" for name in ("bare", "ours"))
        table.add_row(str(length), *costs, f"{ratios[length]:.2f}")
    Console().print(table)
    return ratios


def report_streams(rounds: int) -> None:
    """Prints what the default set of a whole stream costs."""
    table = Table(
        "stream",
        "ns a sample",
        "streams a core",
        "over scipy",
        "over bare FFTs",
        title="Everything that is measured by default, windows of 1 s, and its speed over the spectrum alone",
    )
    for text, coding, rate_hz in (("CI16 12 kS/s", CI16, KIWI_RATE_HZ), ("CU8 2.4 MS/s", CU8, RTL_RATE_HZ)):
        length = default_segment_length(rate_hz)
        data = recording(coding)
        events = stream_events(data, coding, rate_hz)
        works: dict[str, Work] = {
            "scipy": lambda data=data, coding=coding, length=length: by_scipy(data, coding, length),  # type: ignore[misc]
            "bare": bare_transforms(length),
            "ours": lambda events=events: measure_stream(events),  # type: ignore[misc]
        }
        times = take_turns(works, rounds)
        cost_ns = ns_a_sample(times["ours"])
        table.add_row(
            f"{text}, {length} points",
            f"{cost_ns:.2f}",
            f"{1e9 / (cost_ns * rate_hz):.1f}",
            f"{speed(times, 'scipy', 'ours'):.2f}",
            f"{speed(times, 'bare', 'ours'):.2f}",
        )
    Console().print(table)


def report_metrics(rounds: int) -> None:
    """Prints what each metric costs by itself."""
    data = recording(CI16)
    samples = take_turns(sample_metrics(data, CI16, KIWI_RATE_HZ), rounds)
    table = Table("what looks at samples", "ns a sample", title=f"Cost by metric, runs of {SAMPLE_COUNT} samples, CI16")
    for name, times in samples.items():
        table.add_row(name, f"{ns_a_sample(times):.2f}")
    Console().print(table)
    windows = take_turns(window_metrics(data, CI16, KIWI_RATE_HZ), rounds)
    table = Table("what looks at sums", "µs a window", title="Cost by metric, 512 bins")
    for name, times in windows.items():
        table.add_row(name, f"{statistics.median(times) * 1e6:.0f}")
    Console().print(table)


def ns_a_sample(times: Sequence[float]) -> float:
    """Returns the median CPU time over the recording's samples, in ns."""
    return statistics.median(times) / SAMPLE_COUNT * 1e9


def main() -> None:
    """Runs everything once and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=51, help="turns of each work (default: %(default)s)")
    rounds = parser.parse_args().rounds
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    print(f"core {core} of {os.cpu_count()}; numpy {np.__version__}, scipy {scipy.__version__}; {rounds} rounds")
    over_scipy = compare_with_scipy(rounds)
    over_bare = compare_with_transforms(rounds)
    report_streams(max(rounds // 4, 3))
    report_metrics(max(rounds // 4, 3))
    result("psd_and_moments_over_scipy_welch", over_scipy, 5.0)
    for length, ratio in over_bare.items():
        result(f"psd_over_bare_fft_{length}", ratio, 0.6)


if __name__ == "__main__":
    main()
