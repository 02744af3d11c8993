"""Two minutes of ``make chaos``: faults of all classes at once, and every hook judged.

CHAOS_SEED and CHAOS_SECONDS (of each half) make it another schedule, or a longer one.
"""

from __future__ import annotations

import os

import pytest

from tests.chaos.report import table
from tests.chaos.run import run

SEED = int(os.environ.get("CHAOS_SEED", "12"))
SECONDS = float(os.environ.get("CHAOS_SECONDS", "60"))
RATE = 80.0
"""Hooks a second: the machine may have something else to do."""


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_no_hook_is_lost_late_or_wrong_whatever_goes_on_and_nothing_is_left_behind(tls: bool) -> None:
    result = run(SECONDS, SEED, tls=tls, rate=RATE)
    shown = table([result])
    print(shown)
    assert result.violations.total == 0, f"seed {SEED}\n{shown}"
    assert result.hooks > SECONDS * RATE / 8
    assert result.steps > 1
