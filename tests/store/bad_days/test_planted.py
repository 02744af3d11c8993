"""The stage sees a gateway that breaks its promises: the same day, with a fault planted in the gateway itself."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.store.bad_days.stage import DOWN, UP, bad_day
from tests.support.spool_oracle import judge

pytestmark = pytest.mark.slow

OVERTAKES: Final = """
from gateway.store import backlog_table
backlog_table.BacklogTable.has_backlog = lambda self, key: False
"""
FORGETS_OUTCOMES: Final = """
from gateway.store import spool_keeper
def settle(self, outcome, done, real=spool_keeper.SpoolKeeper.settle, forgotten=set()):
    if outcome.id % 10 == 0 and outcome.id not in forgotten:
        forgotten.add(outcome.id)
        done()
    else:
        real(self, outcome, done)
spool_keeper.SpoolKeeper.settle = settle
"""
PROMISES_TOO_SOON: Final = """
from gateway.store import spool_keeper
def keep(self, event, done, real=spool_keeper.SpoolKeeper.keep, seen=[]):
    seen.append(event)
    if len(seen) % 10 == 0:
        done(None)
    else:
        real(self, event, done)
spool_keeper.SpoolKeeper.keep = keep
"""


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        pytest.param(OVERTAKES, "out_of_order", id="overtakes"),
        pytest.param(FORGETS_OUTCOMES, "doubled", id="forgets"),
        pytest.param(PROMISES_TOO_SOON, "lost", id="promises"),
        pytest.param("", None, id="none"),
    ],
)
def test_a_fault_of_the_gateway_is_seen(tmp_path: Path, fault: str, kind: str | None) -> None:
    (tmp_path / "sitecustomize.py").write_text(fault)  # Python's own start file
    with bad_day("planted", tmp_path) as day:
        upstreams = {
            "spooled": {"url": day.backend.url, "breaker": "off"},
            "beside": {"url": day.beside_backend.url},
        }
        config = day.config(upstreams=upstreams)
        with day.gateway(config, environment={"PYTHONPATH": str(tmp_path)}) as gateway:
            with day.load([gateway], calls=10, events=60, pause=0.01) as load:
                load.wait_for(100)
                day.backend.follow(DOWN)
                load.wait_for(350)
                day.backend.follow(UP)
            day.wait_until_delivered(10)
            found = judge(day.sent, day.backend.received())
    assert found.violations.keys() == ({kind} if kind else set()), found
