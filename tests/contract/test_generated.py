"""Everything generated from the protos is as the protos say, and they keep buf's rules."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.contracts import REPO_ROOT
from tools import generate

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    generate.generate(folder)
    return folder


def test_regenerating_changes_nothing(generated: Path) -> None:
    assert list(generate.differences(REPO_ROOT, generated)) == []


def test_what_is_compared_is_all_there_is(generated: Path) -> None:
    names = {str(path.relative_to(generated)) for path in generated.rglob("*") if path.is_file()}
    for service in ("fetcher", "dsp", "storage", "coordinator"):
        stem = f"heimdall/{service}/v1/{service}"
        assert {f"{stem}_pb2.py", f"{stem}_pb2.pyi", f"{stem}_pb2_grpc.py", f"{stem}_pb2_grpc.pyi"} <= names
        assert f"{stem}_service_config.json" in names
    assert {"heimdall/heimdall.protoset", "docs/contracts.md", "heimdall/common/v1/iq_pb2.py"} <= names


def test_a_changed_a_missing_and_a_stale_file_are_each_seen(generated: Path, tmp_path: Path) -> None:
    committed = tmp_path / "committed"
    shutil.copytree(generated, committed)
    Path(committed, "docs", "contracts.md").write_text("# Something else\n")
    Path(committed, "heimdall", "dsp", "v1", "dsp_pb2.pyi").unlink()
    Path(committed, "heimdall", "common", "v1", "retired_pb2.py").touch()
    assert list(generate.differences(committed, generated)) == [
        "docs/contracts.md: differs",
        "heimdall/common/v1/retired_pb2.py: is no longer generated",
        "heimdall/dsp/v1/dsp_pb2.pyi: is missing",
    ]


@pytest.mark.parametrize("arguments", [("lint",), ("format", "--diff", "--exit-code")], ids=lambda words: words[0])
def test_buf_has_nothing_to_say(arguments: tuple[str, ...]) -> None:
    buf = Path(sys.executable).parent / "buf"
    run = subprocess.run([buf, *arguments], cwd=REPO_ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout + run.stderr) == (0, "")
