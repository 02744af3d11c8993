"""Hooks through a real gateway are found in its history, by those who may ask, after it has ended too."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic import SecretStr

from gateway.model.hooks import field_text
from gateway.policy.history import HistorySettings
from gateway.store.decisions import DecodedDecision, decode_decision
from gateway.store.engine import open_databases
from gateway.store.history import History
from gateway.store.requests import HistoryFilter
from tests.support.gateways import RunningGateway, running_gateway, wait_until
from tests.support.programs import free_port

KEY: Final = "a key that nobody guesses"
CALLER: Final = "+493012345"


def configuration(directory: Path, workers: int, **history: Any) -> str:
    config = {
        "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "workers": workers},
        "store": {"url": f"sqlite:{directory}/store.db"},
        "history": {"key": KEY, **history},
        "upstreams": {"gone": {"url": f"http://127.0.0.1:{free_port()}"}},
        "apps": {"static": {"static": "allow"}, "failing": {"upstream": "gone"}},
    }
    return json.dumps(config)


def send(gateway: RunningGateway, app: str, call: str) -> str:
    """Send a hook; its request id."""
    body = json.dumps({"appKey": app, "callId": call, "caller": CALLER, "callee": "1000"}).encode()
    answer = gateway.hook(body=body, headers={"x-request-id": f"id-{app}-{call}"})
    assert answer.status_code in (200, 403)
    return f"id-{app}-{call}"


def wait_until_kept(gateway: RunningGateway) -> None:
    """Until the store's process has opened the database."""
    gateway.wait_for_line(lambda line: line.get("event") == "history_up", 30.0)


def kept(directory: Path, **wanted: Any) -> list[DecodedDecision]:
    """What is in the file, read without the gateway."""
    databases = open_databases(f"sqlite:{directory}/store.db")
    try:
        with databases.history.read() as connection:
            history = History(HistorySettings(key=SecretStr(KEY)), ("caller", "callee"))
            page = history.search(connection, HistoryFilter(**wanted), limit=1000, bodies=True)
    finally:
        databases.close()
    return [decode_decision(each) for each in page.decisions]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_every_decision_outlasts_the_gateway(tmp_path: Path, workers: int) -> None:
    with running_gateway(configuration(tmp_path, workers, bodies="failures"), tmp_path) as gateway:
        sent = [send(gateway, app, f"c{n}") for n in range(10) for app in ("static", "failing")]
        wait_until_kept(gateway)  # what came before waits for it
        sent += [send(gateway, app, f"c{n}") for n in range(10, 20) for app in ("static", "failing")]
    found = kept(tmp_path)
    assert [each.decision.request_id for each in found] == sent[::-1]
    assert len({each.revision for each in found}) == 1
    assert found[0].revision
    assert {each.decision.request_id for each in kept(tmp_path, caller="0049 30 12345")} == set(sent)
    assert [each.decision.request_id for each in kept(tmp_path, call_id="c0")] == ["id-failing-c0", "id-static-c0"]
    failed, allowed = kept(tmp_path, call_id="c0")
    assert failed.decision.hook is not None
    assert field_text(failed.decision.hook.caller) == "********45"
    assert failed.decision.ruling.reason == "unreachable"
    assert [attempt.outcome for attempt in failed.decision.story][:1] == ["unreachable"]
    assert b'"c0"' in failed.decision.body
    assert allowed.decision.body == b""
    assert CALLER.encode() not in (tmp_path / "store.history.db").read_bytes()


@pytest.mark.slow
def test_a_running_gateway_finds_what_a_gateway_before_it_has_decided(tmp_path: Path) -> None:
    text = configuration(tmp_path, 1)
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    with running_gateway(text, one) as gateway:
        send(gateway, "failing", "c1")
        wait_until_kept(gateway)
    with running_gateway(text, other) as gateway:

        def decisions() -> list[dict[str, Any]]:
            answer = gateway.get("/api/decisions", params={"call_id": "c1", "since": "2d"})
            return list(answer.json().get("decisions", []))

        wait_until(lambda: bool(decisions()), 10.0)
        (shown,) = decisions()
        assert shown["request_id"] == "id-failing-c1"
        assert shown["caller"] == "********45"
        assert gateway.metric("gateway_history_dropped_total") == 0


@pytest.mark.slow
def test_without_a_history_nothing_is_kept(tmp_path: Path) -> None:
    text = json.loads(configuration(tmp_path, 1))
    del text["history"]
    with running_gateway(json.dumps(text), tmp_path) as gateway:
        send(gateway, "static", "c1")
    file = tmp_path / "store.history.db"
    if file.exists():
        with closing(sqlite3.connect(file)) as connection:
            assert connection.execute("SELECT count(*) FROM history_block").fetchone() == (0,)


@pytest.mark.slow
def test_a_reload_turns_it_on_and_off(tmp_path: Path) -> None:
    with_history = json.loads(configuration(tmp_path, 1))
    with_history["server"] |= {"listen": f"127.0.0.1:{free_port()}", "admin": f"127.0.0.1:{free_port()}"}
    without = {key: value for key, value in with_history.items() if key != "history"}
    with running_gateway(json.dumps(without), tmp_path) as gateway:
        wait_until_kept(gateway)
        send(gateway, "static", "off")
        gateway.reload(json.dumps(with_history))
        send(gateway, "static", "on")
        gateway.reload(json.dumps(without))
        send(gateway, "static", "off-again")
    assert [each.decision.request_id for each in kept(tmp_path)] == ["id-static-on"]
