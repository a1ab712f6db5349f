"""The real MinIO on this machine, that tests may kill, freeze and start again."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import urllib3
from minio import Minio
from minio.error import MinioException

from heimdall.local import reserved_ports
from heimdall.runtime.settings import MinioSettings
from tests.integration.built_tools import built_tool
from tests.servers.certificates import make_certificate

_START_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.05


@dataclass
class MinioServer:
    """A MinIO server with an empty store, on a port that stays its own while it is down."""

    endpoint: str
    """Scheme, host and port."""
    access_key: str
    secret_key: str
    folder: Path
    """Its drive, its log, and its certificates if it has any."""
    ca_file: Path | None = None
    """The authority that signed its certificate; None without TLS."""
    _process: subprocess.Popen[bytes] | None = None

    @property
    def variables(self) -> dict[str, str]:
        """The settings of a storage service that keeps its objects here, as HEIMDALL_ variables."""
        ca_file = {} if self.ca_file is None else {"HEIMDALL_MINIO_CA_FILE": str(self.ca_file)}
        return {
            "HEIMDALL_STORAGE_OBJECTS": "minio",
            "HEIMDALL_MINIO_ENDPOINT": self.endpoint,
            "HEIMDALL_MINIO_ACCESS_KEY": self.access_key,
            "HEIMDALL_MINIO_SECRET_KEY": self.secret_key,
            **ca_file,
        }

    def settings(self, **values: Any) -> MinioSettings:
        """Returns the same as settings; values come on top."""
        return MinioSettings.model_validate(
            {
                "endpoint": self.endpoint,
                "access_key": self.access_key,
                "secret_key": self.secret_key,
                "ca_file": self.ca_file,
                "timeout_s": 10.0,
                **values,
            }
        )

    def client(self, timeout_s: float = 10.0) -> Minio:
        """Returns a client for a test's own look; it fails at once where the server is away."""
        scheme, address = self.endpoint.split("://")
        context = None if self.ca_file is None else ssl.create_default_context(cafile=self.ca_file)
        pool = urllib3.PoolManager(retries=False, timeout=timeout_s, maxsize=16, ssl_context=context)
        return Minio(
            address,
            self.access_key,
            self.secret_key,
            secure=scheme == "https",
            region="us-east-1",
            http_client=pool,
        )

    async def start(self) -> None:
        """Starts the server, again if it ended, and waits until it answers; one that runs goes on."""
        if self._process is not None:
            return
        self._process = await asyncio.to_thread(self._popen)
        async with asyncio.timeout(_START_TIMEOUT_S):
            while not await asyncio.to_thread(self._is_ready):
                if self._process.poll() is not None:
                    raise AssertionError(f"MinIO did not start:\n{(self.folder / 'log').read_text()}")
                await asyncio.sleep(_POLL_S)

    async def kill(self) -> None:
        """Ends the server with SIGKILL and waits until it is gone."""
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
            self._process = None

    def freeze(self) -> None:
        """Lets the server stand still: it takes connections and does not answer."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        # Its threads stop one after the other, and one that still runs may answer.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def thaw(self) -> None:
        """Lets a frozen server go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _is_ready(self) -> bool:
        """Returns whether it answers as a store; its health says so before it knows its users."""
        try:
            self.client(timeout_s=5).list_buckets()
        except (MinioException, urllib3.exceptions.HTTPError):
            return False
        return True

    def _popen(self) -> subprocess.Popen[bytes]:
        # Not by asyncio: tests share the server, and each has an event loop of its own.
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                self._command(), env=self._environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _command(self) -> list[str | Path]:
        address = self.endpoint.partition("://")[2]
        certificates = self.folder / "certificates"
        program = built_tool("minio")
        return [program, "server", "--quiet", "--address", address, "--certs-dir", certificates, self.folder / "drive"]

    def _environment(self) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("MINIO_")},
            "HOME": str(self.folder),
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
            "MINIO_ROOT_USER": self.access_key,
            "MINIO_ROOT_PASSWORD": self.secret_key,
        }


@asynccontextmanager
async def minio_server(folder: Path, *, tls: bool = False) -> AsyncIterator[MinioServer]:
    """Runs a MinIO server.

    Args:
        folder: An empty folder.
        tls: Whether it speaks TLS, with a certificate of an authority of its own.
    """
    built_tool("minio")
    with ExitStack() as stack:
        port = stack.enter_context(reserved_ports("127.0.0.1", ["minio"]))["minio"]
        server = MinioServer(
            f"{'https' if tls else 'http'}://127.0.0.1:{port}",
            f"user-{secrets.token_hex(4)}",
            secrets.token_hex(16),
            folder,
        )
        (folder / "certificates").mkdir()
        if tls:
            server.ca_file = await asyncio.to_thread(make_certificate, folder / "certificates")
        try:
            await server.start()
            yield server
        finally:
            await server.kill()
