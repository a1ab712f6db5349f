"""One acquisition as a table: a line for each receiver, then why anything is missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import click

from heimdall.cli import text
from heimdall.cli.output import print_table, short_path
from heimdall.common.v1.acquisition_pb2 import Acquisition, ReceiverOutcome
from heimdall.common.v1.measurement_pb2 import Measurement

_HEADINGS: Final = (
    "receiver",
    "state",
    "samples",
    "gaps",
    "SNR dB",
    "in Hz",
    "offset Hz",
    "level dBFS",
    "time",
    "path",
)
_RIGHT: Final = ("samples", "gaps", "SNR dB", "in Hz", "offset Hz", "level dBFS")
_SHOWN_ESTIMATES: Final = ("snr_db", "frequency_offset_hz", "power_dbfs")


def print_acquisition(acquisition: Acquisition) -> None:
    """Prints what became of each receiver, and a note for each number and sample that is missing.

    Args:
        acquisition: The acquisition, terminal or not.
    """
    print_table(_HEADINGS, (outcome_row(outcome) for outcome in acquisition.outcomes), right=_RIGHT)
    for note in notes(acquisition):
        click.echo(note)
    click.echo(headline(acquisition))


def headline(acquisition: Acquisition) -> str:
    """Returns what the acquisition is and how it ended, in one line.

    Args:
        acquisition: The acquisition.
    """
    tuning = acquisition.spec.tuning
    line = f"acquisition {acquisition.acquisition_id}: {text.enum_label(acquisition, 'state')}"
    line += f", {text.frequency(tuning.center_frequency_hz)}"
    line += f", {text.seconds(acquisition.spec.duration.ToNanoseconds())}"
    if acquisition.window_start_unix_ns:
        line += f" from {text.utc(acquisition.window_start_unix_ns)}"
    return line


def outcome_row(outcome: ReceiverOutcome) -> tuple[str, ...]:
    """Returns the cells of one receiver.

    Args:
        outcome: What became of the receiver.
    """
    measurement = outcome.measurement
    bandwidth = measurement.snr_bandwidth_hz
    return (
        outcome.receiver_id,
        text.enum_label(outcome, "state"),
        f"{outcome.received_sample_count}",
        f"{outcome.gap_count}",
        text.estimate(measurement.snr_db, digits=1),
        f"{bandwidth.value:.0f}" if bandwidth.HasField("value") else text.ABSENT,
        text.estimate(measurement.frequency_offset_hz, digits=3, signed=True),
        text.estimate(measurement.power_dbfs, digits=1),
        text.time_quality(outcome.time_solution) if outcome.HasField("time_solution") else text.ABSENT,
        short_path(outcome.recording.location) or text.ABSENT,
    )


def notes(acquisition: Acquisition) -> Iterator[str]:
    """Yields why anything is missing: of the acquisition, of each receiver, and of each number.

    Args:
        acquisition: The acquisition.
    """
    if acquisition.HasField("error"):
        yield text.problem(acquisition.error)
    for outcome in acquisition.outcomes:
        for problem in outcome.problems:
            yield f"{outcome.receiver_id}: {text.problem(problem)}"
        if outcome.HasField("measurement"):
            for name, reason in missing_estimates(outcome.measurement, _SHOWN_ESTIMATES):
                yield f"{outcome.receiver_id}: {name}: {reason}"


def missing_estimates(measurement: Measurement, names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yields the name and reason of each number that is absent or only a limit.

    Args:
        measurement: The measurement.
        names: Fields to look at.
    """
    for name in names:
        number = getattr(measurement, name)
        if number.reason:
            yield name, number.reason
        elif not number.HasField("value"):
            yield name, "no reason given"
