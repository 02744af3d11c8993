"""Where the lines of a test are written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.telemetry.log.lines import Sink


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Sink]:
    made = Sink(tmp_path / "log")
    yield made
    made.writer.close()
    os.close(made.fd)
