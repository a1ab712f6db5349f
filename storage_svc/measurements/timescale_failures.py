"""What a failing PostgreSQL means to callers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError
from heimdall.runtime.settings import TimescaleSettings, read_secret
from storage_svc.measurements.timescale_dsn import read_dsn
from storage_svc.measurements.writer import DatabaseAwayError

_REFUSING_CLASSES = ("22", "23")
"""Classes of SQLSTATE that are about what was written: data exceptions and violated constraints."""


class DatabaseAddress:
    """Where the database is and as whom, for messages; and the password, which is in none of them."""

    def __init__(self, settings: TimescaleSettings) -> None:
        """Takes the address apart.

        Raises:
            SettingsError: If it is none, or the password can not be read; its text shows nothing of the address.
        """
        self.dsn = settings.dsn.get_secret_value()
        self.password = read_secret("timescale.password", settings.password, settings.password_file)
        self.place, user, database = read_dsn(self.dsn)
        self.user = user or "its default user"
        self.database = database or self.user

    def __str__(self) -> str:
        return f"database {self.database} at {self.place} as {self.user}"

    @contextmanager
    def failures(self, what: str) -> Iterator[None]:
        """Turns the failures of asyncpg into what callers get.

        Args:
            what: What the database is asked to do, such as "write".

        Raises:
            DatabaseAwayError: If it can not be used at present.
            HeimdallError: INVALID_FIELD if it refuses what was to be written.
        """
        try:
            yield
        except TimeoutError as error:
            raise DatabaseAwayError(f"{self} could not {what}: no answer in time") from error
        except asyncpg.PostgresError as error:
            code = error.sqlstate or ""
            if code.startswith(_REFUSING_CLASSES):
                raise self._refusal(error, what) from error
            raise DatabaseAwayError(f"{self} could not {what}: {error} (SQLSTATE {code})") from error
        except asyncpg.DataError as error:
            raise self._refusal(error, what) from error
        except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            raise DatabaseAwayError(f"{self} could not {what}: {error or type(error).__name__}") from error

    def _refusal(self, error: Exception, what: str) -> HeimdallError:
        return HeimdallError(
            ErrorReason.ERROR_REASON_INVALID_FIELD,
            f"{self} refuses to {what}: {error}",
            metadata={"backend": "measurements"},
        )
