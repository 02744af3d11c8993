"""A real gateway before a real backend."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.proxy.hook_path.apps import ENVIRONMENT, configuration
from tests.support.faulty import FaultyBackend, gated_case, refused_port
from tests.support.gateways import RunningGateway, running_gateway


@pytest.fixture(scope="module")
def gate() -> Iterator[threading.Event]:
    """What the backend of the app "holder" waits for."""
    with gated_case() as opened:
        yield opened


@pytest.fixture(scope="module")
def backend(gate: threading.Event) -> Iterator[FaultyBackend]:
    with FaultyBackend() as running:
        yield running
    assert running.problems == []


@pytest.fixture(scope="module")
def gateway(backend: FaultyBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    directory = tmp_path_factory.mktemp("gateway")
    with (
        refused_port() as refused,
        running_gateway(configuration(backend, refused), directory, environment=ENVIRONMENT) as running,
    ):
        yield running
