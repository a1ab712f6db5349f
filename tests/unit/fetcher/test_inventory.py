"""receivers.toml: what is accepted, and what is said of everything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from fetcher_svc.inventory import load_receivers, read_password
from heimdall.runtime.settings import SettingsError

GOOD = {
    "receiver_id": '"torino"',
    "name": '"Torino"',
    "driver": '"kiwisdr"',
    "url": '"http://127.0.0.1:8073"',
    "latitude_deg": "45.044",
    "longitude_deg": "7.672",
    "altitude_m": "250",
    "min_frequency_hz": "144e6",
    "max_frequency_hz": "146e6",
}


def write(path: Path, *entries: dict[str, str]) -> Path:
    file = path / "receivers.toml"
    text = "\n".join("[[receiver]]\n" + "\n".join(f"{k} = {v}" for k, v in entry.items()) for entry in entries)
    file.write_text(text)
    return file


def test_shipped_example_is_the_seven_stations(repo_root: Path) -> None:
    receivers = load_receivers(repo_root / "config" / "receivers.toml")
    assert [receiver.receiver_id for receiver in receivers] == [
        "aquila-di-giaveno",
        "montanaro",
        "torino",
        "coazze",
        "passo-dei-giovi",
        "genova",
        "milano-baggio",
    ]
    assert [receiver.url for receiver in receivers] == [f"http://127.0.0.1:{port}" for port in range(8073, 8080)]
    for receiver in receivers:
        assert (receiver.min_frequency_hz, receiver.max_frequency_hz) == (144e6, 146e6)
        assert receiver.converter_offset_hz == 116e6
        assert receiver.slots == 1
    genova = receivers[5]
    assert (genova.latitude_deg, genova.longitude_deg, genova.altitude_m) == (44.395, 8.956, 100)


def test_defaults(tmp_path: Path) -> None:
    (receiver,) = load_receivers(write(tmp_path, GOOD))
    assert (receiver.converter_offset_hz, receiver.slots, receiver.gain_db) == (0, 1, 50)


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        ({"receiver_id": '"Torino!"'}, ["receiver_id", "[a-z0-9]", "'Torino!'"]),
        ({"driver": '"websdr"'}, ["driver", "'kiwisdr'", "'websdr'"]),
        ({"url": '"torino:8073"'}, ["url", "http://host:port", "'torino:8073'"]),
        ({"url": '"http://a:99999"'}, ["url", "no URL", "http://host:port"]),
        ({"url": '"http://a:8073/x"'}, ["url", "without path"]),
        ({"url": '"http://u:secret@a:8073"'}, ["url", "password_env"]),
        ({"latitude_deg": "91"}, ["latitude_deg", "90", "91"]),
        ({"longitude_deg": '"east"'}, ["longitude_deg", "number", "'east'"]),
        ({"max_frequency_hz": "143e6"}, ["max_frequency_hz 1.43e+08", "above min_frequency_hz"]),
        ({"slots": "0"}, ["slots", "1", "0"]),
        ({"gain_db": "50.5"}, ["gain_db", "integer", "50.5"]),
        ({"frequency": "1"}, ["frequency", "no such key", "min_frequency_hz"]),
        ({"password": '"hunter2"'}, ["password", "no such key", "password_env"]),
        ({"password_env": '"HEIMDALL_NOT_SET"'}, ["password_env", "HEIMDALL_NOT_SET", "not set"]),
        ({"password_file": '"absent.txt"'}, ["password_file", "absent.txt"]),
    ],
)
def test_errors_name_receiver_key_value_and_remedy(tmp_path: Path, change: dict[str, str], texts: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load_receivers(write(tmp_path, GOOD | change))
    for text in [*texts, "receivers.toml"]:
        assert text in str(caught.value)
    if "receiver_id" not in change:
        assert "'torino'" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    other = {key: value for key, value in GOOD.items() if key != "url"} | {"receiver_id": '"genova"', "slots": "99"}
    with pytest.raises(SettingsError) as caught:
        load_receivers(write(tmp_path, GOOD | {"latitude_deg": "91"}, other))
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "receiver 'genova': url: is required and missing" in str(caught.value)


def test_ids_are_unique(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"'torino'.*2 times"):
        load_receivers(write(tmp_path, GOOD, GOOD))


@pytest.mark.parametrize(
    ("text", "message"),
    [("[[receiver]", "not TOML"), ("receiver = 1", "list of tables"), ("", "holds 0"), ("other = 1", "other")],
)
def test_files_that_are_no_receivers(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "receivers.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=message):
        load_receivers(file)


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="can not be read"):
        load_receivers(tmp_path / "receivers.toml")


def test_passwords_come_from_environment_or_file(tmp_path: Path) -> None:
    (tmp_path / "pw.txt").write_text("von der Datei\nrest\n")
    file = write(tmp_path, GOOD | {"password_env": '"PW"'}, GOOD | {"receiver_id": '"g"', "password_file": '"pw.txt"'})
    environ = {"PW": "from environment"}
    receivers = load_receivers(file, environ)
    assert [read_password(receiver, environ) for receiver in receivers] == ["from environment", "von der Datei"]
