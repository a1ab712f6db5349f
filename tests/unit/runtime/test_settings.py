"""Settings: file and environment, and refusals that name the key, its value and what would be right."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from heimdall.runtime.settings import SettingsError, load_settings


@pytest.fixture(autouse=True)
def _no_other_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("HEIMDALL_")]:
        monkeypatch.delenv(name)


def _file(folder: Path, text: str) -> Path:
    path = folder / "heimdall.toml"
    path.write_text(text)
    return path


def test_defaults_are_those_of_the_design() -> None:
    settings = load_settings()
    ports = (settings.coordinator.port, settings.fetcher.port, settings.dsp.port, settings.storage.port)
    assert ports == (50051, 50052, 50053, 50054)
    assert settings.mesh.host == "127.0.0.1"
    assert (settings.mesh.heartbeat_interval_s, settings.mesh.idle_timeout_s) == (5, 15)
    assert (settings.mesh.drain_notice_s, settings.mesh.drain_timeout_s) == (5, 30)
    assert settings.coordinator.max_duration_s == 300
    assert settings.coordinator.unacknowledged_bytes == 4 * 2**20
    assert settings.fetcher.ring_bytes == 8 * 2**20


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _file(tmp_path, "[storage]\nport = 6001\nsync_bytes = 2048\n")
    monkeypatch.setenv("HEIMDALL_STORAGE_PORT", "6002")
    monkeypatch.setenv("HEIMDALL_MESH_FETCHER_TARGETS", '["a:1", "b:2"]')
    settings = load_settings(path)
    assert (settings.storage.port, settings.storage.sync_bytes) == (6002, 2048)
    assert settings.mesh.fetcher_targets == ("a:1", "b:2")


def test_relative_paths_start_at_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _file(tmp_path, '[storage]\ndata_dir = "data"\n[fetcher]\nreceivers_file = "/etc/receivers.toml"\n')
    monkeypatch.setenv("HEIMDALL_CONFIG", str(path))
    settings = load_settings()
    assert settings.storage.data_dir == tmp_path / "data"
    assert settings.fetcher.state_file == tmp_path / "heimdall-data" / "fetcher.sqlite3"
    assert settings.fetcher.receivers_file == Path("/etc/receivers.toml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[storage]\nprot = 6001\n", ["storage.prot", "no such key", "6001", "known here", " port,"]),
        ("[stroage]\nport = 1\n", ["stroage", "no such key", "storage"]),
        ('[storage]\nport = "many"\n', ["storage.port", "integer", "'many'"]),
        ("[fetcher]\nport = 65536\n", ["fetcher.port", "65535", "65536"]),
        ("[mesh]\ndrain_timeout_s = nan\n", ["mesh.drain_timeout_s", "nan"]),
        ("[mesh]\nhost = ''\n", ["mesh.host", "at least 1 character"]),
        ('[log]\nlevel = "loud"\n', ["log.level", "'debug', 'info', 'warning' or 'error'", "'loud'"]),
        ("[fetcher]\nuser_name = 'two words'\n", ["fetcher.user_name", "'two words'"]),
        ("storage = 5\n", ["storage", "5"]),
        ("[storage\n", ["line 1"]),
        ("[storage]\nport = 1\nport = 2\n", ["line 3"]),
    ],
)
def test_a_wrong_file_is_refused_with_key_value_and_remedy(tmp_path: Path, text: str, expected: list[str]) -> None:
    path = _file(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    for part in [str(path), *expected]:
        assert part in str(caught.value)


def test_every_wrong_key_is_named_at_once(tmp_path: Path) -> None:
    path = _file(tmp_path, "[storage]\nprot = 6001\nsync_interval_s = 0\n[mesh]\nhots = 'x'\n")
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("HEIMDALL_STORAGE_PORT", "7x", ["storage.port", "'7x'", "integer"]),
        ("HEIMDALL_STORAGE_PROT", "7", ["storage.prot", "no such key"]),
        ("HEIMDALL_STROAGE_PORT", "7", ["no such setting", "HEIMDALL_STORAGE_"]),
        ("HEIMDALL_MESH_FETCHER_TARGETS", "a:1,b:2", ["mesh", '["127.0.0.1:50052"]']),
        ("HEIMDALL_LOG", "debug", ["no such setting", "HEIMDALL_LOG_"]),
    ],
)
def test_a_wrong_variable_is_refused_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: list[str]
) -> None:
    path = _file(tmp_path, "[storage]\nport = 6001\n")
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    assert "environment" in str(caught.value)
    for part in expected:
        assert part in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.toml: no such file"):
        load_settings(tmp_path / "nowhere.toml")


def test_variables_of_development_are_not_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEIMDALL_REALDATA", "anywhere")
    monkeypatch.setenv("HEIMDALL_TOOL_CACHE", "anywhere")
    load_settings()
