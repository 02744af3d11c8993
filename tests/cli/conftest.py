"""The files that commands are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.commands import CONFIG, HOOK


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def hook_file(tmp_path: Path) -> Path:
    path = tmp_path / "hook.json"
    path.write_bytes(HOOK)
    return path
