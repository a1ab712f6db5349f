"""docker-compose.yml as the test runs it: images under the pinned names, free ports, simulated receivers outside."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from heimdall.local import reserved_ports
from heimdall.local.receivers_file import with_urls
from tests.compose.podman import Podman
from tests.conftest import REPO_ROOT
from tests.integration.built_tools import built_tool
from tools.base_images import POSTGRES, PYTHON

SERVICES: Final = ("coordinator", "fetcher", "dsp", "storage", "timescaledb", "minio")
IMAGE: Final = "localhost/heimdall:0.1.0"
BUCKET: Final = "heimdall-raw-iq"

_COMPOSE_FILE: Final = REPO_ROOT / "docker-compose.yml"
_TEST_FILES: Final = REPO_ROOT / "deploy" / "test"
_HEALTH_TIMEOUT_S: Final = 90.0
_PORTS: Final = (*SERVICES, "minio_console")


@dataclass(frozen=True)
class Stack:
    """The running containers."""

    podman: Podman
    ports: Mapping[str, int]
    secrets: Mapping[str, str]
    """What .env holds."""
    variables_file: Path

    def compose(self, *words: str) -> str:
        """Runs a compose command that has to succeed."""
        files = ("--file", _COMPOSE_FILE, "--file", _TEST_FILES / "compose.yml")
        ended = self.podman.attempt("podman-compose", "--env-file", self.variables_file, *files, *words)
        assert ended.returncode == 0, f"podman-compose {' '.join(words)}: {ended.stderr}{ended.stdout}"
        return ended.stdout

    def wait_until_healthy(self, *services: str) -> None:
        """Runs the health checks of the compose file until they pass."""
        end = time.monotonic() + _HEALTH_TIMEOUT_S
        waiting = set(services)
        while waiting:
            waiting = {service for service in waiting if not self._is_healthy(service)}
            assert time.monotonic() < end, f"not healthy after {_HEALTH_TIMEOUT_S:g} s: {self.logs(*sorted(waiting))}"

    def _is_healthy(self, service: str) -> bool:
        return self.podman.attempt("podman", "healthcheck", "run", container(service)).returncode == 0

    def exit_status(self, service: str) -> int:
        """Returns the status with which a stopped container ended."""
        return int(self.podman.run("inspect", "--format", "{{.State.ExitCode}}", container(service)))

    def logs(self, *services: str) -> str:
        """Returns what containers printed."""
        ended = [self.podman.attempt("podman", "logs", container(service)) for service in services]
        return "".join(f"== {service}\n{e.stdout}{e.stderr}" for service, e in zip(services, ended, strict=True))

    def target(self, service: str) -> str:
        """Returns where a service is reached from outside."""
        return f"127.0.0.1:{self.ports[service]}"

    def heimdall(self, *words: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Runs the command line outside of the containers."""
        variables = {
            "HEIMDALL_MESH_COORDINATOR_TARGET": self.target("coordinator"),
            "HEIMDALL_MESH_STORAGE_TARGET": self.target("storage"),
        }
        return subprocess.run(
            [sys.executable, "-m", "heimdall.cli", *words],
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )


def container(service: str) -> str:
    """Returns the name of a service's container."""
    return f"heimdall_{service}_1"


def build_images(podman: Podman) -> None:
    """Builds the image from the Dockerfile, and what stands in for the images of others under their pinned names."""
    pinned = dict(re.findall(r"^    image: (\S+/(timescaledb|minio):\S+)$", _COMPOSE_FILE.read_text(), re.MULTILINE))
    images = {name: image for image, name in pinned.items()}
    for base in (PYTHON, POSTGRES):
        podman.run("import", base.tarball, base.name)
    podman.build(IMAGE, REPO_ROOT, REPO_ROOT / "Dockerfile")
    programs = podman.folder / "programs"
    programs.mkdir()
    for name in ("minio", "mc"):
        shutil.copy(built_tool(name), programs)
    podman.build(images["minio"], programs, _TEST_FILES / "minio.Containerfile")
    podman.build(images["timescaledb"], _TEST_FILES, _TEST_FILES / "timescaledb.Containerfile")


@contextmanager
def stack(podman: Podman, stations: Mapping[str, str]) -> Iterator[Stack]:
    """Brings the compose file up, and down again with its volumes.

    Args:
        podman: Has the images.
        stations: Addresses of the receivers by receiver_id.
    """
    with reserved_ports("127.0.0.1", _PORTS) as ports:
        receivers_file = podman.folder / "receivers.toml"
        shipped = (REPO_ROOT / "config" / "receivers.toml").read_text()
        receivers_file.write_text(with_urls(shipped, stations))
        own = {
            "POSTGRES_PASSWORD": secrets.token_hex(16),
            "MINIO_ROOT_USER": f"user-{secrets.token_hex(4)}",
            "MINIO_ROOT_PASSWORD": secrets.token_hex(16),
        }
        variables = {
            **own,
            **{f"{name.upper()}_PORT": str(port) for name, port in ports.items()},
            "RECEIVERS_FILE": str(receivers_file),
        }
        variables_file = podman.folder / "variables.env"
        variables_file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
        running = Stack(podman, ports, own, variables_file)
        running.compose("up", "--detach", "--no-build")
        try:
            yield running
            running.compose("stop")
            ended = {service: running.exit_status(service) for service in SERVICES}
            assert set(ended.values()) == {0}, f"{ended}: {running.logs(*SERVICES)}"
        finally:
            running.compose("down", "--volumes")


@contextmanager
def simulated_stations(log: Path) -> Iterator[dict[str, str]]:
    """Runs the stations of config/demo.toml outside of the containers; gives their addresses by receiver_id."""
    command = [sys.executable, "-m", "heimdall.cli", "simulate", str(REPO_ROOT / "config" / "demo.toml"), "--any-port"]
    with ExitStack() as opened:
        stderr = opened.enter_context(log.open("w"))
        process = opened.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True))
        assert process.stdout is not None
        try:
            stations = json.loads(process.stdout.readline())["stations"]
            yield {name: f"http://{station['host']}:{station['port']}" for name, station in stations.items()}
        finally:
            process.terminate()
    assert process.returncode == 0, log.read_text()
