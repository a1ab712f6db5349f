"""Generates all that is committed of other files: stubs, service configs, descriptor set, contract and fault pages."""

from __future__ import annotations

import argparse
import filecmp
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parent.parent
_PATTERNS: Final = (
    "heimdall/*/v1/*_pb2*.py*",
    "heimdall/*/v1/*_service_config.json",
    "heimdall/heimdall.protoset",
    "docs/contracts.md",
    "docs/faults.md",
)
"""Every generated file; a file that matches and is not generated is stale."""


def generate(into: Path) -> None:
    """Writes every generated file below a folder.

    Raises:
        subprocess.CalledProcessError: If buf or a generator fails; its message is on stderr.
    """
    for folder in ("heimdall", "docs"):
        Path(into, folder).mkdir(parents=True, exist_ok=True)
    _buf("generate", "-o", str(into))
    for stub in into.glob("heimdall/common/v1/*_pb2_grpc.*"):
        stub.unlink()
    for config in _ROOT.glob("protos/heimdall/*/v1/*_service_config.json"):
        shutil.copyfile(config, into / config.relative_to(_ROOT / "protos"))
    protoset = into / "heimdall" / "heimdall.protoset"
    _buf("build", "--as-file-descriptor-set", "--exclude-source-info", "-o", f"{protoset}#format=binpb")
    commented = _buf("build", "--as-file-descriptor-set", "-o", "-#format=binpb")
    page = subprocess.run(
        [sys.executable, _ROOT / "tools" / "contract_docs.py"], input=commented, stdout=subprocess.PIPE, check=True
    )
    Path(into, "docs", "contracts.md").write_bytes(page.stdout)
    faults = subprocess.run([sys.executable, "-m", "tools.fault_docs"], cwd=_ROOT, stdout=subprocess.PIPE, check=True)
    Path(into, "docs", "faults.md").write_bytes(faults.stdout)


def differences(committed: Path, generated: Path) -> Iterator[str]:
    """Yields one line for each file that is not the same in both folders."""
    names = {
        str(path.relative_to(root))
        for root in (committed, generated)
        for pattern in _PATTERNS
        for path in root.glob(pattern)
    }
    for name in sorted(names):
        if not Path(generated, name).exists():
            yield f"{name}: is no longer generated"
        elif not Path(committed, name).exists():
            yield f"{name}: is missing"
        elif not filecmp.cmp(committed / name, generated / name, shallow=False):
            yield f"{name}: differs"


def main() -> None:
    """Generates into the checkout, or with --check only says what is out of date there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if anything is out of date")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as scratch:
        generated = Path(scratch)
        try:
            generate(generated)
        except subprocess.CalledProcessError as error:
            sys.exit(f"generate: {error}")
        stale = list(differences(_ROOT, generated))
        if check:
            if stale:
                sys.exit("\n".join([*stale, "generated files are out of date: run 'make gen' and commit the result"]))
            print("generated files are up to date")
            return
        for name in (line.partition(":")[0] for line in stale):
            if Path(generated, name).exists():
                Path(_ROOT, name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(generated / name, _ROOT / name)
            else:
                Path(_ROOT, name).unlink()
            print(name)


def _buf(*arguments: str) -> bytes:
    buf = Path(sys.executable).parent / "buf"
    return subprocess.run([buf, *arguments], cwd=_ROOT, stdout=subprocess.PIPE, check=True).stdout


if __name__ == "__main__":
    main()
