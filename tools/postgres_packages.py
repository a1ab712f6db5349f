"""The programs of PostgreSQL that tests run: those that are installed, else the system's packages of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tools.debian_packages import can_install, install

_PACKAGE: Final = "postgresql-15"
_FOLDERS: Final = Path("/usr/lib/postgresql")
"""Where Debian keeps the programs of each version; only a few are on the PATH."""


def programs_folder() -> Path | None:
    """Returns the folder that holds initdb and postgres, of the newest version; None if there is none."""
    folders = sorted(_FOLDERS.glob("*/bin"), key=lambda folder: int(folder.parent.name), reverse=True)
    on_path = shutil.which("postgres")
    if on_path is not None:
        folders.append(Path(on_path).resolve().parent)
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


def main() -> None:
    """Installs PostgreSQL if it is missing, where that can be done."""
    if programs_folder() is not None:
        return
    if not can_install():
        print(f"postgres_packages: no PostgreSQL here; install {_PACKAGE} for the tests that need it", file=sys.stderr)
        return
    try:
        install([_PACKAGE])
    except subprocess.CalledProcessError as error:
        sys.exit(f"postgres_packages: {error}")


if __name__ == "__main__":
    main()
