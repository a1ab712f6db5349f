"""The receivers of this fetcher, read from receivers.toml and refused loudly when wrong."""

from __future__ import annotations

import datetime
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from heimdall.errors import clip
from heimdall.ids import ID_PATTERN
from heimdall.runtime.settings import SettingsError

MAX_RECEIVER_COUNT = 1000
"""Most receivers that one fetcher owns."""
_SHOWN_BYTES = 256
"""Most bytes of a key or value that an error repeats."""


class CalibrationConfig(BaseModel):
    """The calibration record of one receiver."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    offset_db: Annotated[float, Ge(-300), Le(300)]
    """What to add to dBFS to get dBm at the plane that the source names."""
    gain_db: Annotated[int, Ge(0), Le(120)]
    """Fixed gain at which that holds, on the receiver's own scale."""
    uncertainty_db: Annotated[float, Gt(0), Le(30)]
    """1-sigma uncertainty of the offset."""
    source: Annotated[str, Field(min_length=1, max_length=200)]
    """How it was found: the instrument, and the plane that it holds at."""
    date: datetime.date
    """Day on which it was found, in UTC."""


class ReceiverConfig(BaseModel):
    """One receiver of receivers.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    receiver_id: Annotated[str, Field(pattern=f"^{ID_PATTERN}$")]
    """Short stable name; becomes part of object keys and table rows."""
    name: Annotated[str, Field(min_length=1, max_length=200)]
    """Name for people."""
    driver: Literal["kiwisdr"]
    """Protocol that the receiver speaks."""
    url: str
    """Where it is, as http://host:port or https://host:port; without a path."""
    latitude_deg: Annotated[float, Ge(-90), Le(90)]
    """WGS-84 latitude, north positive."""
    longitude_deg: Annotated[float, Ge(-180), Le(180)]
    """WGS-84 longitude, east positive."""
    altitude_m: Annotated[float, Ge(-500), Le(9000)]
    """Altitude above mean sea level."""
    min_frequency_hz: Annotated[float, Ge(0), Le(6e9)]
    """Lowest radio frequency that can be received, converter included."""
    max_frequency_hz: Annotated[float, Gt(0), Le(6e9)]
    """Highest radio frequency that can be received, converter included."""
    converter_offset_hz: Annotated[float, Ge(-6e9), Le(6e9)] = 0.0
    """Radio frequency minus the receiver's own frequency, for a converter that the receiver does not know of."""
    slots: Annotated[int, Ge(1), Le(64)] = 1
    """Connections that we may hold at once."""
    max_connects_per_hour: Annotated[int, Ge(1), Le(1000)] = 120
    """Most connects within any hour, those that succeed and those of running streams included."""
    gain_db: Annotated[int, Ge(0), Le(120)] = 50
    """Fixed gain where the caller does not choose one, on the receiver's own scale (manGain of a KiwiSDR)."""
    calibration: CalibrationConfig | None = None
    """What turns levels into dBm; without it dBm are given only where the driver can derive them."""
    password_env: str | None = None
    """Environment variable that holds the password."""
    password_file: Path | None = None
    """File whose first line is the password; a relative path starts at the folder of receivers.toml."""

    @property
    def has_password(self) -> bool:
        """Whether there is a password to log in with."""
        return self.password_env is not None or self.password_file is not None

    @field_validator("url")
    @classmethod
    def _plain_url(cls, value: str) -> str:
        try:
            url = urlsplit(value)
            port_is_usable = url.port != 0
            # What can not be encoded can not be looked up either, and fails there with an error of its own.
            (url.hostname or "").encode("idna")
        except ValueError as error:
            # The library's own text may repeat what stands before an @, which may be a password.
            why = "" if "@" in value else f" ({error})"
            raise ValueError(f"is no URL{why}; write http://host:port") from error
        if url.scheme not in ("http", "https") or not url.hostname or not port_is_usable:
            raise ValueError("must read http://host:port or https://host:port")
        if url.path not in ("", "/") or url.query or url.fragment:
            raise ValueError("must read http://host:port or https://host:port, without path or query")
        if url.username is not None or url.password is not None:
            raise ValueError("must not hold a user or password; use password_env or password_file")
        if " " in value or not value.isprintable():
            raise ValueError("must hold no white space or control characters; write http://host:port")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_frequency_hz <= self.min_frequency_hz:
            raise ValueError(
                f"max_frequency_hz {self.max_frequency_hz:g} must be above min_frequency_hz {self.min_frequency_hz:g}"
            )
        if self.password_env is not None and self.password_file is not None:
            raise ValueError("password_env and password_file exclude each other; keep one")
        return self


def load_receivers(path: Path, environ: Mapping[str, str] = os.environ) -> tuple[ReceiverConfig, ...]:
    """Reads receivers.toml.

    Args:
        path: The file.
        environ: Environment, to check that the passwords named there exist.

    Returns:
        The receivers in the order of the file.

    Raises:
        SettingsError: If the file can not be read or anything in it is wrong; names every receiver, key and value.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: can not be read ({error.strerror}); it lists the receivers") from error
    receivers, problems = parse_receivers(content, path)
    for receiver in receivers:
        try:
            read_password(receiver, environ)
        except SettingsError as error:
            problems.append(f"{path}: receiver {receiver.receiver_id!r}: {error}")
    if problems:
        raise SettingsError("\n".join(problems))
    return tuple(receivers)


def parse_receivers(content: bytes, path: Path) -> tuple[list[ReceiverConfig], list[str]]:
    """Returns the receivers of a receivers.toml that are right, and a line for everything that is wrong; reads nothing.

    Args:
        content: What the file holds.
        path: The file, for the lines and for the passwords that lie beside it.

    Raises:
        SettingsError: If it is not TOML, or no list of receivers.
    """
    try:
        document = tomllib.loads(content.decode("utf-8"))
    except ValueError as error:
        # Not TOML, not UTF-8, or a number of thousands of digits, which has no error of TOML's own.
        raise SettingsError(f"{path}: is not TOML: {_short(str(error))}") from error
    except RecursionError as error:
        raise SettingsError(f"{path}: is nested too deeply; receivers are written as [[receiver]]") from error
    problems = [
        f"{path}: {_short(key)}: no such key; receivers are written as [[receiver]]"
        for key in document
        if key != "receiver"
    ]
    entries = document.get("receiver", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise SettingsError(f"{path}: receiver: must be a list of tables; write [[receiver]]")
    if not 1 <= len(entries) <= MAX_RECEIVER_COUNT:
        problems.append(f"{path}: holds {len(entries)} receivers; 1 to {MAX_RECEIVER_COUNT} are possible")
    receivers: list[ReceiverConfig] = []
    for number, entry in enumerate(entries, start=1):
        try:
            receivers.append(_read_one(entry, path.parent))
        except ValidationError as error:
            problems += [f"{path}: {_label(entry, number)}: {line}" for line in _lines(error)]
    ids = [receiver.receiver_id for receiver in receivers]
    problems += [
        f"{path}: receiver {name!r}: receiver_id is used {ids.count(name)} times; ids must be unique"
        for name in sorted({name for name in ids if ids.count(name) > 1})
    ]
    return receivers, problems


def read_password(receiver: ReceiverConfig, environ: Mapping[str, str] = os.environ) -> str:
    """Returns the receiver's password, empty if it needs none.

    Raises:
        SettingsError: If the named variable or file is missing; never shows a password.
    """
    if receiver.password_env is not None:
        if receiver.password_env not in environ:
            raise SettingsError(f"password_env: environment variable {receiver.password_env!r} is not set")
        return environ[receiver.password_env]
    if receiver.password_file is not None:
        try:
            return receiver.password_file.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
        except (OSError, ValueError) as error:
            # A ValueError is text that is not UTF-8, or a path that no file can have.
            raise SettingsError(f"password_file: {str(receiver.password_file)!r} can not be read as text") from error
    return ""


def _read_one(entry: dict[str, Any], folder: Path) -> ReceiverConfig:
    receiver = ReceiverConfig.model_validate(entry)
    if receiver.password_file is None:
        return receiver
    return receiver.model_copy(update={"password_file": folder / receiver.password_file})


def _label(entry: dict[str, Any], number: int) -> str:
    name = entry.get("receiver_id")
    return f"receiver {_short(repr(name))}" if isinstance(name, str) else f"receiver number {number}"


def _short(text: str) -> str:
    return clip(text, _SHOWN_BYTES)


def _shown(value: object) -> str:
    """Returns a value as an error shows it, with its type where Python can not write it."""
    try:
        return repr(value)
    except (RecursionError, ValueError):
        # Nested too deeply, or a number of thousands of digits.
        return f"a value of type {type(value).__name__} that is too large to show"


def _lines(error: ValidationError) -> list[str]:
    lines = []
    for problem in error.errors():
        key = _short(".".join(str(part) for part in problem["loc"]))
        value = _shown(problem["input"])
        prefix = f"{key}: " if key else ""
        if problem["type"] == "extra_forbidden":
            known = ", ".join(ReceiverConfig.model_fields)
            lines.append(f"{prefix}no such key; the keys are {known}")
        elif problem["type"] == "missing":
            lines.append(f"{prefix}is required and missing")
        elif problem["type"] == "string_pattern_mismatch":
            lines.append(f"{prefix}must match [a-z0-9][a-z0-9-]{{0,62}}; got {_short(value)}")
        else:
            # What stands before an @ in a URL may be a password.
            got = f"; got {_short(value)}" if key and "@" not in value else ""
            lines.append(f"{prefix}{_short(problem['msg'].removeprefix('Value error, '))}{got}")
    return lines
