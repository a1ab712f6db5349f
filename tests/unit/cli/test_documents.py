from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from heimdall.cli.shipped import shipped_file
from heimdall.runtime.settings import Settings, load_settings


@pytest.mark.parametrize(
    ("tool", "page"), [("command_docs.py", "command-line.md"), ("configuration_docs.py", "configuration.md")]
)
def test_a_generated_page_is_what_its_tool_writes(tool: str, page: str, repo_root: Path) -> None:
    ran = subprocess.run(
        [sys.executable, repo_root / "tools" / tool],
        cwd=repo_root,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert (repo_root / "docs" / page).read_text() == ran.stdout


def test_the_shipped_configuration_states_the_defaults(repo_root: Path) -> None:
    shipped = load_settings(repo_root / "config" / "heimdall.toml").model_dump()
    defaults = Settings().model_dump()
    assert shipped["fetcher"].pop("receivers_file") == repo_root / "config" / "receivers.toml"
    assert shipped["storage"].pop("data_dir") == repo_root / "heimdall-data"
    assert shipped["fetcher"].pop("state_file") == repo_root / "heimdall-data" / "fetcher.sqlite3"
    defaults["fetcher"].pop("receivers_file")
    defaults["fetcher"].pop("state_file")
    defaults["storage"].pop("data_dir")
    assert shipped == defaults


def test_shipped_files_are_found_and_a_missing_one_is_named(repo_root: Path) -> None:
    assert shipped_file("demo.toml") == repo_root / "config" / "demo.toml"
    with pytest.raises(
        FileNotFoundError, match=r"missing.toml is neither in .*/config nor in .*/share/heimdall/config"
    ):
        shipped_file("missing.toml")
