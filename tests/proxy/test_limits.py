"""Limits, queues and isolation: what one hook too many meets, and that it costs nobody else."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.support.gateways import RunningGateway, wait_until
from tests.support.pacing import (
    Answered,
    Callers,
    Mode,
    PacedBackend,
    Volley,
    backends,
    hook_body,
    open_files,
    serve,
    volley,
)

LONG = "14s"


@pytest.fixture
def backend() -> Iterator[PacedBackend]:
    with PacedBackend() as running:
        yield running


def hooks(app: str, count: int) -> list[bytes]:
    return [hook_body(app) for _ in range(count)]


def reasons(gateway: RunningGateway, answers: Sequence[Answered]) -> Counter[str]:
    """Why the hooks were decided as they were, by the log."""
    wanted = {answer.headers["x-request-id"] for answer in answers}
    found: list[dict[str, Any]] = []

    def logged() -> bool:
        found[:] = [line for line in gateway.lines() if line.get("request_id") in wanted]
        return len(found) == len(wanted)

    assert wait_until(logged)
    return Counter(line["reason"] for line in found)


def inside(gateway: RunningGateway, app: str, count: int) -> bool:
    return bool(wait_until(lambda: gateway.metric("gateway_hooks_in_flight", app=app) == count))


# --- the queue for a target's connections ---


def test_hooks_past_max_connections_wait_and_are_served_first_come_first_served(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    serve(gateway, {"u": {"url": backend.url, "max_connections": 1}}, {"a": {"upstream": "u", "timeout": LONG}})
    backend.mode = Mode.HOLD
    sent = hooks("a", 6)
    waiting = []
    for number, body in enumerate(sent, 1):
        waiting.append(Volley(gateway, [body]))
        assert inside(gateway, "a", number)
    assert wait_until(lambda: backend.held == 1)
    assert backend.count == 1
    backend.release()
    assert [answer.status for one in waiting for answer in one.answers()] == [200] * 6
    assert [request.body for request in backend.hooks] == sent


def test_a_target_never_has_more_hooks_than_max_connections(gateway: RunningGateway, backend: PacedBackend) -> None:
    serve(gateway, {"u": {"url": backend.url, "max_connections": 3}}, {"a": {"upstream": "u", "timeout": LONG}})
    backend.delay = 0.01
    assert {answer.status for answer in volley(gateway, hooks("a", 60))} == {200}
    assert backend.most_in_hand == 3
    assert backend.accepted == 3


def test_a_hook_that_could_not_be_answered_in_time_is_not_kept_waiting(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    serve(gateway, {"u": {"url": backend.url, "max_connections": 1}}, {"a": {"upstream": "u", "timeout": "3s"}})
    backend.delay = 0.75
    assert [answer.status for _ in range(3) for answer in volley(gateway, hooks("a", 1))] == [200] * 3
    answers = volley(gateway, hooks("a", 12))
    why = reasons(gateway, answers)
    assert why["overload"] >= 8  # four times 750 ms are all of three seconds
    assert why["ok"] >= 1
    refused = [answer for answer in answers if answer.status == 403]
    assert {answer.proxy_error for answer in refused} <= {"connection_limit_reached", "http_response_timeout"}
    assert {answer.status for answer in volley(gateway, hooks("a", 1))} == {200}


def test_a_hook_that_had_to_queue_has_its_whole_time_to_connect(gateway: RunningGateway, backend: PacedBackend) -> None:
    upstream = {"url": backend.url, "max_connections": 1, "keepalive": "off", "connect_timeout": "1s"}
    serve(gateway, {"u": upstream}, {"a": {"upstream": "u", "timeout": LONG}})
    backend.mode = Mode.HOLD
    held = Volley(gateway, hooks("a", 2))
    assert inside(gateway, "a", 2)
    time.sleep(1.2)  # longer than connect_timeout
    backend.release()
    assert [answer.status for answer in held.answers()] == [200, 200]
    assert gateway.metric("gateway_upstream_attempts_total", upstream="u", outcome="unreachable") == 0


def test_a_full_queue_is_no_failure_of_the_target(gateway: RunningGateway, backend: PacedBackend) -> None:
    upstream = {"url": backend.url, "max_connections": 1, "breaker": {"failures": 2, "open_for": "1h"}}
    apps = {"long": {"upstream": "u", "timeout": LONG}, "a": {"upstream": "u", "timeout": "2s"}}
    serve(gateway, {"u": upstream}, apps)
    backend.mode = Mode.HOLD
    held = Volley(gateway, hooks("long", 1))
    assert wait_until(lambda: backend.held == 1)
    assert reasons(gateway, volley(gateway, hooks("a", 10))) == {"overload": 10}
    backend.release()
    assert [answer.status for answer in held.answers()] == [200]
    assert gateway.metric("gateway_target_ejections_total", upstream="u") == 0
    assert {answer.status for answer in volley(gateway, hooks("a", 1))} == {200}


def test_at_twice_the_capacity_the_backend_goes_on_answering_what_it_can(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    connections, delay = 4, 0.1
    upstream = {"url": backend.url, "max_connections": connections}
    serve(gateway, {"u": upstream}, {"a": {"upstream": "u", "timeout": "1s"}}, log={"access": "off"})
    backend.delay = delay
    began = time.monotonic()
    with Callers(gateway.hooks, "a", rate=2 * connections / delay) as storm:
        assert wait_until(lambda: len(storm.answers) >= 240, 30)
        elapsed = time.monotonic() - began
        busy = backend.worked / connections / elapsed
        offered = len(storm.answers) / elapsed * delay / connections
        storm.stop()
    assert storm.statuses().keys() == {200, 403}
    # Shares, not rates: a slow machine gets less done, but neither leaves the backend idle nor has it work in vain.
    assert busy >= 0.7 * min(1.0, offered)
    assert storm.statuses()[200] >= 0.8 * backend.count
    assert gateway.metric("gateway_target_ejections_total", upstream="u") == 0
    assert {answer.status for answer in volley(gateway, hooks("a", 4))} == {200}


# --- limits on hooks inside ---


def test_past_an_apps_max_in_flight_hooks_are_refused_at_once_and_other_apps_are_not(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    apps: dict[str, dict[str, Any]] = {
        "a": {"upstream": "u", "timeout": LONG, "max_in_flight": 50},
        "b": {"upstream": "u", "timeout": LONG},
    }
    serve(gateway, {"u": {"url": backend.url, "max_connections": 200}}, apps)
    backend.apps["a"] = Mode.HOLD
    storm = Volley(gateway, hooks("a", 200))
    assert wait_until(lambda: backend.held == 50)
    overload = {"app": "a", "reason": "overload", "source": "fallback", "verdict": "reject"}
    assert wait_until(lambda: gateway.metric("gateway_hooks_total", **overload) == 150)
    assert {answer.status for answer in volley(gateway, hooks("b", 20))} == {200}
    assert backend.count_of("a") == 50
    backend.release()
    answers = storm.answers()
    assert Counter(answer.status for answer in answers) == {200: 50, 403: 150}
    assert {answer.proxy_error for answer in answers if answer.status == 403} == {"connection_limit_reached"}
    assert {answer.status for answer in volley(gateway, hooks("a", 50))} == {200}


def test_past_the_servers_max_in_flight_hooks_are_refused_at_once(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    apps: dict[str, dict[str, Any]] = {"a": {"upstream": "u", "timeout": LONG}, "static": {"static": "allow"}}
    serve(gateway, {"u": {"url": backend.url}}, apps, server={"max_in_flight": 5})
    backend.mode = Mode.HOLD
    held = Volley(gateway, hooks("a", 5))
    assert wait_until(lambda: backend.held == 5)
    assert reasons(gateway, volley(gateway, hooks("a", 10))) == {"overload": 10}
    assert {answer.status for answer in volley(gateway, hooks("static", 1))} == {200}
    backend.release()
    assert [answer.status for answer in held.answers()] == [200] * 5
    assert {answer.status for answer in volley(gateway, hooks("a", 5))} == {200}


def test_fallback_may_let_pass_what_a_limit_keeps_from_the_backend(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    app = {"upstream": "u", "timeout": LONG, "max_in_flight": 1, "fallback": {"overload": "allow"}}
    serve(gateway, {"u": {"url": backend.url}}, {"a": app})
    backend.mode = Mode.HOLD
    held = Volley(gateway, hooks("a", 1))
    assert wait_until(lambda: backend.held == 1)
    sent = hooks("a", 3)
    answers = volley(gateway, sent)
    assert [(answer.status, answer.body) for answer in answers] == [(200, body) for body in sent]
    assert reasons(gateway, answers) == {"overload": 3}
    assert backend.count == 1
    backend.release()
    assert [answer.status for answer in held.answers()] == [200]


# --- isolation ---


def test_an_app_whose_hooks_hang_leaves_the_others_connections_to_a_backend_they_share(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    apps = {"hung": {"upstream": "u", "timeout": LONG}, "well": {"upstream": "u", "timeout": LONG}}
    serve(gateway, {"u": {"url": backend.url, "max_connections": 12}}, apps)
    backend.apps["hung"] = Mode.HOLD
    storm = Volley(gateway, hooks("hung", 60))
    assert inside(gateway, "hung", 60)
    assert wait_until(lambda: backend.held_of("hung") >= 6)
    for _ in range(5):
        assert {answer.status for answer in volley(gateway, hooks("well", 8))} == {200}
    assert backend.held_of("hung") < 12
    backend.release()
    assert Counter(answer.status for answer in storm.answers()) == {200: 60}


def test_time_outs_of_one_app_eject_no_target_that_answers_another_meanwhile(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    apps = {"hung": {"upstream": "u", "timeout": "400ms"}, "well": {"upstream": "u", "timeout": LONG}}
    upstream = {"url": backend.url, "max_connections": 30, "breaker": {"open_for": "1h"}}
    serve(gateway, {"u": upstream}, apps, log={"access": "off"})
    backend.apps["hung"] = Mode.HOLD
    backend.delay = 0.02
    with Callers(gateway.hooks, "hung", 30) as storm, Callers(gateway.hooks, "well", 2) as steady:
        assert wait_until(lambda: len(storm.answers) >= 60)
        steady.stop()
        storm.stop()
    assert storm.statuses().keys() == {403}
    assert steady.statuses().keys() == {200}
    assert gateway.metric("gateway_target_ejections_total", upstream="u") == 0


def test_an_app_whose_hooks_hang_does_not_lock_another_out_of_a_backend_they_share(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    apps = {"hung": {"upstream": "u", "timeout": "200ms"}, "well": {"upstream": "u", "timeout": LONG}}
    serve(gateway, {"u": {"url": backend.url, "breaker": {"open_for": "1h"}}}, apps, log={"access": "off"})
    backend.apps["hung"] = Mode.HOLD
    for _ in range(4):
        assert {answer.status for answer in volley(gateway, hooks("hung", 4))} == {403}
    assert {answer.status for answer in volley(gateway, hooks("well", 4))} == {200}


def test_a_hung_backend_is_nothing_to_the_apps_of_another(gateway: RunningGateway) -> None:
    with backends(2) as (hung, well):
        upstreams = {"hung": {"url": hung.url, "breaker": "off"}, "well": {"url": well.url}}
        apps = {"hung": {"upstream": "hung", "timeout": "500ms"}, "well": {"upstream": "well", "timeout": LONG}}
        serve(gateway, upstreams, apps, log={"access": "off"})
        hung.mode = Mode.HOLD
        with Callers(gateway.hooks, "hung", rate=200) as storm, Callers(gateway.hooks, "well", 2) as steady:
            assert wait_until(lambda: len(storm.answers) >= 300 and len(steady.answers) >= 100)
            storm.stop()
            steady.stop()
        assert storm.statuses().keys() == {403}
        assert steady.statuses().keys() == {200}
        assert well.count == len(steady.answers)


# --- afterwards ---


def test_after_a_storm_of_overload_nothing_stays_open(gateway: RunningGateway, backend: PacedBackend) -> None:
    upstream = {"url": backend.url, "max_connections": 4, "keepalive": "100ms", "breaker": "off"}
    apps = {name: {"upstream": "u", "timeout": "300ms"} for name in "ab"} | {"c": {"upstream": "u", "timeout": LONG}}
    serve(gateway, {"u": upstream}, apps, log={"access": "off"})
    at_rest = open_files(gateway)
    backend.delay = 0.02
    backend.apps["b"] = Mode.HOLD
    for _ in range(3):
        bodies = itertools.chain.from_iterable(zip(hooks("a", 40), hooks("b", 40), strict=True))
        assert {answer.status for answer in volley(gateway, list(bodies))} <= {200, 403}
    assert wait_until(lambda: gateway.metric("gateway_hooks_in_flight") == 0)
    assert wait_until(lambda: gateway.metric("gateway_target_connections", upstream="u") == 0)
    assert wait_until(lambda: open_files(gateway) <= at_rest)
    backend.release()
    backend.delay = 0
    assert {answer.status for answer in volley(gateway, hooks("c", 20))} == {200}
    assert json.loads(volley(gateway, hooks("c", 1))[0].body)["from"] == backend.port
