"""The versions of the tables, as the names of the migrations' files say them and as Alembic does."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gateway.store.engine import Part
from gateway.store.migrate import newest, scripts


@pytest.mark.parametrize("part", Part)
def test_the_newest_version_is_the_one_that_alembic_finds(part: Part) -> None:
    assert newest(part) == int(scripts(part).get_current_head())


def test_the_store_s_process_loads_neither_alembic_nor_what_reads_configurations_to_start() -> None:
    """It is to be back soon after its death."""
    program = "import sys, gateway.server.store_process; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", program], text=True).split()
    assert "sqlalchemy" in loaded
    assert not {"alembic", "yaml", "httpx", "gateway.config", "gateway.proxy"} & set(loaded)
