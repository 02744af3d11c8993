"""What ``gateway check`` says about the store: what it keeps, what it lacks, and nothing where nothing can be kept."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from gateway.cli.describe_store import store_summary
from gateway.config import loads

STORE: Final = "store: {url: 'sqlite:/tmp/store.db'}\n"
APPS: Final = "upstreams: {u: {url: http://h}}\napps: {a: {upstream: u}, b: {upstream: u}}\n"
HINT: Final = [
    "",
    "Nothing is kept: events that no backend takes are lost, and decisions are found for about a minute.",
    '  To keep both, write store: {url: "sqlite:store.db"}, history: {}, and spool: on under defaults.',
]


def told(text: str) -> list[str]:
    return list(store_summary(loads(text)))


def test_without_a_store_it_says_what_is_missing_once() -> None:
    assert told(APPS) == HINT


def test_what_the_hint_says_can_be_written(tmp_path: Path) -> None:
    text = 'store: {url: "sqlite:store.db"}\nhistory: {}\ndefaults: {spool: on}\n' + APPS
    loaded = loads(text, str(tmp_path / "gateway.yaml"))
    assert loaded.config.settings("a", "CallStatusEvent").spool is not None
    assert [it for it in loaded.warnings if it.path.startswith(("store", "history"))] == []


@pytest.mark.parametrize("text", ["apps: {a: {static: reject}}\n", "log: {level: info}\n"])
def test_where_no_backend_is_asked_there_is_no_hint(text: str) -> None:
    assert told(text) == []


def test_the_store_is_shown_without_its_password_and_with_what_it_keeps() -> None:
    text = "store: {url: 'postgresql://gw:hunter2@db/wcs'}\nhistory: {keep: 90d}\n" + APPS
    assert told(text) == [
        "",
        "store: postgresql://gw:***@db/wcs",
        "  history       decisions are kept for 90d, if allowed as usual for 24h, in at most 2GiB, without bodies",
        "                nobody can be found by number: history.key is not set",
    ]
    assert len(told(text.replace("90d", "90d, key: 0123456789abcdef"))) == 3


ANY: Final = [
    "  answers       any 2xx to an event means delivered, even an error page; if your backend answers events",
    "                with JSON, event_answers: strict keeps such events too: ",
]


@pytest.mark.parametrize(
    ("settings", "apps"),
    [
        ("defaults: {spool: on}\n", "a, b"),
        ("defaults: {spool: on, event_answers: strict}\n", ""),
        ("defaults: {spool: on, event_answers: any}\n", ""),
        ("defaults: {spool: on, methods: {event: {event_answers: any}}}\n", ""),
        ("defaults: {spool: on, methods: {CallStatusEvent: {spool: off}}}\n", ""),
    ],
)
def test_strict_answers_are_recommended_until_somebody_has_decided(settings: str, apps: str) -> None:
    assert told(STORE + settings + APPS)[2:] == ([ANY[0], ANY[1] + apps] if apps else [])
