"""Several targets, attempts inside one deadline, and the breaker: what becomes of hooks when backends fail."""

from __future__ import annotations

import functools
import itertools
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
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
    configuration,
    hook_body,
    leaving,
    open_files,
    reloadable_gateway,
    serve,
    take,
    targets,
    volley,
)

FOREVER = "1h"
ALL_KINDS = ["connect", "reset", "timeout", "error_status", "bad_answer"]


@pytest.fixture
def backend() -> Iterator[PacedBackend]:
    with PacedBackend() as running:
        yield running


def hook(gateway: RunningGateway, app: str = "a", method: str = "OnCallEvent") -> Answered:
    (answer,) = volley(gateway, [hook_body(app)], method)
    return answer


def has_had(backend: PacedBackend, count: int) -> bool:
    return backend.count >= count


def line_of(gateway: RunningGateway, answer: Answered) -> dict[str, Any]:
    """The access line of a hook."""
    return gateway.wait_for_line(lambda line: line.get("request_id") == answer.headers["x-request-id"])


def told(gateway: RunningGateway, answer: Answered) -> tuple[str, str, int]:
    """Verdict, reason and attempts, as logged."""
    line = line_of(gateway, answer)
    return line["verdict"], line["reason"], line["attempts"]


def open_breaker(gateway: RunningGateway, upstream: str = "u") -> None:
    """Send hooks until the target is ejected."""

    def ejected() -> bool:
        hook(gateway)
        return gateway.metric("gateway_target_up", upstream=upstream) == 0

    assert wait_until(ejected)


# --- balancing ---


def test_targets_get_hooks_by_their_weight(gateway: RunningGateway) -> None:
    with backends(2) as (heavy, light):
        weighted = [{"url": heavy.url, "weight": 3}, {"url": light.url}]
        serve(gateway, {"u": {"targets": weighted}}, {"a": {"upstream": "u"}})
        assert [hook(gateway).status for _ in range(40)] == [200] * 40
        assert (heavy.count, light.count) == (30, 10)


def test_a_backup_is_asked_only_while_no_other_target_can_be(gateway: RunningGateway) -> None:
    with backends(3) as (first, second, backup):
        upstream = {
            "targets": [*targets(first, second), {"url": backup.url, "backup": True}],
            "breaker": {"failures": 2, "open_for": "100ms"},
            "retry": {"attempts": 3},
        }
        serve(gateway, {"u": upstream}, {"a": {"upstream": "u"}})
        assert [hook(gateway).status for _ in range(10)] == [200] * 10
        assert (first.count, second.count, backup.count) == (5, 5, 0)
        first.kill()
        assert [hook(gateway).status for _ in range(10)] == [200] * 10
        assert backup.count == 0
        second.kill()
        assert [hook(gateway).status for _ in range(10)] == [200] * 10
        assert backup.count == 10
        first.revive()
        assert wait_until(lambda: hook(gateway).status == 200 and first.count > 5)
        served = backup.count
        assert [hook(gateway).status for _ in range(10)] == [200] * 10
        assert backup.count == served


def test_least_in_flight_passes_a_busy_target_over(gateway: RunningGateway) -> None:
    with backends(2) as (one, other):
        upstream = {"targets": targets(one, other), "balance": "least_in_flight"}
        serve(gateway, {"u": upstream}, {"a": {"upstream": "u", "timeout": "14s"}})
        one.mode = other.mode = Mode.HOLD
        held = Volley(gateway, [hook_body("a")])
        assert wait_until(lambda: one.held + other.held == 1)
        busy, free = (one, other) if one.held else (other, one)
        free.mode = Mode.OK
        assert [hook(gateway).status for _ in range(6)] == [200] * 6
        assert (busy.count, free.count) == (1, 6)
        busy.release()
        assert [answer.status for answer in held.answers()] == [200]


# --- attempts ---


def test_no_hook_is_lost_when_one_of_two_targets_dies_under_load(gateway: RunningGateway) -> None:
    with backends(2) as pair:
        serve(gateway, {"u": {"targets": targets(*pair)}}, {"a": {"upstream": "u", "timeout": "10s"}})
        # Every connection has been used before: what dies with a connection's first hook may have been acted on.
        for backend in pair:
            backend.mode = Mode.HOLD
        warm = Volley(gateway, [hook_body("a") for _ in range(16)])
        assert wait_until(lambda: [backend.held for backend in pair] == [8, 8])
        for backend in pair:
            backend.release()
        assert [answer.status for answer in warm.answers()] == [200] * 16
        for backend in pair:
            backend.delay = 0.005
        with Callers(gateway.hooks, "a", 8) as load:
            assert wait_until(lambda: len(load.answers) >= 100)
            pair[0].kill()
            served = pair[1].count
            assert wait_until(lambda: pair[1].count >= served + 200)
            load.stop()
        assert load.statuses().keys() == {200}
        assert gateway.metric("gateway_target_up", target=pair[0].name) == 0
        assert gateway.metric("gateway_target_up", target=pair[1].name) == 1


def test_a_hook_goes_to_every_untried_target_before_one_is_tried_again(gateway: RunningGateway) -> None:
    with backends(3) as (dead, gone, alive):
        upstream = {"targets": targets(dead, gone, alive), "breaker": "off", "retry": {"attempts": 3}}
        serve(gateway, {"u": upstream}, {"a": {"upstream": "u"}})
        dead.kill()
        gone.kill()
        answers = [hook(gateway) for _ in range(12)]
        assert [answer.status for answer in answers] == [200] * 12
        attempts = [line_of(gateway, answer)["attempts"] for answer in answers]
        assert set(attempts) <= {1, 2, 3}
        assert gateway.metric("gateway_upstream_attempts_total", upstream="u", outcome="ok") == 12
        assert gateway.metric("gateway_upstream_attempts_total", upstream="u", outcome="unreachable") == (
            sum(attempts) - 12
        )
        assert gateway.metric("gateway_upstream_retries_total", upstream="u", cause="unreachable") == sum(attempts) - 12


def test_a_hook_refused_by_the_only_target_is_tried_there_again(gateway: RunningGateway, backend: PacedBackend) -> None:
    serve(gateway, {"u": {"url": backend.url, "breaker": "off"}}, {"a": {"upstream": "u"}})
    backend.kill()
    assert told(gateway, hook(gateway)) == ("reject", "unreachable", 2)
    assert gateway.metric("gateway_upstream_attempts_total", target=backend.name, outcome="unreachable") == 2
    assert gateway.metric("gateway_upstream_retries_total", upstream="u", cause="unreachable") == 1


def test_an_app_and_a_method_may_have_their_own_retry(gateway: RunningGateway, backend: PacedBackend) -> None:
    apps: dict[str, dict[str, Any]] = {
        "a": {"upstream": "u"},
        "once": {"upstream": "u", "retry": {"attempts": 1}, "methods": {"connect": {"retry": {"attempts": 4}}}},
    }
    serve(gateway, {"u": {"url": backend.url, "breaker": "off", "retry": {"attempts": 3}}}, apps)
    backend.kill()
    sent = [("a", "OnCallEvent"), ("once", "OnCallEvent"), ("once", "connect")]
    attempts = [line_of(gateway, hook(gateway, app, method))["attempts"] for app, method in sent]
    assert attempts == [3, 1, 4]


FAILURES = {
    "reset": (Mode.RESET, "unreachable"),
    "timeout": (Mode.HOLD, "timeout"),
    "error_status": (Mode.ERROR, "error_status"),
    "bad_answer": (Mode.HTML, "bad_answer"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_hook_that_may_have_been_acted_on_is_sent_again_only_where_that_is_asked_for(
    gateway: RunningGateway, kind: str
) -> None:
    mode, reason = FAILURES[kind]
    with backends(2) as (bad, good):
        bad.mode = mode
        plain = {"targets": targets(bad, good), "breaker": "off", "keepalive": "off"}
        asked = {**plain, "retry": {"attempts": 2, "on": [kind]}}
        others = {**plain, "retry": {"attempts": 2, "on": [other for other in ALL_KINDS if other != kind]}}
        timeout = "2s" if kind == "timeout" else "14s"
        apps = {name: {"upstream": name, "timeout": timeout} for name in ("plain", "others", "asked")}
        serve(gateway, {"plain": plain, "others": others, "asked": asked}, apps)
        for app in ("plain", "others"):
            answers = [hook(gateway, app) for _ in range(2)]
            assert {told(gateway, answer) for answer in answers} == {("reject", reason, 1), ("allow", "ok", 1)}
            assert (bad.count_of(app), good.count_of(app)) == (1, 1)
        answers = [hook(gateway, "asked") for _ in range(2)]
        assert {told(gateway, answer) for answer in answers} == {("allow", "ok", 1), ("allow", "ok", 2)}
        assert (bad.count_of("asked"), good.count_of("asked")) == (1, 2)
        cause = "unreachable" if kind == "reset" else kind
        assert gateway.metric("gateway_upstream_retries_total", upstream="asked") == 1
        assert gateway.metric("gateway_upstream_retries_total", upstream="asked", cause=cause) == 1


def test_a_refusal_is_final_whatever_retry_says(gateway: RunningGateway) -> None:
    with backends(2) as pair:
        upstream = {"targets": targets(*pair), "retry": {"attempts": 5, "on": ALL_KINDS}}
        serve(gateway, {"u": upstream}, {"a": {"upstream": "u"}})
        for backend in pair:
            backend.mode = Mode.DENY
        assert {told(gateway, hook(gateway)) for _ in range(8)} == {("reject", "denied", 1)}
        assert sum(backend.count for backend in pair) == 8


def test_each_attempt_is_told_what_is_left_of_the_budget(gateway: RunningGateway) -> None:
    with backends(2) as pair:
        upstream = {"targets": targets(*pair), "retry": {"attempts": 2, "on": ["error_status"]}}
        serve(gateway, {"u": upstream}, {"a": {"upstream": "u", "timeout": "5s"}})
        for backend in pair:
            backend.mode, backend.delay = Mode.ERROR, 0.2
        assert told(gateway, hook(gateway)) == ("reject", "error_status", 2)
        first, second = sorted((request.told_ms for backend in pair for request in backend.hooks), reverse=True)
        assert second <= first - 190
        assert 0 < second < first <= 5000


def test_a_hook_that_had_to_queue_is_told_what_is_left_after_it(gateway: RunningGateway, backend: PacedBackend) -> None:
    serve(gateway, {"u": {"url": backend.url, "max_connections": 1}}, {"a": {"upstream": "u", "timeout": "10s"}})
    backend.mode = Mode.HOLD
    held = Volley(gateway, [hook_body("a")])
    assert wait_until(lambda: backend.held == 1)
    queued = Volley(gateway, [hook_body("a")])
    assert wait_until(lambda: gateway.metric("gateway_hooks_in_flight", app="a") == 2)
    time.sleep(0.3)
    backend.release()
    assert [answer.status for answer in (*held.answers(), *queued.answers())] == [200, 200]
    assert backend.hooks[1].told_ms <= 9700 + 10


def test_all_attempts_end_within_the_one_budget(gateway: RunningGateway) -> None:
    with backends(2) as pair:
        upstream = {"targets": targets(*pair), "breaker": "off", "retry": {"attempts": 10, "on": ALL_KINDS}}
        serve(gateway, {"u": upstream}, {"a": {"upstream": "u", "timeout": "600ms"}})
        for backend in pair:
            backend.mode = Mode.HOLD
        line = line_of(gateway, hook(gateway))
        assert (line["verdict"], line["reason"]) == ("reject", "timeout")
        assert line["attempts"] > 1
        assert line["duration_ms"] < 3000  # ten attempts with a budget each would take 6 s


def test_the_log_names_the_target_that_decided(gateway: RunningGateway) -> None:
    with backends(2) as (dead, alive):
        serve(gateway, {"u": {"targets": targets(dead, alive), "breaker": "off"}}, {"a": {"upstream": "u"}})
        dead.kill()
        lines = [line_of(gateway, hook(gateway)) for _ in range(4)]
        assert [(line["upstream"], line["target"]) for line in lines] == [("u", alive.name)] * 4
        assert Counter(line["attempts"] for line in lines) == {1: 2, 2: 2}


# --- the breaker ---


def test_once_the_only_target_is_known_to_hang_the_verdict_comes_without_asking_it(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    upstream = {"url": backend.url, "breaker": {"failures": 3, "open_for": FOREVER}}
    serve(gateway, {"u": upstream}, {"a": {"upstream": "u", "timeout": "1s"}})
    backend.mode = Mode.HOLD
    assert [told(gateway, hook(gateway)) for _ in range(3)] == [("reject", "timeout", 1)] * 3
    answers = [hook(gateway) for _ in range(10)]
    assert {told(gateway, answer) for answer in answers} == {("reject", "unreachable", 0)}
    assert {answer.proxy_error for answer in answers} == {"destination_unavailable"}
    assert backend.count == 3
    assert gateway.metric("gateway_target_up", upstream="u", target=backend.name) == 0
    assert gateway.metric("gateway_target_ejections_total", upstream="u", target=backend.name) == 1


def test_a_hung_target_gets_no_more_than_one_probe_each_open_for(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    upstream = {"url": backend.url, "breaker": {"failures": 2, "open_for": "300ms"}}
    serve(gateway, {"u": upstream}, {"a": {"upstream": "u", "timeout": "100ms"}}, log={"access": "off"})
    backend.mode = Mode.HOLD
    open_breaker(gateway)
    began, asked = time.monotonic(), backend.count
    with Callers(gateway.hooks, "a", 4):
        assert wait_until(lambda: backend.count >= asked + 4)
        probes = backend.count - asked
        elapsed = time.monotonic() - began
    assert probes <= elapsed / 0.3 + 2
    assert backend.most_in_hand <= 1


def test_while_a_probe_is_under_way_the_other_hooks_do_not_wait_for_it(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    upstream = {"url": backend.url, "breaker": {"failures": 1, "open_for": "100ms"}}
    serve(gateway, {"u": upstream}, {"a": {"upstream": "u", "timeout": "10s"}})
    backend.mode = Mode.UNAVAILABLE
    assert hook(gateway).status == 403
    backend.mode = Mode.HOLD
    probe: list[Volley] = []

    def probed() -> bool:
        probe.append(Volley(gateway, [hook_body("a")]))
        return bool(wait_until(lambda: backend.held or probe[-1].is_over) and backend.held)

    assert wait_until(probed)
    assert {told(gateway, hook(gateway)) for _ in range(5)} == {("reject", "unreachable", 0)}
    backend.release()
    assert [answer.status for answer in probe[-1].answers()] == [200]
    assert {told(gateway, hook(gateway)) for _ in range(5)} == {("allow", "ok", 1)}


def test_a_target_that_is_back_serves_every_hook_again(gateway: RunningGateway, backend: PacedBackend) -> None:
    upstream = {"url": backend.url, "breaker": {"failures": 2, "open_for": "200ms"}}
    serve(gateway, {"u": upstream}, {"a": {"upstream": "u"}})
    backend.kill()
    open_breaker(gateway)
    backend.revive()
    assert wait_until(lambda: hook(gateway).status == 200)
    assert {told(gateway, hook(gateway)) for _ in range(8)} == {("allow", "ok", 1)}
    assert gateway.metric("gateway_target_up", upstream="u") == 1


def events(gateway: RunningGateway, target: str) -> list[tuple[str, str | None]]:
    """What the log tells of this target's coming and going: event and app."""
    lines = [line for line in gateway.lines() if str(line.get("event")).startswith("target_")]
    return [(line["event"], line.get("app")) for line in lines if line["target"] == target]


def test_the_log_tells_once_that_a_target_is_ejected_and_once_that_it_is_back(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    upstream = {"url": backend.url, "breaker": {"failures": 2, "open_for": "100ms"}, "retry": {"attempts": 1}}
    serve(gateway, {"u": upstream}, {"a": {"upstream": "u"}})
    backend.kill()
    open_breaker(gateway)
    ejected = gateway.metric("gateway_target_ejections_total", upstream="u")
    assert wait_until(
        lambda: hook(gateway).status and gateway.metric("gateway_target_ejections_total", upstream="u") >= ejected + 3
    )
    assert wait_until(lambda: events(gateway, backend.name))
    assert events(gateway, backend.name) == [("target_ejected", None)]
    backend.revive()
    assert wait_until(lambda: hook(gateway).status == 200)
    assert wait_until(lambda: len(events(gateway, backend.name)) > 1)
    assert events(gateway, backend.name) == [("target_ejected", None), ("target_back", None)]
    (line,) = [line for line in gateway.lines() if f"{backend.name} is restored" in line.get("message", "")]
    assert re.fullmatch(r"u: target \S+ is restored, after \d+\.\d s", line["message"])
    assert line["level"] == "warning"


def test_the_log_tells_that_a_target_is_back_which_an_operator_has_restored(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    upstream = {"url": backend.url, "breaker": {"failures": 2, "open_for": FOREVER}, "retry": {"attempts": 1}}
    serve(gateway, {"u": upstream}, {"a": {"upstream": "u"}})
    backend.kill()
    open_breaker(gateway)
    assert gateway.post(f"/api/upstreams/u/{backend.name}/restore").json()["result"] == "restored"
    assert wait_until(lambda: len(events(gateway, backend.name)) > 1)
    assert events(gateway, backend.name) == [("target_ejected", None), ("target_back", None)]


def test_the_log_tells_for_which_app_a_target_is_closed_and_back(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    upstream = {"url": backend.url, "breaker": {"failures": 2, "open_for": "100ms"}, "retry": {"attempts": 1}}
    serve(gateway, {"u": upstream}, {"a": {"upstream": "u", "timeout": "100ms"}, "b": {"upstream": "u"}})
    backend.mode = Mode.HOLD
    assert wait_until(lambda: hook(gateway).status == 403 and events(gateway, backend.name))
    backend.mode = Mode.OK
    assert wait_until(lambda: hook(gateway).status == 200)
    assert wait_until(lambda: len(events(gateway, backend.name)) > 1)
    assert events(gateway, backend.name) == [("target_closed", "a"), ("target_back", "a")]


@pytest.mark.parametrize("mode", [Mode.DENY, Mode.HTML, Mode.ERROR])
def test_sixty_answers_in_a_row_that_are_no_yes_eject_nobody(
    gateway: RunningGateway, backend: PacedBackend, mode: Mode
) -> None:
    serve(gateway, {"u": {"url": backend.url}}, {"a": {"upstream": "u"}})
    backend.mode = mode
    assert {hook(gateway).status for _ in range(60)} == {403}
    assert backend.count == 60
    assert gateway.metric("gateway_target_ejections_total", upstream="u") == 0
    backend.mode = Mode.OK
    assert hook(gateway).status == 200


@pytest.mark.parametrize("mode", [Mode.BAD_GATEWAY, Mode.UNAVAILABLE, Mode.GATEWAY_TIMEOUT])
def test_a_target_that_says_nobody_is_behind_it_is_ejected(
    gateway: RunningGateway, backend: PacedBackend, mode: Mode
) -> None:
    serve(gateway, {"u": {"url": backend.url, "breaker": {"open_for": FOREVER}}}, {"a": {"upstream": "u"}})
    backend.mode = mode
    reasons = [told(gateway, hook(gateway))[1] for _ in range(7)]
    assert reasons == ["error_status"] * 5 + ["unreachable"] * 2
    assert backend.count == 5


def test_a_client_that_leaves_says_nothing_of_the_target(gateway: RunningGateway, backend: PacedBackend) -> None:
    upstream = {"url": backend.url, "breaker": {"failures": 2, "open_for": FOREVER}}
    serve(gateway, {"u": upstream}, {"a": {"upstream": "u", "timeout": "14s"}})
    backend.mode = Mode.HOLD
    for _ in range(10):
        arrived = backend.count
        with leaving(gateway, hook_body("a")):
            assert wait_until(functools.partial(has_had, backend, arrived + 1))
    backend.release()
    assert wait_until(lambda: gateway.metric("gateway_hooks_in_flight", app="a") == 0)
    assert gateway.metric("gateway_target_ejections_total", upstream="u") == 0
    assert told(gateway, hook(gateway)) == ("allow", "ok", 1)


def test_a_target_that_answers_half_of_its_hooks_is_better_than_none(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    upstream = {"url": backend.url, "retry": {"attempts": 8, "on": ["connect", "reset"]}}
    serve(gateway, {"u": upstream}, {"a": {"upstream": "u", "timeout": "14s"}}, log={"access": "off"})
    backend.delay = 0.1
    assert hook(gateway).status == 200
    backend.lose = lambda number: number % 2 == 0
    with Callers(gateway.hooks, "a", 8) as load:
        assert wait_until(lambda: len(load.answers) >= 100)
        load.stop()
    assert gateway.metric("gateway_target_ejections_total", upstream="u") == 0
    assert load.statuses()[200] >= 0.9 * len(load.answers)


def test_a_target_that_loses_most_answers_is_left_out_where_another_gives_all(
    gateway: RunningGateway,
) -> None:
    with backends(2) as (half, whole):
        upstream = {"targets": targets(half, whole), "keepalive": "off", "breaker": {"open_for": FOREVER}}
        serve(gateway, {"u": upstream}, {"a": {"upstream": "u", "timeout": "14s"}}, log={"access": "off"})
        half.lose = lambda number: number % 3 > 0
        with Callers(gateway.hooks, "a", 4):
            assert wait_until(lambda: gateway.metric("gateway_target_up", target=half.name) == 0)
        assert {hook(gateway).status for _ in range(20)} == {200}
        assert gateway.metric("gateway_target_up", target=whole.name) == 1


def test_where_the_breaker_is_off_every_hook_is_tried(gateway: RunningGateway, backend: PacedBackend) -> None:
    upstream = {"url": backend.url, "breaker": "off", "retry": {"attempts": 1}}
    serve(gateway, {"u": upstream}, {"a": {"upstream": "u"}})
    backend.kill()
    assert {told(gateway, hook(gateway)) for _ in range(10)} == {("reject", "unreachable", 1)}
    assert gateway.metric("gateway_upstream_attempts_total", upstream="u", outcome="unreachable") == 10
    assert gateway.metric("gateway_target_up", upstream="u") == 1
    backend.revive()
    assert hook(gateway).status == 200


# --- reload ---


def test_a_reload_leaves_an_open_breaker_open(gateway: RunningGateway, backend: PacedBackend) -> None:
    upstream = {"url": backend.url, "breaker": {"failures": 2, "open_for": FOREVER}}
    serve(gateway, {"u": upstream}, {"a": {"upstream": "u"}})
    backend.mode = Mode.UNAVAILABLE
    open_breaker(gateway)
    asked = backend.count
    serve(gateway, {"u": {**upstream, "connect_timeout": "1s"}}, {"a": {"upstream": "u", "timeout": "1s"}})
    assert told(gateway, hook(gateway)) == ("reject", "unreachable", 0)
    assert backend.count == asked
    assert gateway.metric("gateway_target_up", upstream="u") == 0
    assert gateway.metric("gateway_target_ejections_total", upstream="u") == 1


def test_a_reload_keeps_connections_and_counts_of_hooks_in_flight(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    app = {"upstream": "u", "timeout": "14s", "max_in_flight": 2}
    serve(gateway, {"u": {"url": backend.url}}, {"a": app})
    backend.mode = Mode.HOLD
    held = Volley(gateway, [hook_body("a") for _ in range(2)])
    assert wait_until(lambda: backend.held == 2)
    serve(gateway, {"u": {"url": backend.url, "keepalive": "50s"}}, {"a": {**app, "timeout": "13s"}})
    assert gateway.metric("gateway_hooks_in_flight", app="a") == 2
    assert gateway.metric("gateway_target_connections", upstream="u") == 2
    assert told(gateway, hook(gateway)) == ("reject", "overload", 0)
    backend.release()
    assert [answer.status for answer in held.answers()] == [200, 200]
    assert [hook(gateway).status for _ in range(4)] == [200] * 4
    assert {request.connection for request in backend.hooks} == {1, 2}
    assert gateway.metric("gateway_hooks_in_flight", app="a") == 0


def test_a_target_that_a_reload_removes_finishes_its_hooks_and_is_closed(gateway: RunningGateway) -> None:
    with backends(2) as (stays, goes):
        apps = {"a": {"upstream": "u", "timeout": "14s"}}
        serve(gateway, {"u": {"targets": targets(stays, goes)}}, apps)
        goes.mode = Mode.HOLD
        held = Volley(gateway, [hook_body("a") for _ in range(4)])
        assert wait_until(lambda: goes.held == 2)
        report = take(gateway, configuration({"u": {"targets": targets(stays)}}, apps))
        assert report["changes"] == ["upstream u changed"]
        assert [hook(gateway).status for _ in range(4)] == [200] * 4
        assert goes.count == 2
        goes.release()
        assert [answer.status for answer in held.answers()] == [200] * 4
        assert wait_until(lambda: f'target="{goes.name}"' not in gateway.get("/metrics").text)
        assert wait_until(lambda: not goes.is_connected)


# --- afterwards ---


def test_after_a_storm_of_retries_and_timeouts_nothing_stays_open(tmp_path: Path) -> None:
    with backends(3) as (dead, hung, broken), reloadable_gateway(tmp_path) as gateway:
        upstream = {
            "targets": targets(dead, hung, broken),
            "breaker": "off",
            "max_connections": 8,
            "keepalive": "100ms",
            "retry": {"attempts": 6, "on": ALL_KINDS},
        }
        serve(gateway, {"u": upstream}, {"a": {"upstream": "u", "timeout": "400ms"}}, log={"access": "off"})
        dead.kill()
        hung.mode, broken.mode = Mode.HOLD, Mode.RESET
        assert wait_until(lambda: gateway.metric("gateway_target_connections", upstream="u") == 0)
        at_rest = open_files(gateway)
        answers = list(itertools.chain(*(volley(gateway, [hook_body("a") for _ in range(40)]) for _ in range(3))))
        assert {answer.status for answer in answers} == {403}
        assert wait_until(lambda: gateway.metric("gateway_hooks_in_flight", app="a") == 0)
        assert wait_until(lambda: gateway.metric("gateway_target_connections", upstream="u") == 0)
        assert wait_until(lambda: open_files(gateway) <= at_rest)
        for backend in (hung, broken):
            backend.release()
        dead.revive()
        assert {hook(gateway).status for _ in range(20)} == {200}
