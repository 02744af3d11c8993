"""The spool as text: every state has words, nothing of a caller controls the terminal."""

from __future__ import annotations

from typing import Any

import pytest
from rich.text import Text

from gateway.cli import render_spool

UPSTREAM: dict[str, Any] = {
    "upstream": "php", "events": 40, "bytes": 8192, "dead": 0, "oldest": None, "oldest_age_seconds": 65.0,
    "next_attempt": None, "paused": False, "change_per_second": -2.0, "empty_in_seconds": 20.0,
}  # fmt: skip
APP: dict[str, Any] = {
    "app": "a", "events": 40, "bytes": 8192, "dead": 0, "oldest": None, "oldest_age_seconds": 65.0, "configured": True,
    "paused": False,
}  # fmt: skip
SPOOL: dict[str, Any] = {
    **{name: value for name, value in UPSTREAM.items() if name not in ("upstream", "next_attempt")},
    "time": "2026-11-30T15:00:00.000Z",
    "store": {
        "configured": True, "up": True, "error": None, "engine": "sqlite", "spool_bytes": 8192, "history_bytes": 1,
        "history_oldest": None,
    },
    "upstreams": [UPSTREAM], "apps": [APP],
}  # fmt: skip
DOWN = {**SPOOL, "store": {**SPOOL["store"], "up": False, "error": "the disk is \x1b[31mfull"}}
EVENT: dict[str, Any] = {
    "id": 7, "state": "queued", "app": "a", "method": "m", "upstream": "php", "request_id": "r", "call_id": "c\x1b[2J",
    "session_id": None, "received": "2026-11-30T15:00:00.000Z", "age_seconds": 61.0, "size": 100, "cause": "timeout",
    "expires": "2026-12-01T15:00:00.000Z", "error": "late", "attempts": 1, "last_error": "HTTP 500",
    "next_attempt": None, "client": "192.0.2.1", "query": "", "caller": None, "callee": None,
    "headers": [["a", "b"], ["c", "d\x07"]], "body": '{"x": "\u202e"}', "masked": False,
}  # fmt: skip


def text(spool: dict[str, Any]) -> str:
    return "\n".join(part.plain for part in render_spool.status(spool) if isinstance(part, Text))


@pytest.mark.parametrize(
    ("count", "shown"),
    [(None, "–"), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (102400, "100 KiB"), (5 * 2**30, "5.0 GiB"),
     (2**50, "1048576 GiB")],
)  # fmt: skip
def test_sizes(count: int | None, shown: str) -> None:
    assert render_spool.size(count) == shown


@pytest.mark.parametrize(
    ("spool", "shown"),
    [
        (SPOOL, "40 events wait (8.0 KiB), the oldest for 1 min 5 s"),
        ({**SPOOL, "events": 1, "dead": 2}, "1 event waits (8.0 KiB), the oldest for 1 min 5 s · 2 dead letters"),
        ({**SPOOL, "events": 0}, "0 events wait"),
        ({**SPOOL, "events": 0, "apps": [{**APP, "paused": True}]}, "0 events wait · paused"),
        ({**DOWN, "events": None}, r"DOWN: the disk is \x1b[31mfull"),
        (DOWN, r"DOWN: the disk is \x1b[31mfull · 40 events wait (8.0 KiB), the oldest for 1 min 5 s"),
        (
            {**SPOOL, "events": None, "store": {**SPOOL["store"], "configured": False}},
            "none is configured: no event is kept, decisions are found for about a minute",
        ),
    ],
)
def test_the_summary(spool: dict[str, Any], shown: str) -> None:
    assert render_spool.summary({"paused": False, **spool}).plain == shown


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, "empty in 20 s, at 2.0 events/s"),
        ({"change_per_second": None, "empty_in_seconds": None}, "unknown yet"),
        ({"change_per_second": 0.0, "empty_in_seconds": None}, "it does not shrink"),
        ({"change_per_second": 0.5, "empty_in_seconds": None}, "it grows"),
    ],
)
def test_the_forecast(changes: dict[str, Any], shown: str) -> None:
    assert render_spool.forecast({**SPOOL, **changes}).plain == shown


def test_what_an_operator_has_to_act_upon_is_said_with_its_command() -> None:
    gone = {**APP, "app": "old", "configured": False, "events": 3, "dead": 1}
    shown = text({**SPOOL, "paused": True, "apps": [gone, {**APP, "paused": True}]})
    assert "all redelivery is paused: gateway spool resume" in shown
    assert "app old is not in the configuration: 4 events not delivered; gateway spool drop --app old deletes" in shown
    assert "app a is paused: gateway spool resume --app a" in shown


def test_nothing_that_a_caller_sent_steers_the_terminal() -> None:
    shown = [render_spool.event_line(EVENT).plain, *(line.plain for line in render_spool.event_details(EVENT))]
    assert all(line.isprintable() for line in shown)
    assert r"call=c\x1b[2J  HTTP 500" in shown[0]
    assert "headers     a: b" in shown
    assert r"            c: d\x07" in shown
    assert shown[-1] == r'{"x": "\u202e"}'


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, "state       queued: an earlier event of its call is first"),
        ({"state": "dead"}, "state       dead letter: not tried again by itself"),
        ({"masked": True}, "body        numbers are pseudonyms, secrets ***; --unmasked shows it as it came"),
        ({"body": None}, "body        too large to be masked; --unmasked shows it"),
        ({"caller": "****56"}, "caller      ****56"),
        ({"next_attempt": "2026-11-30T15:00:00.000Z"}, "next        2026-11-30 "),
    ],
)
def test_an_event_in_full(changes: dict[str, Any], shown: str) -> None:
    assert any(line.plain.startswith(shown) for line in render_spool.event_details({**EVENT, **changes}))
