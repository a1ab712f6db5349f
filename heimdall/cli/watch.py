"""Follows one acquisition to its end, shows how far it is, and cancels it when the user interrupts."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from types import TracebackType
from typing import Final, Self

import click
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from heimdall.cli import text
from heimdall.cli.output import standard_error
from heimdall.cli.status import ExitStatus
from heimdall.client import HeimdallClient
from heimdall.common.v1.acquisition_pb2 import Acquisition, AcquisitionSpec, ReceiverOutcome

_STATUS_BY_STATE: Final = {
    Acquisition.STATE_SUCCEEDED: ExitStatus.COMPLETE,
    Acquisition.STATE_PARTIALLY_SUCCEEDED: ExitStatus.PARTIAL,
}


def exit_status(acquisition: Acquisition) -> ExitStatus:
    """Returns the exit status that a terminal acquisition stands for.

    Args:
        acquisition: The acquisition; a cancelled one is partial if it kept a sample, else failed.
    """
    if acquisition.state == Acquisition.STATE_CANCELLED and any(o.stored_sample_count for o in acquisition.outcomes):
        return ExitStatus.PARTIAL
    return _STATUS_BY_STATE.get(acquisition.state, ExitStatus.FAILED)


async def acquire_to_end(
    client: HeimdallClient, spec: AcquisitionSpec, request_id: str, observer: Callable[[Acquisition], None]
) -> Acquisition:
    """Starts an acquisition and watches it to its end; the first SIGINT or SIGTERM cancels it and keeps what there is.

    Args:
        client: The mesh.
        spec: What to acquire.
        request_id: The caller's own id; empty for none.
        observer: Is told about every snapshot.

    Returns:
        The terminal acquisition.

    Raises:
        HeimdallError: If it can not be started or watched.
    """
    with _interrupt_event() as interrupted:
        started = await client.start_acquisition(spec, request_id)
        watching = asyncio.create_task(watch_to_end(client, started.acquisition_id, observer))
        interrupt = asyncio.create_task(interrupted.wait())
        try:
            await asyncio.wait((watching, interrupt), return_when=asyncio.FIRST_COMPLETED)
            if not watching.done():
                click.echo(f"cancelling acquisition {started.acquisition_id}; what was received is kept", err=True)
                await client.cancel_acquisition(started.acquisition_id)
            return await watching
        finally:
            watching.cancel()
            interrupt.cancel()
            await asyncio.gather(watching, interrupt, return_exceptions=True)


async def watch_to_end(
    client: HeimdallClient, acquisition_id: str, observer: Callable[[Acquisition], None]
) -> Acquisition:
    """Watches an acquisition to its end.

    Args:
        client: The mesh.
        acquisition_id: The acquisition.
        observer: Is told about every snapshot.

    Returns:
        The last snapshot.

    Raises:
        HeimdallError: If it can not be watched.
    """
    last = Acquisition()
    async with aclosing(client.watch_acquisition(acquisition_id)) as snapshots:
        async for last in snapshots:
            observer(last)
    return last


@contextmanager
def _interrupt_event() -> Iterator[asyncio.Event]:
    """Yields an event that the first SIGINT or SIGTERM sets; a second one acts as if nothing were handled."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        event.set()
        restore()

    def restore() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    try:
        yield event
    finally:
        restore()


class ProgressLines:
    """Shows one line a receiver on standard error: a live bar on a terminal, else a line for each change of state."""

    def __init__(self) -> None:
        """Prepares the lines; they appear with the first snapshot."""
        console = standard_error()
        self._live = console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TextColumn("{task.fields[samples]}", justify="right"),
            console=console,
            transient=True,
            disable=not self._live,
        )
        self._tasks: dict[str, TaskID] = {}
        self._states: dict[str, str] = {}

    def __enter__(self) -> Self:
        """Starts to draw."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Removes the lines."""
        self._progress.stop()

    def __call__(self, snapshot: Acquisition) -> None:
        """Shows a snapshot."""
        for outcome in snapshot.outcomes:
            if self._live:
                self._draw(outcome)
            elif (state := text.enum_label(outcome, "state")) != self._states.get(outcome.receiver_id):
                self._states[outcome.receiver_id] = state
                click.echo(f"{outcome.receiver_id}: {state}", err=True)

    def _draw(self, outcome: ReceiverOutcome) -> None:
        if outcome.receiver_id not in self._tasks:
            self._tasks[outcome.receiver_id] = self._progress.add_task(
                outcome.receiver_id, total=None, state="", samples=""
            )
        samples = f"{outcome.received_sample_count} samples"
        if outcome.lost_sample_count:
            samples += f", {outcome.lost_sample_count} lost"
        self._progress.update(
            self._tasks[outcome.receiver_id],
            total=outcome.expected_sample_count or None,
            completed=outcome.received_sample_count + outcome.lost_sample_count,
            state=text.enum_label(outcome, "state"),
            samples=samples,
        )
