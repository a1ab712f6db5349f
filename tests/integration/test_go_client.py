"""A program in another language, with stubs generated from these protos, uses the mesh from start to stored samples."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.built_tools import built_tool
from tests.integration.mesh import running_mesh, station

_MODULE = "github.com/heimdall-radio/heimdall"

# A cold build compiles gRPC for Go.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> Path:
    """Generates the stubs, checks and builds the program; nothing of it is left in the checkout."""
    plugins = [built_tool("protoc-gen-go"), built_tool("protoc-gen-go-grpc")]
    folder = tmp_path_factory.mktemp("go") / "heimdall"
    shutil.copytree(repo_root / "tests" / "go", folder)
    template = {
        "version": "v2",
        "inputs": [{"directory": "protos"}],
        "plugins": [{"local": str(plugin), "out": ".", "opt": f"module={_MODULE}"} for plugin in plugins],
    }
    buf = Path(sys.executable).parent / "buf"
    _run(repo_root, str(buf), "generate", "--template", json.dumps(template), "-o", str(folder))
    _run(folder, "go", "vet", "./...")
    _run(folder, "go", "build", "-o", "bin/acquire", "./acquire")
    return folder / "bin" / "acquire"


def _run(folder: Path, *command: str) -> None:
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=500)
    assert run.returncode == 0, f"{' '.join(command)}\n{run.stdout}{run.stderr}"


async def test_a_go_program_acquires_watches_and_reads_back(program: Path, tmp_path: Path) -> None:
    async with running_mesh(tmp_path, [station("alfa"), station("bravo")]) as mesh:
        process = await asyncio.create_subprocess_exec(
            program,
            f"-coordinator={mesh.target('coordinator')}",
            f"-storage={mesh.target('storage')}",
            "-receivers=alfa,bravo",
            "-duration=1s",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(60):
                output, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, errors.decode()
    seen = json.loads(output)
    assert seen["state"] == "STATE_SUCCEEDED"
    assert seen["outcome_count"] == 2
    assert seen["snapshot_count"] >= 2
    assert (seen["segment_count"], seen["gap_count"], seen["end_count"]) == (1, 0, 1)
    # One second at 12 kHz, 4 bytes a sample, cut at 250 ms or less.
    assert abs(seen["sample_count"] - 12_000) <= 1
    assert seen["sample_bytes"] == 4 * seen["sample_count"]
    assert seen["block_count"] >= 4
