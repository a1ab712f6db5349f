"""Installs packages of Debian that tests need."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable


def can_install() -> bool:
    """Returns whether this user may install packages of Debian here."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(packages: Iterable[str]) -> None:
    """Installs packages without what they merely recommend.

    Raises:
        subprocess.CalledProcessError: If one can not be had.
    """
    names = list(packages)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    print(f"installing {', '.join(names)}", flush=True)
    subprocess.run(["apt-get", "-qq", "update"], env=environment, check=True)
    command = ["apt-get", "-qq", "install", "--no-install-recommends", "--yes", *names]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
