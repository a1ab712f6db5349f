"""Messages as plain JSON values, as they stand in the metadata of a recording: integers stay integers."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

M = TypeVar("M", bound=Message)


def to_plain(message: Message) -> dict[str, Any]:
    """Returns a message as JSON values under its field names; enums by name, 64-bit integers as numbers.

    This differs from protobuf JSON in the integers only, so protobuf's own parser reads it back. A time or length
    outside the range that protobuf gives it has no JSON and is left out.
    """
    plain: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            plain[field.name] = {str(key): _value(field.message_type.fields[1], item) for key, item in value.items()}
        elif field.is_repeated:
            plain[field.name] = [_value(field, item) for item in value]
        elif isinstance(value, (Timestamp, Duration)):
            # A caller's spec or a notice may hold nonsense; the recording is stored all the same.
            with suppress(ValueError):
                plain[field.name] = value.ToJsonString()
        else:
            plain[field.name] = _value(field, value)
    return plain


def from_plain(plain: object, kind: type[M]) -> M:
    """Returns the message that `to_plain` described; fields of a later version are ignored.

    Raises:
        ValueError: If it does not describe one.
    """
    if not isinstance(plain, dict):
        raise ValueError(f"is {type(plain).__name__}, must be a JSON object with the fields of {kind.__name__}")
    try:
        return json_format.ParseDict(plain, kind(), ignore_unknown_fields=True)
    except (json_format.ParseError, OverflowError) as error:
        # The parser lets the overflow of an integer that no floating point number can hold through.
        raise ValueError(str(error)) from error


def _value(field: FieldDescriptor, value: Any) -> Any:
    if isinstance(value, Message):
        return to_plain(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return value if known is None else known.name
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
