"""The programs of other projects that tests run: pinned, built from source, kept in a cache outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

_PACKAGES: Final = {
    "grpcurl": ("github.com/fullstorydev/grpcurl/cmd/grpcurl", "v1.9.4"),
    "mc": ("github.com/minio/mc", "v0.0.0-20250313080218-cf909e1063a9"),
    "minio": ("github.com/minio/minio", "v0.0.0-20260212201848-7aac2a2c5b7c"),
    "protoc-gen-go": ("google.golang.org/protobuf/cmd/protoc-gen-go", "v1.36.12"),
    "protoc-gen-go-grpc": ("google.golang.org/grpc/cmd/protoc-gen-go-grpc", "v1.6.2"),
}

_NOT_FOR_ALL: Final = frozenset(("mc",))
"""Built only where it is asked for: MinIO's client is for the compose file alone."""


def cache_folder() -> Path:
    """Returns the folder of built programs: HEIMDALL_TOOL_CACHE, else heimdall-tools in the user's cache."""
    if "HEIMDALL_TOOL_CACHE" in os.environ:
        return Path(os.environ["HEIMDALL_TOOL_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "heimdall-tools")


def tool_path(name: str) -> Path:
    """Returns where a program is, or will be once it is built. Every version has a folder of its own."""
    _, version = _PACKAGES[name]
    return cache_folder() / f"{name}@{version}" / name


def build(name: str) -> None:
    """Builds one program into the cache; an interrupted build leaves nothing there.

    Raises:
        OSError: If there is no Go toolchain.
        subprocess.CalledProcessError: If the program can not be built.
    """
    package, version = _PACKAGES[name]
    folder = tool_path(name).parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        subprocess.run(["go", "install", f"{package}@{version}"], env=os.environ | {"GOBIN": scratch}, check=True)
        Path(scratch, name).replace(folder / name)


def main() -> None:
    """Builds what is missing of the programs that are named, by default of those that most tests need.

    Fetches the modules of the Go program that the tests build, too.
    """
    try:
        for name in sys.argv[1:] or sorted(_PACKAGES.keys() - _NOT_FOR_ALL):
            if not tool_path(name).exists():
                print(f"building {name} into {tool_path(name).parent}", flush=True)
                build(name)
        subprocess.run(["go", "mod", "download"], cwd=Path(__file__).parent.parent / "tests" / "go", check=True)
    except FileNotFoundError as error:
        sys.exit(f"go_tools: {error}; grpcurl, MinIO and the Go stubs need Go 1.25 or newer on the PATH")
    except subprocess.CalledProcessError as error:
        sys.exit(f"go_tools: {error}")


if __name__ == "__main__":
    main()
