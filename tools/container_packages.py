"""The programs that the compose test runs containers with: those that are installed, else Debian's packages of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Final

from tools.debian_packages import can_install, install

_PROGRAMS: Final = ("podman", "runc", "catatonit", "debootstrap")
"""Each is in the package of its name."""

_PLUGINS: Final = "containernetworking-plugins"
"""What podman makes networks with; no program on the PATH shows whether it is there."""


def main() -> None:
    """Installs what is missing; ends with status 1 where that can not be done."""
    if os.geteuid() != 0:
        sys.exit("container_packages: only root can run debootstrap and containers with the network of the machine")
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if not missing:
        return
    packages = (*missing, _PLUGINS)
    if not can_install():
        sys.exit(f"container_packages: this is no Debian; install {', '.join(packages)} by hand")
    try:
        install(packages)
    except subprocess.CalledProcessError as error:
        sys.exit(f"container_packages: {error}")


if __name__ == "__main__":
    main()
