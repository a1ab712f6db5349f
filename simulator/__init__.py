"""Simulated receivers that speak the real wire protocols, for the demo, tests and docs."""

from __future__ import annotations

from simulator.faults import Fault
from simulator.kiwi_wav import KiwiWavError
from simulator.network import Simulator
from simulator.records import ReceivedCommand, SentFrame
from simulator.scenario import (
    EmitterSpec,
    LimitSpec,
    Scenario,
    ScenarioError,
    StationSpec,
    ToneSpec,
    load_scenario,
)

__all__ = [
    "EmitterSpec",
    "Fault",
    "KiwiWavError",
    "LimitSpec",
    "ReceivedCommand",
    "Scenario",
    "ScenarioError",
    "SentFrame",
    "Simulator",
    "StationSpec",
    "ToneSpec",
    "load_scenario",
]
