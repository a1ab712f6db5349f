"""Names of what can be measured, as callers and the command line give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from heimdall.common.v1.measurement_pb2 import Metric
from heimdall.errors import FieldViolation

_PREFIX: Final = "METRIC_"
METRIC_NAMES: Final = tuple(
    name.removeprefix(_PREFIX).lower().replace("_", "-") for name, number in Metric.items() if number
)
"""The metrics as people write them, such as occupied-bandwidth."""


def metric_named(name: str) -> Metric.ValueType:
    """Returns the metric of a name out of METRIC_NAMES.

    Raises:
        ValueError: If there is no such metric.
    """
    if name not in METRIC_NAMES:
        raise ValueError(f"there is no metric {name!r}; there are {', '.join(METRIC_NAMES)}")
    return Metric.Value(_PREFIX + name.upper().replace("-", "_"))


def metric_violations(field: str, metrics: Sequence[Metric.ValueType]) -> list[FieldViolation]:
    """Checks the metrics that somebody asks for: each must be known, and named once.

    Args:
        field: Path of the list in its request.
        metrics: The list.
    """
    found = list[FieldViolation]()
    known = set(Metric.values()) - {Metric.METRIC_UNSPECIFIED}
    if len(metrics) > len(known):
        return [FieldViolation(field, f"has {len(metrics)} entries; there are {len(known)} metrics, name each once")]
    for place, metric in enumerate(metrics):
        if metric not in known:
            text = f"{metric} is none of {', '.join(Metric.Name(number) for number in sorted(known))}"
            found.append(FieldViolation(f"{field}[{place}]", text))
        elif metric in metrics[:place]:
            found.append(FieldViolation(f"{field}[{place}]", f"names {Metric.Name(metric)} again; name each once"))
    return found
