"""The estimates of a measurement as columns of a table."""

from __future__ import annotations

import json
from functools import lru_cache
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
    return _validity_label(estimate.validity)


def estimate_details(measurement: Measurement) -> str:
    """Returns the column that says how far to trust each estimate: JSON of its validity, sigma, reason and method."""
    members = (
        estimate_detail(name, getattr(measurement, name))
        for name in ESTIMATES
        if measurement.HasField(name)  # type: ignore[arg-type]  # a name from the descriptor
    )
    return f"{{{','.join(members)}}}"


def estimate_detail(name: str, estimate: Estimate) -> str:
    """Returns what that column says of one estimate, as a member of the JSON object: its name and its value."""
    sigma = estimate.sigma
    unsized, up_to_sigma = _details(name, estimate.validity, estimate.reason, estimate.method)
    return f"{up_to_sigma}{sigma!r}}}" if sigma or estimate.HasField("sigma") else unsized


def _validity_label(validity: Estimate.Validity.ValueType) -> str:
    return _VALIDITIES.get(validity, str(validity))


@lru_cache(maxsize=4096)
def _details(name: str, validity: Estimate.Validity.ValueType, reason: str, method: str) -> tuple[str, str]:
    """Returns it without a sigma, and up to its sigma: all but that repeats in every measurement."""
    text = f'"{name}":{{"validity":"{_validity_label(validity)}"'
    if reason:
        text += f',"reason":{json.dumps(reason)}'
    if method:
        text += f',"method":{json.dumps(method)}'
    return text + "}", text + ',"sigma":'
