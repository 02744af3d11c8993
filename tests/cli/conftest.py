"""The files that commands are given, and the gateway that they ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli.client import TOKEN_VARIABLE
from tests.cli.commands import CONFIG, HOOK
from tests.cli.watched import CONFIG as WATCHED
from tests.cli.watched import NAUGHTY
from tests.support.gateways import RunningGateway, running_gateway


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


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration lies here, and the environment tells no token."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_gateway(WATCHED, tmp_path_factory.mktemp("watched")) as gateway:
        gateway.hook(appKey="defaultApp", callId="first")
        gateway.hook("connect", appKey="blocked", callId="second")
        for _ in range(8):
            gateway.hook(appKey="tenant-7", callId=NAUGHTY, caller="4915112345678")
        yield gateway
