"""Names of recordings and where their objects lie in the bucket. An id that does not match never becomes a path."""

from __future__ import annotations

from typing import Final, NamedTuple

from heimdall.errors import FieldViolation
from heimdall.ids import ID_PATTERN, is_id

BUCKET: Final = "heimdall-raw-iq"
"""Bucket, or folder, that holds the objects."""


class RecordingKey(NamedTuple):
    """Names one recording."""

    task_id: str
    """The acquisition."""
    receiver_id: str
    """The receiver."""

    @property
    def data_object_key(self) -> str:
        """Key of the samples in the bucket."""
        return f"sessions/{self.task_id}/{self.receiver_id}.sigmf-data"

    @property
    def meta_object_key(self) -> str:
        """Key of the metadata in the bucket."""
        return f"sessions/{self.task_id}/{self.receiver_id}.sigmf-meta"


def collection_object_key(task_id: str) -> str:
    """Returns the key of the collection of an acquisition."""
    return f"sessions/{task_id}/session.sigmf-collection"


def id_violations(**values: str) -> list[FieldViolation]:
    """Returns the ids among the given fields that are not well-formed.

    Args:
        values: Field name and value; a double underscore in the name stands for a dot.
    """
    return [
        FieldViolation(name.replace("__", "."), f"is {value!r}, must match {ID_PATTERN}")
        for name, value in values.items()
        if not is_id(value)
    ]
