"""Base images for the compose test, made of Debian's packages because no image registry may be in reach.

Each is the file tree of a container as a tarball in the tool cache, and stands in for the image whose name it gets.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tools.go_tools import cache_folder

_SUITE: Final = "bookworm"
_LEFT_OUT: Final = (
    "usr/share/doc",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/log",
)
"""What the published slim images leave out too."""


@dataclass(frozen=True)
class BaseImage:
    """A Debian with a few packages, under the name that a Dockerfile asks for."""

    name: str
    packages: tuple[str, ...]
    links: Mapping[str, str] = field(default_factory=dict)
    """Symbolic links to make: target by place, without a leading slash."""
    left_out: tuple[str, ...] = ()
    """Further files and folders that are not needed; patterns."""

    @property
    def tarball(self) -> Path:
        """Where the file tree is, or will be once it is made; another recipe has another place."""
        recipe = repr((_SUITE, _LEFT_OUT, self))
        return cache_folder() / f"base-images@{hashlib.sha256(recipe.encode()).hexdigest()[:12]}" / "tree.tar"


PYTHON: Final = BaseImage(
    name="docker.io/library/python:3.11-slim-bookworm",
    packages=("ca-certificates", "python3", "python3-venv"),
    links={"usr/local/bin/python": "/usr/bin/python3.11", "usr/local/bin/python3": "/usr/bin/python3.11"},
)
POSTGRES: Final = BaseImage(
    name="localhost/heimdall-test/postgres:bookworm",
    packages=("postgresql",),
    # The cluster that the package makes, and the compiler for queries.
    left_out=("var/lib/postgresql/15", "usr/lib/*/libLLVM*", "usr/lib/llvm*", "usr/lib/postgresql/15/lib/bitcode"),
)


def make(image: BaseImage) -> None:
    """Makes one base image into the cache; an interrupted run leaves nothing there.

    Raises:
        subprocess.CalledProcessError: If a package can not be had, or this is not root.
    """
    image.tarball.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=image.tarball.parent) as scratch:
        tree = Path(scratch, "tree")
        # What debootstrap mounts goes away with its name space, whatever becomes of it.
        command = ["unshare", "--mount", "debootstrap", "--variant=minbase", f"--include={','.join(image.packages)}"]
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
        made = subprocess.run([*command, _SUITE, tree], env=environment, capture_output=True, text=True)
        if made.returncode != 0:
            print(made.stdout[-4000:], made.stderr, file=sys.stderr)
            made.check_returncode()
        for pattern in (*_LEFT_OUT, *image.left_out):
            for path in tree.glob(pattern):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for folder in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial", "var/log"):
            (tree / folder).mkdir(parents=True)
        for place, target in image.links.items():
            (tree / place).symlink_to(target)
        archive = Path(scratch, "tree.tar")
        subprocess.run(["tar", "--directory", tree, "--numeric-owner", "--create", "--file", archive, "."], check=True)
        archive.replace(image.tarball)


def main() -> None:
    """Makes what is missing."""
    for image in (PYTHON, POSTGRES):
        if not image.tarball.exists():
            print(f"making {image.name} of {', '.join(image.packages)} into {image.tarball.parent}", flush=True)
            try:
                make(image)
            except (OSError, subprocess.CalledProcessError) as error:
                sys.exit(f"base_images: {error}")


if __name__ == "__main__":
    main()
