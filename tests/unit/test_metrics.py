"""Names of metrics."""

from __future__ import annotations

import pytest

from heimdall.client import acquisition_spec
from heimdall.common.v1.measurement_pb2 import Metric
from heimdall.metrics import METRIC_NAMES, metric_named


def test_names_are_those_of_the_contract() -> None:
    assert [metric_named(name) for name in METRIC_NAMES] == [number for number in Metric.values() if number]
    assert metric_named("occupied-bandwidth") == Metric.METRIC_OCCUPIED_BANDWIDTH


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no metric 'unspecified'; there are power, noise, snr"):
        metric_named("unspecified")


def test_a_spec_takes_names() -> None:
    spec = acquisition_spec(7.1e6, 1.0, ["rx"], metrics=["kurtosis", "snr"])
    assert list(spec.measurement.metrics) == [Metric.METRIC_KURTOSIS, Metric.METRIC_SNR]
