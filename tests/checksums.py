"""What an object store is told of a file that it takes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypedDict

import google_crc32c

from storage_svc.objects import Stretch

_STRETCH_BYTES = 777_777
"""No multiple of anything that is read or sent at once."""


class Checksums(TypedDict):
    """Arguments of `ObjectStore.put_file`."""

    data_sha512: str
    stretches: list[Stretch]


def checksums_of(path: Path) -> Checksums:
    """Returns the checksums of a file as it is now."""
    checksum = hashlib.sha512()
    stretches = []
    with path.open("rb") as file:
        while content := file.read(_STRETCH_BYTES):
            checksum.update(content)
            stretches.append(Stretch(len(content), google_crc32c.value(content)))
    return Checksums(data_sha512=checksum.hexdigest(), stretches=stretches)
