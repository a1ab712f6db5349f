"""Scenario files: what is accepted, and how errors read."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from simulator import Fault, Scenario, ScenarioError, StationSpec, load_scenario

STATION = 'id = "torino"\nlatitude_deg = 45.0\nlongitude_deg = 7.0\naltitude_m = 250.0\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "scenario.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_demo_simulates_the_seven_stations(repo_root: Path) -> None:
    scenario = load_scenario(repo_root / "config" / "demo.toml")
    assert {s.id: (s.latitude_deg, s.longitude_deg, s.altitude_m) for s in scenario.station} == {
        "aquila-di-giaveno": (45.02, 7.29, 600),
        "montanaro": (45.234, 7.857, 300),
        "torino": (45.044, 7.672, 250),
        "coazze": (45.03, 7.27, 700),
        "passo-dei-giovi": (44.561, 8.956, 480),
        "genova": (44.395, 8.956, 100),
        "milano-baggio": (45.478, 9.123, 120),
    }
    assert [s.port for s in scenario.station] == list(range(8073, 8080))
    assert {s.converter_offset_hz for s in scenario.station} == {116e6}


def test_defaults_are_those_of_a_four_channel_kiwi(tmp_path: Path) -> None:
    station = load_scenario(write(tmp_path, f"[[station]]\n{STATION}")).station[0]
    assert station.sample_rate_hz == pytest.approx(11998.902, abs=0.0005)
    assert (station.chunk_sample_count, station.rx_chans, station.gnss) == (170, 4, "fix")


def test_replay_path_is_relative_to_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, f'[[station]]\n{STATION}replay = "files/a.wav"\n')
    assert load_scenario(path).station[0].replay == tmp_path / "files" / "a.wav"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"[[station]]\n{STATION}gnss = 'fxi'\n", ["station[torino].gnss", "'fxi'", "'no_fix'"]),
        (f"[[station]]\n{STATION}noise = 3\n", ["station[torino].noise", "unknown key", "noise_dbm_per_hz"]),
        ("[[station]]\nid = 'a'\n", ["station[a].latitude_deg", "is missing"]),
        (f"[[station]]\n{STATION.replace('45.0', '145.0')}", ["latitude_deg", "145.0", "less than or equal to 90"]),
        (f"[[station]]\n{STATION}\n[[station]]\n{STATION}", ["station id 'torino'", "more than once"]),
        (
            f"[[station]]\n{STATION}[[station.fault]]\nkind = 'lost_frames'\n",
            ["station[torino].fault[0]", "needs frame_count"],
        ),
        (
            f"[[station]]\n{STATION}[[station.fault]]\nkind = 'silent_loss'\nsample_count = 100\n",
            ["sample_count is 100", "multiple of 170"],
        ),
        (f"[[station]]\n{STATION}limits = {{ auth = 3 }}\n", ["limits.auth", "unknown key", "auth_s"]),
        ("", ["station: is missing"]),
        ("[[station", ["no valid TOML"]),
    ],
)
def test_error_names_key_value_and_what_would_be_right(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ScenarioError) as caught:
        load_scenario(write(tmp_path, text))
    for word in words:
        assert word in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"cannot read scenario .*absent\.toml"):
        load_scenario(tmp_path / "absent.toml")


def test_python_and_toml_describe_the_same_thing(tmp_path: Path) -> None:
    text = f"seed = 7\n[[station]]\n{STATION}[[station.fault]]\nkind = 'drop'\nafter_frame = 3\n"
    built = Scenario(
        seed=7,
        station=(
            StationSpec(
                id="torino",
                latitude_deg=45.0,
                longitude_deg=7.0,
                altitude_m=250.0,
                fault=(Fault(kind="drop", after_frame=3),),
            ),
        ),
    )
    assert load_scenario(write(tmp_path, text)) == built == Scenario.model_validate(tomllib.loads(text))
