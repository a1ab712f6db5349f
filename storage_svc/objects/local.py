"""An object store that is a folder, laid out like the bucket."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError
from storage_svc import durable
from storage_svc.objects.base import ObjectNotFoundError, Stretch

P = ParamSpec("P")
T = TypeVar("T")

_PARTIAL_NAME: Final = ".partial"
"""Folder of objects that are being written; no key begins with a dot."""


class LocalObjects:
    """Keeps objects as files below one folder, on the same file system as the spool."""

    def __init__(self, root: Path) -> None:
        """Takes the folder that stands for the bucket; it is made with the first object."""
        self._root = root
        self._partial = root / _PARTIAL_NAME

    async def start(self) -> None:
        """Removes what a service that was killed left half written, and sees whether objects can be stored.

        Raises:
            HeimdallError: BACKEND_UNAVAILABLE.
        """
        await self._run("clear", "its folder", self._clear)
        await self.ping()

    async def put_file(self, key: str, path: Path, *, data_sha512: str, stretches: Sequence[Stretch]) -> None:
        """Moves a file into the store, without reading it."""
        await self._run("store", key, self._move, path, self._path(key))

    async def put_bytes(self, key: str, content: bytes) -> None:
        """Makes or replaces a small object."""
        await self._run("store", key, self._write, self._path(key), content)

    async def get_bytes(self, key: str) -> bytes:
        """Returns a small object whole."""
        return await self._run("read", key, self._path(key).read_bytes)

    async def read_range(self, key: str, offset_bytes: int, size_bytes: int) -> bytes:
        """Returns a part of an object; shorter than asked for where the object ends."""
        return await self._run("read", key, durable.read_at, self._path(key), offset_bytes, size_bytes)

    async def size_bytes(self, key: str) -> int:
        """Returns the size of an object."""
        return (await self._run("read", key, self._path(key).stat)).st_size

    async def url(self, key: str, lifetime_s: float) -> str:
        """Raises URL_UNSUPPORTED: files in a folder have no URL that others can open."""
        raise HeimdallError(
            ErrorReason.ERROR_REASON_URL_UNSUPPORTED,
            f"{key} is a file in a folder of the storage service and has no URL; use ReadRecording",
            metadata={"key": key},
        )

    def location(self, key: str) -> str:
        """Returns the path of an object."""
        return str(self._path(key))

    async def ping(self) -> None:
        """Writes a small file."""
        await self._run("write to", "its folder", self._probe)

    async def close(self) -> None:
        """Does nothing: a folder has no connection."""

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if not all(parts) or any(part.startswith(".") or "\0" in part for part in parts):
            raise ValueError(f"object key {key!r} would leave the folder of the store")
        return self._root.joinpath(*parts)

    async def _run(self, what: str, key: str, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        try:
            return await asyncio.to_thread(work, *arguments, **options)
        except FileNotFoundError as error:
            raise ObjectNotFoundError(f"there is no object {key}") from error
        except OSError as error:
            raise HeimdallError(
                ErrorReason.ERROR_REASON_BACKEND_UNAVAILABLE,
                f"the object store could not {what} {key}: {error.strerror or type(error).__name__}",
                metadata={"backend": "objects", "key": key, "errno": error.errno or 0},
            ) from error

    def _clear(self) -> None:
        if self._partial.is_dir():
            shutil.rmtree(self._partial)

    def _probe(self) -> None:
        durable.make_folder(self._root)
        durable.probe(self._root)

    @staticmethod
    def _move(source: Path, target: Path) -> None:
        durable.make_folder(target.parent)
        if not source.is_file() and target.is_file():
            return
        source.replace(target)
        durable.sync_folder(target.parent)

    def _write(self, path: Path, content: bytes) -> None:
        durable.make_folder(path.parent)
        self._partial.mkdir(exist_ok=True)
        durable.replace_file(path, content, self._partial / str(threading.get_ident()))
