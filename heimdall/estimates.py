"""The estimates of a measurement as columns of a table."""

from __future__ import annotations

import json
from typing import Final

from heimdall.common.v1.measurement_pb2 import Estimate, Measurement

ESTIMATES: Final = tuple(
    field.name
    for field in Measurement.DESCRIPTOR.fields
    if field.message_type is not None and field.message_type.full_name == Estimate.DESCRIPTOR.full_name
)
"""Fields of a measurement that are estimates; their columns have the same names."""

_VALIDITIES: Final = {number: name.removeprefix("VALIDITY_") for name, number in Estimate.Validity.items()}


def validity_label(estimate: Estimate) -> str:
    """Returns how far a value can be trusted, such as UPPER_LIMIT; a number this version does not know as is."""
    return _VALIDITIES.get(estimate.validity, str(estimate.validity))


def estimate_details(measurement: Measurement) -> str:
    """Returns the column that says how far to trust each estimate: JSON of its validity, sigma, reason and method."""
    return json.dumps(
        {
            name: _detail(getattr(measurement, name))
            for name in ESTIMATES
            if measurement.HasField(name)  # type: ignore[arg-type]  # a name from the descriptor
        },
        separators=(",", ":"),
    )


def _detail(estimate: Estimate) -> dict[str, object]:
    detail: dict[str, object] = {"validity": validity_label(estimate)}
    if estimate.HasField("sigma"):
        detail["sigma"] = estimate.sigma
    if estimate.reason:
        detail["reason"] = estimate.reason
    if estimate.method:
        detail["method"] = estimate.method
    return detail
