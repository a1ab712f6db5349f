"""Settings of every service: one heimdall.toml, overridden by HEIMDALL_<SECTION>_<KEY>, refused loudly when wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Literal, get_args

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, SecretStr, StringConstraints, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings.exceptions import SettingsError as EnvironmentParseError

Port = Annotated[int, Ge(0), Le(65535)]
Seconds = Annotated[float, Gt(0), Le(86400)]
ByteCount = Annotated[int, Gt(0)]
Count = Annotated[int, Gt(0), Le(1_000_000)]

_PREFIX: Final = "HEIMDALL_"
_OTHER_VARIABLES: Final = frozenset(
    (
        "HEIMDALL_CONFIG",
        "HEIMDALL_REALDATA",
        "HEIMDALL_TOOL_CACHE",
        "HEIMDALL_CONTRACT_BASE",
        "HEIMDALL_TEST_TIMESCALE_DSN",
    )
)
"""Variables of this project that are not settings: where the file is, and what development needs."""


class SettingsError(Exception):
    """The configuration can not be used; the text names each key, its value and what would be right."""


class Section(BaseModel):
    """Base of the sections of heimdall.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class LogSettings(Section):
    """How the services log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged."""
    format: Literal["logfmt", "json"] = "logfmt"
    """One key=value line an event, or one JSON object."""
    vitals_interval_s: Annotated[float, Ge(0), Le(86400)] = 0.0
    """How often a service logs its memory, open files, threads and tasks as `event=vitals`; 0 for never."""


class MeshSettings(Section):
    """Where the services find each other, and how they leave."""

    host: Annotated[str, StringConstraints(min_length=1)] = "127.0.0.1"
    """Address that every service listens on."""
    coordinator_target: str = "127.0.0.1:50051"
    """gRPC target of the coordinator, for the command line and other clients."""
    fetcher_targets: tuple[str, ...] = ("127.0.0.1:50052",)
    """gRPC targets of the fetchers; each owns its receivers."""
    dsp_target: str = "127.0.0.1:50053"
    """gRPC target of the DSP service."""
    storage_target: str = "127.0.0.1:50054"
    """gRPC target of the storage service."""
    drain_notice_s: Annotated[float, Ge(0), Le(300)] = 5.0
    """How long a stopping service only tells balancers NOT_SERVING before it refuses work; 0 under `heimdall up`."""
    drain_timeout_s: Annotated[float, Ge(0), Le(600)] = 30.0
    """How long a stopping service waits for running work."""
    heartbeat_interval_s: Seconds = 5.0
    """How often an idle stream is kept alive."""
    idle_timeout_s: Seconds = 15.0
    """Silence that ends a stream."""


class CoordinatorSettings(Section):
    """The coordinator."""

    port: Port = 50051
    """Port to listen on; 0 takes a free one."""
    max_duration_s: Seconds = 300.0
    """Longest window of an acquisition."""
    max_wait_s: Seconds = 60.0
    """Longest time that a caller may have us wait for receivers."""
    default_wait_s: Seconds = 5.0
    """Time to wait for receivers if the caller does not say."""
    finish_allowance_s: Seconds = 30.0
    """Time after the window's end in which an acquisition has to become terminal."""
    max_acquisition_count: Count = 64
    """Most acquisitions that run at once."""
    max_receiver_count: Count = 100
    """Most receivers in one acquisition."""
    unacknowledged_bytes: ByteCount = 4 * 1024 * 1024
    """Most sample bytes of one receiver that are held until storage acknowledges them."""


class FetcherSettings(Section):
    """The fetcher."""

    port: Port = 50052
    """Port to listen on; 0 takes a free one."""
    receivers_file: Path = Path("config/receivers.toml")
    """The receivers that this fetcher owns; a relative path starts at the folder of heimdall.toml."""
    state_file: Path = Path("heimdall-data/fetcher.sqlite3")
    """What stations asked of us, for the next start; a relative path starts at the folder of heimdall.toml."""
    ring_bytes: ByteCount = 8 * 1024 * 1024
    """Most sample bytes that one stream holds for a slow consumer before the oldest are dropped."""
    max_stream_count: Count = 64
    """Most streams at once."""
    clock_limit_s: Seconds = 60.0
    """Largest distance of a receiver's time from the host clock at which it is still trusted."""
    gps_utc_offset_s: Annotated[int, Ge(0), Le(100)] = 18
    """Leap seconds between GPS and UTC; 18 since 2017."""
    user_name: Annotated[str, StringConstraints(pattern=r"^\S{1,32}$")] = "heimdall"
    """Name given to receivers that ask who connects; no white space."""


class DspSettings(Section):
    """The DSP service."""

    port: Port = 50053
    """Port to listen on; 0 takes a free one."""
    max_stream_count: Count = 128
    """Most streams at once."""
    worker_count: Annotated[int, Ge(0), Le(256)] = 0
    """Threads that compute; 0 means one a core."""


class StorageSettings(Section):
    """The storage service."""

    port: Port = 50054
    """Port to listen on; 0 takes a free one."""
    data_dir: Path = Path("heimdall-data")
    """Folder of the spool, and of the embedded stores; a relative path starts at the folder of heimdall.toml."""
    objects: Literal["directory", "minio"] = "directory"
    """Where samples go: a directory in data_dir, or the bucket of the section minio."""
    rows: Literal["sqlite", "timescale"] = "sqlite"
    """Where measurements go: a file in data_dir, or the database of the section timescale."""
    max_stream_count: Count = 128
    """Most streams at once."""
    spool_max_bytes: ByteCount = 20 * 1024**3
    """Most bytes that unfinished and not yet stored recordings may take on disk."""
    sync_interval_s: Annotated[float, Gt(0), Le(10)] = 0.25
    """Longest time that received samples wait to be made durable."""
    sync_bytes: ByteCount = 1024 * 1024
    """Most bytes of one recording that wait to be made durable."""
    resume_window_s: Seconds = 60.0
    """How long an abandoned recording waits for its writer."""
    rows_spool_max_bytes: ByteCount = 1024**3
    """Most bytes on disk of rows that wait for a database that is away."""


class MinioSettings(Section):
    """The object store, MinIO or another with the S3 protocol, if storage.objects is minio."""

    endpoint: Annotated[str, StringConstraints(pattern=r"^https?://[^/\s@]+$")] = "http://127.0.0.1:9000"
    """Scheme, host and port; https asks for TLS."""
    public_endpoint: Annotated[str, StringConstraints(pattern=r"^https?://[^/\s@]+$")] | None = None
    """Scheme, host and port where those who download by URL reach the store, if that is another."""
    access_key: SecretStr | None = None
    """User of the store."""
    secret_key: SecretStr | None = None
    """Password of the user."""
    access_key_file: Path | None = None
    """File that holds the user instead."""
    secret_key_file: Path | None = None
    """File that holds the password instead."""
    ca_file: Path | None = None
    """PEM file of certificates to trust instead of the system's."""
    region: Annotated[str, StringConstraints(min_length=1)] = "us-east-1"
    """Region of the bucket."""
    part_bytes: Annotated[int, Ge(5 * 1024**2), Le(5 * 1024**3)] = 16 * 1024**2
    """Size of the parts in which a large object is uploaded."""
    upload_count: Annotated[int, Ge(1), Le(64)] = 4
    """Most uploads at once; each holds a few parts in memory."""
    timeout_s: Seconds = 30.0
    """Longest wait for the store to take or give something."""


class TimescaleSettings(Section):
    """The database, TimescaleDB or plain PostgreSQL, if storage.rows is timescale."""

    dsn: SecretStr = SecretStr("postgresql://heimdall_user@127.0.0.1:5432/heimdall")
    """As postgresql://user@host:port/database?sslmode=verify-full, with / ? # @ % [ ] in user or password encoded."""
    password: SecretStr | None = None
    """Password of the user."""
    password_file: Path | None = None
    """File that holds the password instead."""
    max_connection_count: Annotated[int, Ge(1), Le(100)] = 8
    """Most connections at once."""
    connect_timeout_s: Seconds = 5.0
    """Longest wait for a connection."""
    statement_timeout_s: Seconds = 10.0
    """Longest time that a statement may take; the database then counts as away."""
    batch_interval_s: Annotated[float, Ge(0), Le(10)] = 0.05
    """Longest time that rows are collected before they are written together."""
    batch_row_count: Annotated[int, Ge(1), Le(100_000)] = 1000
    """Number of collected rows that are written at once."""
    use_copy: bool = True
    """Whether rows travel by COPY; without it by INSERT, which is slower and works through everything."""
    chunk_days: Annotated[float, Gt(0), Le(366)] = 1.0
    """Length of a hypertable's chunk, when it is made."""
    compress_after_days: Annotated[float, Ge(0), Le(36_600)] = 7.0
    """Age at which chunks are compressed; 0 for never."""
    retention_days: Annotated[float, Ge(0), Le(36_600)] = 30.0
    """Age at which measurements are deleted; 0 for never."""
    aggregate_interval_s: Annotated[float, Ge(60), Le(86400)] = 1800.0
    """How often the hourly aggregate is brought up to date; what is newer is summarised when asked."""


class Settings(BaseSettings):
    """All settings."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter="_",
        env_nested_max_split=1,
        frozen=True,
        extra="forbid",
    )

    log: LogSettings = LogSettings()
    mesh: MeshSettings = MeshSettings()
    coordinator: CoordinatorSettings = CoordinatorSettings()
    fetcher: FetcherSettings = FetcherSettings()
    dsp: DspSettings = DspSettings()
    storage: StorageSettings = StorageSettings()
    minio: MinioSettings = MinioSettings()
    timescale: TimescaleSettings = TimescaleSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Puts the environment above the file."""
        return init_settings, env_settings


def load_settings(path: Path | None = None) -> Settings:
    """Reads the settings.

    Args:
        path: The heimdall.toml; default: HEIMDALL_CONFIG, else defaults and environment only.

    Returns:
        The settings, with paths relative to the folder of the file made absolute.

    Raises:
        SettingsError: If the file can not be read or a key or value is wrong.
    """
    _refuse_unknown_variables()
    if path is None and "HEIMDALL_CONFIG" in os.environ:
        path = Path(os.environ["HEIMDALL_CONFIG"])
    if path is not None and not path.is_file():
        raise SettingsError(f"{path}: no such file; --config and HEIMDALL_CONFIG name a heimdall.toml")

    class FileSettings(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return env_settings, TomlConfigSettingsSource(settings_cls, path)

    try:
        settings: Settings = FileSettings()
    except ValidationError as error:
        raise SettingsError(describe(error, Settings, _source(path))) from error
    except EnvironmentParseError as error:
        raise SettingsError(f'environment: {error}; a list is written like ["127.0.0.1:50052"]') from error
    except ValueError as error:
        raise SettingsError(f"{path or 'environment'}: {error}") from error
    base = path.parent.resolve() if path is not None else Path.cwd()
    return settings.model_copy(update={name: _absolute(section, base) for name, section in settings})


def read_secret(key: str, value: SecretStr | None, file: Path | None) -> str | None:
    """Returns a secret from its setting, or from the file that is named instead.

    Args:
        key: The setting, such as minio.secret_key; that of the file has _file behind it.
        value: Its value.
        file: The file: one line of text.

    Returns:
        The secret; None if neither is set.

    Raises:
        SettingsError: If both are set, or the file can not be read or is empty.
    """
    if file is None:
        return None if value is None else value.get_secret_value()
    if value is not None:
        raise SettingsError(f"{key} and {key}_file are both set; leave one out")
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{key}_file: {file}: can not be read: {error}") from error
    if not secret:
        raise SettingsError(f"{key}_file: {file}: is empty; it must hold the secret")
    return secret


def _absolute(section: Section, base: Path) -> Section:
    """Returns a section whose paths do not depend on the current folder."""
    return section.model_copy(
        update={name: (base / value).resolve() for name, value in section if isinstance(value, Path)}
    )


def _refuse_unknown_variables() -> None:
    """Refuses a variable that looks like ours and names no section; pydantic refuses unknown keys within a section.

    Raises:
        SettingsError: If there is such a variable.
    """
    sections = tuple(f"{_PREFIX}{name.upper()}_" for name in Settings.model_fields)
    for name in sorted(os.environ):
        if name.startswith(_PREFIX) and name not in _OTHER_VARIABLES and not name.startswith(sections):
            raise SettingsError(f"environment: {name}: no such setting; names begin with {', '.join(sections)}")


def _source(path: Path | None) -> Callable[[str], str]:
    """Returns what tells where the value of a key came from: its variable if that is set, else the file."""

    def source(key: str) -> str:
        variable = f"{_PREFIX}{key.replace('.', '_').upper()}"
        return f"environment {variable}" if variable in os.environ or path is None else str(path)

    return source


def describe(error: ValidationError, model: type[BaseModel], source: str | Callable[[str], str]) -> str:
    """Returns one line for each wrong key: where it is, its value, what would be right.

    Args:
        error: What pydantic refused.
        model: The model that was being read, for the names of the keys it knows.
        source: Where the values came from, such as the path of a file, or what tells that for a key.
    """
    lines = []
    for entry in error.errors():
        key = ".".join(str(part) for part in entry["loc"])
        place = f"{source if isinstance(source, str) else source(key)}: {key}"
        if entry["type"] == "extra_forbidden":
            lines.append(f"{place}: no such key (value {entry['input']!r}); {_known_keys(model, entry['loc'])}")
        elif entry["type"] == "missing":
            lines.append(f"{place}: is required and missing")
        else:
            # Pydantic's text of a secret does not show it, but the value that it gives beside it would.
            got = "a secret" if _is_secret(model, entry["loc"]) else repr(entry["input"])
            lines.append(f"{place}: {entry['msg']}; got {got}")
    return "\n".join(lines)


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """Names the keys that would be right where an unknown one stands."""
    return f"known here: {', '.join(sorted(_model_at(model, location).model_fields))}"


def _is_secret(model: type[BaseModel], location: tuple[int | str, ...]) -> bool:
    """Returns whether the value at a place must not be shown."""
    field = _model_at(model, location).model_fields.get(str(location[-1])) if location else None
    return field is not None and SecretStr in (field.annotation, *get_args(field.annotation))


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    """Returns the model that has the last key of a place."""
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        inner = None if field is None else field.annotation
        for candidate in (inner, *get_args(inner)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return model
