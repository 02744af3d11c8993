"""What ``gateway check`` and ``gateway status`` say about the state."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.cli.describe_state import limits_line, state_line, state_summary
from gateway.config import loads

SHARED = [
    "  shared        rate_limit, max_in_flight and max_connections hold for all replicas together; sessions; what",
    "                operators eject, restore, pause and resume",
]


def test_without_a_state_there_is_nothing_to_say() -> None:
    assert list(state_summary(loads("log: {level: info}"))) == []
    assert state_line({"state": None}) is None


def test_it_says_what_is_shared_and_not_the_password() -> None:
    text = "state: {url: 'redis://u:s3cret@h:1/2'}"
    assert list(state_summary(loads(text))) == [
        "", "state: redis://u:***@h:1/2", *SHARED,
        "  duplicates    are found within one replica only (dedupe: off)",
    ]  # fmt: skip


def test_it_says_what_dedupe_costs() -> None:
    text = "state: {url: 'redis://h', dedupe: on, timeout: 3ms}"
    assert list(state_summary(loads(text)))[-1] == (
        "  duplicates    of connect and OnCallEvent are found at all replicas; each waits up to 3ms for the server"
    )


@pytest.mark.parametrize(
    ("state", "line"),
    [
        ({"up": True, "error": None, "replicas": 1}, "up, 1 replica"),
        ({"up": True, "error": "it answers later than 2ms", "replicas": 3},
         "up, 3 replicas · slow: it answers later than 2ms"),
        ({"up": False, "error": "it refuses connections", "replicas": 3},
         "AWAY: it refuses connections; hooks are decided without it, 3 replicas as last known"),
    ],
)  # fmt: skip
def test_the_line_of_status(state: dict[str, Any], line: str) -> None:
    found = state_line({"state": state})
    assert found is not None
    assert found.plain == line


EVENLY = {"degraded": False, "divided_by": 4, "shares": []}
SHARES = [
    {"app": "a", "setting": "rate_limit", "share": 62.5, "limit": 100.0},
    {"app": "b", "setting": "max_in_flight", "share": 9.0, "limit": 20.0},
]


@pytest.mark.parametrize(
    ("limits", "line"),
    [
        (EVENLY, "1/4 of each"),
        ({**EVENLY, "divided_by": 1}, "not divided: it is the only replica"),
        (
            {**EVENLY, "shares": SHARES},
            "1/4 of each · a: 62.5/s, of 100/s for the fleet · b: 9 in flight, of 20 in flight for the fleet",
        ),
        ({**EVENLY, "degraded": True}, "the last shares are kept while the state is away: 1/4 of each"),
    ],
)
def test_the_shares_in_status(limits: dict[str, Any], line: str) -> None:
    found = limits_line({"state": {"limits": limits}})
    assert found is not None
    assert found.plain == line


@pytest.mark.parametrize("status", [{}, {"state": None}, {"state": {"up": True}}])
def test_without_a_fleet_there_are_no_shares(status: dict[str, Any]) -> None:
    assert limits_line(status) is None
