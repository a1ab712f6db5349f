from __future__ import annotations

import pytest

from simulator import Scenario, ScenarioError, StationSpec
from simulator.__main__ import with_ports


def _scenario() -> Scenario:
    stations = tuple(
        StationSpec(id=name, port=port, latitude_deg=45.0, longitude_deg=7.0, altitude_m=0.0)
        for name, port in (("a", 8073), ("b", 8074))
    )
    return Scenario(station=stations)


def test_a_named_station_gets_its_port_and_the_others_keep_theirs() -> None:
    changed = with_ports(_scenario(), ["b=9000"])
    assert [(station.id, station.port) for station in changed.station] == [("a", 8073), ("b", 9000)]


@pytest.mark.parametrize(
    ("assignment", "text"),
    [
        ("c=9000", "no such station; there are a, b"),
        ("b", "ID=PORT was expected"),
        ("b=65536", "0 to 65535"),
        ("b=x", "ID=PORT was expected"),
    ],
)
def test_a_wrong_assignment_is_refused_with_what_would_be_right(assignment: str, text: str) -> None:
    with pytest.raises(ScenarioError, match=text):
        with_ports(_scenario(), [assignment])
