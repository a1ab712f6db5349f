"""Settings of every service: one heimdall.toml, overridden by HEIMDALL_<SECTION>_<KEY>, refused loudly when wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Literal, get_args

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
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
    ("HEIMDALL_CONFIG", "HEIMDALL_REALDATA", "HEIMDALL_TOOL_CACHE", "HEIMDALL_CONTRACT_BASE")
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
    """Folder of spool, objects and database; a relative path starts at the folder of heimdall.toml."""
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
    return settings.model_copy(
        update={
            "fetcher": settings.fetcher.model_copy(
                update={
                    "receivers_file": (base / settings.fetcher.receivers_file).resolve(),
                    "state_file": (base / settings.fetcher.state_file).resolve(),
                }
            ),
            "storage": settings.storage.model_copy(update={"data_dir": (base / settings.storage.data_dir).resolve()}),
        }
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
            lines.append(f"{place}: {entry['msg']}; got {entry['input']!r}")
    return "\n".join(lines)


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """Names the keys that would be right where an unknown one stands."""
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        inner = None if field is None else field.annotation
        for candidate in (inner, *get_args(inner)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return f"known here: {', '.join(sorted(model.model_fields))}"
