"""Gateways of several workers, and the backend before which they stand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.workers.gated import Gate, configuration
from tests.support.faulty import CASES, OK, Case, FaultyBackend
from tests.support.gateways import RunningGateway, running_gateway


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CASES, "gated", Case("gated", "Answers when told.", OK, 1, gate.script))
        yield gate
        gate.open.set()


@pytest.fixture(scope="module")
def backend() -> Iterator[FaultyBackend]:
    with FaultyBackend() as running:
        yield running
    assert running.problems == []


@pytest.fixture(scope="module")
def shared(backend: FaultyBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway for the tests that leave it as it was."""
    with running_gateway(configuration(backend), tmp_path_factory.mktemp("shared")) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway without backends, for the tests that leave another configuration in force, or other workers."""
    with running_gateway(configuration(), tmp_path_factory.mktemp("static")) as gateway:
        yield gateway
