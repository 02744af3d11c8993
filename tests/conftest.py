"""Fixtures that several modules share; a module's own fixture of the same name stands in its place."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.support.faulty import Certificates, make_certificates
from tests.support.gateways import RunningGateway, running_gateway
from tests.support.pacing import EMPTY, reloadable_gateway, take
from tests.support.secured import HANDSHAKE_LIMIT, Files, config

pytest_plugins = ["tests.support.loop"]


def pytest_configure() -> None:
    """A shell that starts the tests in the background has them ignore Ctrl-C, and so would each gateway of theirs."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway for all tests of a module."""
    with reloadable_gateway(tmp_path_factory.mktemp("process")) as running:
        yield running


@pytest.fixture
def gateway(process: RunningGateway) -> RunningGateway:
    """The module's gateway, with nothing left of what another test had configured; pacing.serve() configures it."""
    take(process, EMPTY)
    return process


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of the authority that everyone here trusts."""
    return make_certificates(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="session")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of another authority."""
    return make_certificates(tmp_path_factory.mktemp("theirs"))


@pytest.fixture(scope="module")
def mutual(ours: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway that asks for client certificates of our authority."""
    directory = tmp_path_factory.mktemp("mutual")
    files = Files(directory, ours.valid, ours.ca)
    with running_gateway(config(files.section, read_timeout=f"{HANDSHAKE_LIMIT}s"), directory) as running:
        yield running
