"""Events whose backend is away, through a real gateway: kept, answered, and delivered later."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from hashlib import md5
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.server.kept import PATIENCE, configuration, store_pid, waiting, worker_pids
from tests.support.gateways import RunningGateway, running_gateway, wait_until
from tests.support.programs import free_port, require
from tests.support.spool_backend import EventBackend, Script
from tests.support.spool_load import EventLoad
from tests.support.spool_oracle import Crash, Received, judge

LATE_PHP: Final = Path(__file__).parent.parent / "tools" / "late.php"
EVENT: Final = "CallStatusEvent"
AWAY: Final = Script(up=False)
THERE: Final = Script()
APPS: Final = {"defaultApp": {"upstream": "php"}, "other": {"upstream": "php"}}


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventBackend]:
    with EventBackend(tmp_path_factory.mktemp("backend")) as running:
        yield running


def configured(backend: EventBackend, apps: dict[str, Any] | None = None, workers: int = 1) -> str:
    defaults = {"spool": {"max_age": "1h", "attempts": 2}, "timeout": "1s"}
    return configuration(backend, workers, defaults=defaults, apps=apps or APPS)


@pytest.fixture(scope="module")
def running(backend: EventBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_gateway(configured(backend), tmp_path_factory.mktemp("gateway")) as started:
        store_pid(started)
        yield started


@pytest.fixture
def gateway(running: RunningGateway, backend: EventBackend) -> Iterator[RunningGateway]:
    """With a backend that is there and a spool that is empty, before and afterwards."""
    yield running
    backend.follow(THERE)
    assert wait_until(lambda: waiting(running) == 0, PATIENCE)


def send(gateway: RunningGateway, event: str, call: str, app: str = "defaultApp", **headers: str) -> httpx.Response:
    body = json.dumps({"appKey": app, "callId": call, "id": event}).encode()
    answer = gateway.hook(EVENT, body, headers)
    if answer.status_code == 200 and "proxy-status" in answer.headers:
        assert answer.content == body
    return answer


def attempts(backend: EventBackend, *events: str) -> list[Received]:
    """What the backend got of these events, in its order."""
    return [received for received in backend.received() if received.id in events]


def delivered(backend: EventBackend, *events: str) -> list[str]:
    """Those of these events that the backend took, in its order, once all of them have come."""
    assert wait_until(
        lambda: set(events) <= {each.id for each in attempts(backend, *events) if each.status == 200}, PATIENCE
    )
    return [each.id for each in attempts(backend, *events) if each.status == 200]


def spool(gateway: RunningGateway, path: str) -> Any:
    answer = gateway.get(f"/api/spool{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_an_event_is_answered_because_it_is_kept_and_delivered_late(
    gateway: RunningGateway, backend: EventBackend
) -> None:
    backend.follow(AWAY)
    first, second = send(gateway, "late/1", "late"), send(gateway, "late/2", "late")
    assert [first.status_code, second.status_code] == [200, 200]
    assert first.headers["proxy-status"] == "gateway; error=connection_refused"
    line, behind = (gateway.access_line(answer.headers["x-request-id"]) for answer in (first, second))
    assert (line["verdict"], line["source"], line["reason"]) == ("allow", "spool", "unreachable")
    assert line["error"].startswith("kept for later delivery: ")
    assert (behind["source"], behind["reason"], behind["attempts"]) == ("spool", "backlog", 0)
    backend.follow(THERE)
    assert delivered(backend, "late/1", "late/2") == ["late/1", "late/2"]
    for answer, received in zip((first, second), attempts(backend, "late/1", "late/2"), strict=True):
        assert (received.redelivery, received.idempotency_key) == ("1", answer.headers["x-request-id"])
        assert received.event_time is not None
        assert received.event_time.endswith("Z")
    assert wait_until(lambda: waiting(gateway) == 0, PATIENCE)
    third = send(gateway, "late/3", "late")
    (direct,) = attempts(backend, "late/3")
    assert (direct.redelivery, direct.event_time) == (None, None)
    assert direct.idempotency_key == third.headers["x-request-id"]


def test_a_poison_event_becomes_a_dead_letter_and_its_call_goes_on(
    gateway: RunningGateway, backend: EventBackend
) -> None:
    backend.follow(AWAY)
    for number in (1, 2):
        assert send(gateway, f"poison/{number}", "poison").status_code == 200
    backend.follow(Script(poison={"poison/1": 500}))
    assert delivered(backend, "poison/2") == ["poison/2"]
    tried = attempts(backend, "poison/1", "poison/2")
    assert [(each.id, each.status) for each in tried] == [("poison/1", 500), ("poison/1", 500), ("poison/2", 200)]
    assert [each.redelivery for each in tried] == ["1", "2", "1"]
    (dead,) = spool(gateway, "/events?dead=true")["events"]
    assert (dead["call_id"], dead["last_error"]) == ("poison", "status 500")
    gateway.wait_for_line(lambda line: line.get("event") == "dead_letter")


def test_a_403_is_a_delivery(gateway: RunningGateway, backend: EventBackend) -> None:
    backend.follow(AWAY)
    assert send(gateway, "denied/1", "denied").status_code == 200
    backend.follow(Script(poison={"denied/1": 403}))
    assert wait_until(lambda: waiting(gateway) == 0 and attempts(backend, "denied/1"), PATIENCE)
    (received,) = attempts(backend, "denied/1")
    assert received.is_delivery


def test_the_media_server_s_repeats_are_kept_once(gateway: RunningGateway, backend: EventBackend) -> None:
    backend.follow(AWAY)
    for _ in range(3):
        assert send(gateway, "repeat/1", "repeat").status_code == 200
    backend.follow(THERE)
    assert delivered(backend, "repeat/1") == ["repeat/1"]
    assert wait_until(lambda: waiting(gateway) == 0, PATIENCE)
    assert len(attempts(backend, "repeat/1")) == 1


def test_events_of_an_app_that_was_renamed_stay_until_it_is_back(
    gateway: RunningGateway, backend: EventBackend
) -> None:
    backend.follow(AWAY)
    assert send(gateway, "renamed/1", "renamed", "other").status_code == 200
    assert send(gateway, "stayed/1", "stayed").status_code == 200
    gateway.reload(configured(backend, {"defaultApp": {"upstream": "php"}, "another": {"upstream": "php"}}))
    backend.follow(THERE)
    assert delivered(backend, "stayed/1") == ["stayed/1"]
    (app,) = [each for each in spool(gateway, "")["apps"] if each["app"] == "other"]
    assert (app["events"], app["configured"]) == (1, False)
    gateway.reload(configured(backend))
    assert delivered(backend, "renamed/1") == ["renamed/1"]


def test_an_upstream_that_was_renamed_gets_what_was_kept_for_the_old_one(
    gateway: RunningGateway, backend: EventBackend
) -> None:
    backend.follow(AWAY)
    assert send(gateway, "moved/1", "moved").status_code == 200
    config = json.loads(configured(backend))
    config["upstreams"] = {"new": config["upstreams"]["php"]}
    config["apps"] = {name: {"upstream": "new"} for name in APPS}
    gateway.reload(json.dumps(config))
    backend.follow(THERE)
    assert delivered(backend, "moved/1") == ["moved/1"]
    gateway.reload(configured(backend))


def test_where_the_commit_is_not_confirmed_the_fallback_answers_and_the_event_is_delivered_all_the_same(
    gateway: RunningGateway, backend: EventBackend
) -> None:
    backend.follow(AWAY)
    store = store_pid(gateway)
    os.kill(store, signal.SIGSTOP)
    try:
        answer = send(gateway, "unconfirmed/1", "unconfirmed")
    finally:
        os.kill(store, signal.SIGCONT)
    line = gateway.access_line(answer.headers["x-request-id"])
    assert (answer.status_code, line["source"], line["reason"]) == (403, "fallback", "unreachable")
    assert "could not be kept: the commit was not confirmed in time" in line["error"]
    assert line["duration_ms"] <= 1100  # its budget, and 100 ms
    backend.follow(THERE)
    assert delivered(backend, "unconfirmed/1") == ["unconfirmed/1"]


@pytest.mark.slow
def test_order_holds_across_two_workers_while_one_is_killed_and_the_configuration_is_reloaded(
    backend: EventBackend, tmp_path: Path
) -> None:
    with running_gateway(configured(backend, workers=2), tmp_path) as gateway:
        store_pid(gateway)
        backend.follow(AWAY)
        with EventLoad([gateway.hooks], calls=40, events=12, connections=8, pause=0.01, name="workers") as load:
            load.wait_for(160)
            backend.follow(Script(delay=0.005))
            load.wait_for(240)
            gateway.reload(configured(backend, {**APPS, "third": {"upstream": "php"}}, workers=2))
            load.wait_for(300)
            victim = worker_pids(gateway)[0]
            crash = Crash.by(lambda: os.kill(victim, signal.SIGKILL))
            load.wait_for(360)
            backend.follow(AWAY)
            load.wait_for(420)
            backend.follow(Script(delay=0.005))
            load.wait()
        assert wait_until(lambda: waiting(gateway) == 0, PATIENCE)
    mine = [each for each in backend.received() if each.id.startswith("workers")]
    found = judge(load.sent, mine, crashes=[crash])
    assert not found.violations, str(found)
    assert found.redelivered > 100
    assert load.statuses().get(403, 0) == 0


@pytest.mark.slow
def test_an_event_that_the_end_of_the_drain_cuts_off_is_kept_and_delivered_after_the_restart(
    backend: EventBackend, tmp_path: Path
) -> None:
    config = json.loads(configured(backend))
    config["server"]["drain_timeout"] = "1s"
    config["defaults"]["timeout"] = "10s"
    backend.follow(Script(delay=30.0))
    with running_gateway(json.dumps(config), tmp_path) as gateway:
        store_pid(gateway)
        answers: list[httpx.Response] = []
        sending = threading.Thread(target=lambda: answers.append(send(gateway, "cut/1", "cut")))
        sending.start()
        assert wait_until(lambda: attempts(backend, "cut/1"), PATIENCE)
        assert gateway.stop() == 0
        sending.join()
    assert [answer.status_code for answer in answers] == [200]
    backend.follow(THERE)
    with running_gateway(json.dumps(config), tmp_path):
        assert delivered(backend, "cut/1") == ["cut/1"]


@pytest.mark.real
def test_php_gets_late_events_byte_for_byte_with_what_it_needs_to_know_them(tmp_path: Path) -> None:
    php, port, log = require("php", "php-cli"), free_port(), tmp_path / "hooks.log"
    config = {
        "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
        "store": {"url": "sqlite:store.db"},
        "defaults": {"spool": "on"},
        "upstreams": {"php": {"url": f"http://127.0.0.1:{port}"}},
        "apps": {"a": {"upstream": "php", "credentials": {"username": "wcs", "password": "secret"}}},
    }
    bodies = [json.dumps({"appKey": "a", "callId": "c", "number": number}).encode() for number in range(5)]
    with running_gateway(json.dumps(config), tmp_path) as gateway:
        store_pid(gateway)
        answers = [gateway.hook(EVENT, body, {"Authorization": "Basic d2NzOnNlY3JldA=="}) for body in bodies]
        assert Counter(answer.status_code for answer in answers) == {200: 5}
        assert b"d2NzOnNlY3JldA" not in b"".join(path.read_bytes() for path in tmp_path.glob("store*"))
        server = subprocess.Popen(
            [php, "-S", f"127.0.0.1:{port}", str(LATE_PHP)],
            env={**os.environ, "HOOK_LOG": str(log)},
            stderr=subprocess.DEVNULL,
        )
        try:
            assert wait_until(lambda: log.exists() and len(log.read_text().splitlines()) == 5, PATIENCE)
            assert wait_until(lambda: waiting(gateway) == 0, PATIENCE)
        finally:
            server.kill()
            server.wait()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["bytes"] for line in lines] == [md5(body).hexdigest() for body in bodies]
    assert [line["idempotency_key"] for line in lines] == [answer.headers["x-request-id"] for answer in answers]
    assert {line["x_gateway_redelivery"] for line in lines} == {"1"}
    assert all(line["x_gateway_event_time"] for line in lines)
    assert {line["authorization"] for line in lines} == {"Basic d2NzOnNlY3JldA=="}
