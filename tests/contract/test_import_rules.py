"""Who may import whom: services know only what they share, and arrays stay where samples are worked on."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.contracts import REPO_ROOT, SERVICES

_SERVICE_PACKAGES = tuple(f"{service}_svc" for service in SERVICES)
_OURS = ("heimdall", *_SERVICE_PACKAGES, "simulator")

_ARRAY_PLACES = (
    "fetcher_svc/receivers/",
    "dsp_svc/estimate/",
    "storage_svc/sigmf.py",
    "heimdall/samples.py",
    "heimdall/recorded.py",
    "simulator/",  # makes samples as real receivers do, and is no service
)
"""Where numpy may be imported."""

_SCIPY_PLACES = ("dsp_svc/estimate/",)


def _modules(package: str) -> Iterator[str]:
    for path in sorted(Path(REPO_ROOT, package).rglob("*.py")):
        name = path.relative_to(REPO_ROOT).as_posix()
        if "_pb2" not in name:
            yield name


def imported(source: str) -> set[str]:
    """Returns every module that a source imports anywhere, also inside functions and for types only."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            names.add(node.module)
    return names


def _tops(module: str) -> set[str]:
    return {name.partition(".")[0] for name in imported(Path(REPO_ROOT, module).read_text())}


def _allowed(module: str) -> set[str]:
    """Returns which of our own packages a module may import."""
    package = module.partition("/")[0]
    if package == "heimdall":
        # The command line starts the simulator; a service is only ever started as a process.
        return {"heimdall", "simulator"} if module.startswith("heimdall/cli/") else {"heimdall"}
    return {package, "heimdall"}


_ALL = [module for package in _OURS for module in _modules(package)]


@pytest.mark.parametrize("module", _ALL)
def test_a_module_imports_only_what_its_place_may_know(module: str) -> None:
    tops = _tops(module)
    assert tops & set(_OURS) <= _allowed(module)
    assert tops.isdisjoint({"tests", "tools", "benchmarks"})
    assert "numpy" not in tops or module.startswith(_ARRAY_PLACES), "arrays have no place here"
    assert "scipy" not in tops or module.startswith(_SCIPY_PLACES), "only the estimators need scipy"


def test_imports_are_found_wherever_they_stand() -> None:
    source = "import os.path\ndef late():\n    from dsp_svc.session import Session\nif False:\n    import numpy as np\n"
    assert imported(source) == {"os.path", "dsp_svc.session", "numpy"}


# Starting these must be quick: numpy costs 0.1 s, scipy more. A package's service module pulls in all that it runs.
_LIGHT = [
    ("heimdall.client", {"numpy", "scipy", "simulator", "aiohttp"}),
    ("heimdall.cli", {"numpy", "scipy", "simulator", "aiohttp"}),
    ("heimdall.cli.measurements", {"numpy", "scipy", "simulator", "aiohttp", "pyarrow"}),
    ("coordinator_svc.service", {"numpy", "scipy"}),
    ("fetcher_svc.service", {"scipy"}),
    ("storage_svc.service", {"scipy"}),
]


@pytest.mark.parametrize(("module", "unwanted"), _LIGHT, ids=[module for module, _ in _LIGHT])
def test_importing_pulls_in_nothing_heavy(module: str, unwanted: set[str]) -> None:
    assert _loaded_by(module).isdisjoint(unwanted)


def test_a_heavy_import_would_be_noticed() -> None:
    assert {"numpy", "scipy"} <= _loaded_by("dsp_svc.service")


def _loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO_ROOT, capture_output=True, text=True, check=False, timeout=30
    )
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())
