"""receivers.toml: what is accepted, and what is said of everything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from fetcher_svc.inventory import load_receivers, parse_receivers, read_password
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
        ({"url": '"http://a..b:8073"'}, ["url", "no URL", "label", "http://host:port"]),
        ({"url": '"http://tor\\nino:8073"'}, ["url", "white space", r"'http://tor\nino:8073'"]),
        ({"url": '"http://u:secret@[::1"'}, ["url", "is no URL; write http://host:port"]),
        ({"url": '"http://u:secret@\u2100"'}, ["url", "is no URL; write http://host:port"]),
        ({"latitude_deg": "91"}, ["latitude_deg", "90", "91"]),
        ({"latitude_deg": "nan"}, ["latitude_deg", "nan"]),
        ({"longitude_deg": '"east"'}, ["longitude_deg", "number", "'east'"]),
        ({"max_frequency_hz": "143e6"}, ["max_frequency_hz 1.43e+08", "above min_frequency_hz"]),
        ({"slots": "0"}, ["slots", "1", "0"]),
        ({"slots": f"0x{'f' * 5000}"}, ["slots", "a value of type int that is too large to show"]),
        ({"password_env" + ".a" * 1500: "1"}, ["password_env: ", "string", "of type dict that is too large to show"]),
        ({"name": f'"{"x" * 5000}"'}, ["name: ", "200 characters", "got 'xxx", "…"]),
        ({"gain_db": "50.5"}, ["gain_db", "integer", "50.5"]),
        ({"frequency": "1"}, ["frequency", "no such key", "min_frequency_hz"]),
        ({"password": '"hunter2"'}, ["password", "no such key", "password_env"]),
        ({"password_env": '"HEIMDALL_NOT_SET"'}, ["password_env", "HEIMDALL_NOT_SET", "not set"]),
        ({"password_file": '"absent.txt"'}, ["password_file", "absent.txt"]),
        ({"password_file": '"a\\u0000b"'}, ["password_file", "a\\x00b", "can not be read"]),
    ],
)
def test_errors_name_receiver_key_value_and_remedy(tmp_path: Path, change: dict[str, str], texts: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load_receivers(write(tmp_path, GOOD | change))
    for text in [*texts, "receivers.toml"]:
        assert text in str(caught.value)
    assert len(str(caught.value)) < 1000
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
    [
        ("[[receiver]", "not TOML"),
        ("receiver = 1", "list of tables"),
        ("", "holds 0"),
        ("other = 1", "other"),
        ("receiver = " + "[" * 2000, r"nested too deeply; receivers are written as \[\[receiver\]\]"),
        ("receiver = " + "9" * 5000, "is not TOML: .*5000 digits"),
        ("\udcff", "is not TOML: .*utf-8"),
    ],
)
def test_files_that_are_no_receivers(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "receivers.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
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


def test_right_receivers_and_problems_of_the_others_come_together(tmp_path: Path) -> None:
    content = write(tmp_path, GOOD, GOOD | {"receiver_id": '"genova"', "slots": "99"}).read_bytes()
    receivers, problems = parse_receivers(content, Path("net.toml"))
    assert [receiver.receiver_id for receiver in receivers] == ["torino"]
    (problem,) = problems
    assert problem.startswith("net.toml: receiver 'genova': slots: ")
    assert problem.endswith("; got 99")


RECORD = """{ offset_db = -41.3, gain_db = 50, uncertainty_db = 1.5, source = "generator", date = 2026-05-01 }"""


def test_calibration_record(tmp_path: Path) -> None:
    (receiver,) = load_receivers(write(tmp_path, GOOD | {"calibration": RECORD}))
    record = receiver.calibration
    assert record is not None
    assert (record.offset_db, record.gain_db, record.uncertainty_db) == (-41.3, 50, 1.5)
    assert (record.source, record.date.isoformat()) == ("generator", "2026-05-01")


@pytest.mark.parametrize(
    ("old", "new", "texts"),
    [
        ("-41.3", "nan", ["calibration.offset_db", "nan"]),
        ("1.5", "0", ["calibration.uncertainty_db", "0"]),
        ("2026-05-01", '"lately"', ["calibration.date", "'lately'"]),
        ('"generator"', '""', ["calibration.source"]),
        (", gain_db = 50", "", ["calibration.gain_db"]),
        ("gain_db", "gain", ["calibration.gain", "calibration.gain_db"]),
    ],
)
def test_wrong_calibration_record_is_named(tmp_path: Path, old: str, new: str, texts: list[str]) -> None:
    file = write(tmp_path, GOOD | {"calibration": RECORD.replace(old, new)})
    with pytest.raises(SettingsError) as caught:
        load_receivers(file)
    for text in texts:
        assert text in str(caught.value)
