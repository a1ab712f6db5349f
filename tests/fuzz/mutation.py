"""Changes of inputs: blind ones of bytes, and such that keep the form of a text or of a protobuf message."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_EDGES: Final = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 63)
_WORD: Final = re.compile(rb"[A-Za-z0-9_.+-]+|\s+|[^A-Za-z0-9_.+-]")

INTEGERS: Final = (0, 1, -1, 2, 127, 4096, 2**31 - 1, -(2**31), 2**32, 2**53, 2**62, 2**63 - 1, -(2**63))
"""Integers at which something changes, all within 64 bits."""
FLOATS: Final = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-320, 1e-9, 1e9, 1e12, 1e18, 1e300, -1e300, float("inf"), float("nan"))
"""Floating point numbers at which something changes."""


def havoc(data: bytes, rng: random.Random) -> bytes:
    """Returns the data after one to four blind changes of its bytes."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place, end = sorted((rng.randint(0, len(out)), rng.randint(0, len(out))))
        match rng.randrange(8):
            case 0 if place < len(out):
                out[place] ^= 1 << rng.randrange(8)
            case 1 if place < len(out):
                out[place] = rng.randrange(256)
            case 2:
                out[place:place] = rng.randbytes(rng.randint(1, 8))
            case 3:
                del out[place : min(end, place + rng.randint(1, 64))]
            case 4:
                out[place:place] = out[place : min(end, place + 256)]
            case 5:
                width = rng.choice((1, 2, 4, 8))
                number = rng.choice(_EDGES) & ((1 << 8 * width) - 1)
                out[place : place + width] = number.to_bytes(width, rng.choice(("little", "big")))
            case 6:
                del out[place:]
            case _:
                target = rng.randint(0, len(out))
                out[target:target] = out[place : min(end, place + 64)]
    return bytes(out)


def words(vocabulary: Sequence[bytes]) -> Callable[[bytes, random.Random], bytes]:
    """Returns a change of texts that exchanges, drops, repeats and inserts words.

    Args:
        vocabulary: Words of the language, with values at which something changes.
    """

    def mutate(data: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.2:
            return havoc(data, rng)
        parts = _WORD.findall(data) or [b""]
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(parts))
            match rng.randrange(5):
                case 0:
                    parts[place] = rng.choice(vocabulary)
                case 1:
                    parts.insert(place, rng.choice(vocabulary))
                case 2 if len(parts) > 1:
                    del parts[place]
                case 3 if len(parts[place]) < 64:
                    parts[place] *= rng.choice((2, 3, 50, 600))
                case _:
                    parts[place] = rng.choice(parts)
        return b"".join(parts)

    return mutate


def change_message(message: Message, rng: random.Random) -> None:
    """Changes one field of a message, or of a message in it, to a value of its type."""
    fields: list[Any] = list(message.DESCRIPTOR.fields)
    if not fields:
        return
    filled: list[Any] = [field for field, _ in message.ListFields()]
    field = rng.choice(fields if not filled or rng.random() < 0.3 else filled)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        getattr(message, field.name)[rng.choice(("", "key", "\0"))] = rng.choice(("", "value", "ä\n"))
    elif rng.random() < 0.15:
        message.ClearField(field.name)
    elif field.is_repeated:
        _change_list(getattr(message, field.name), field, rng)
    elif field.message_type is not None:
        inner = getattr(message, field.name)
        inner.SetInParent()
        change_message(inner, rng)
    else:
        setattr(message, field.name, _value(field, getattr(message, field.name), rng))


def _change_list(values: Any, field: FieldDescriptor, rng: random.Random) -> None:
    if values and rng.random() < 0.3:
        del values[rng.randrange(len(values))]
    elif field.message_type is None:
        values.append(_value(field, values[-1] if values else None, rng))
    elif values and rng.random() < 0.7:
        change_message(rng.choice(values), rng)
    else:
        change_message(values.add(), rng)


def _value(field: FieldDescriptor, value: Any, rng: random.Random) -> Any:
    kinds = FieldDescriptor
    if field.type == kinds.TYPE_STRING:
        return rng.choice(("", "a", "rx-1", "ä", "\0", "x" * 300))
    if field.type == kinds.TYPE_BYTES:
        return rng.randbytes(rng.choice((0, 1, 8)))
    if field.type == kinds.TYPE_BOOL:
        return rng.random() < 0.5
    if field.type in (kinds.TYPE_DOUBLE, kinds.TYPE_FLOAT):
        return rng.choice((*FLOATS, (value or 0.0) * 2, (value or 0.0) + 1))
    if field.type == kinds.TYPE_ENUM:
        return rng.choice((0, 1, 2, 3, 99))
    number = rng.choice((*INTEGERS, (value or 0) + 1, (value or 0) - 1))
    bits = 31 if field.type in (kinds.TYPE_INT32, kinds.TYPE_SINT32) else 63
    return max(-(1 << bits), min((1 << bits) - 1, number))
